"""Layers without state: convolution, lookahead, clipping, dropout; masks and reversal of padded batches."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ds2f import rng
from ds2f.model import overlap_save

CEILING = 20.0  # of the clipped ReLU


class Frames(NamedTuple):
    """Mask and reversal of a padded batch; computed once per batch and shared by the layers."""

    padding: Tensor  # [T, B] bool: true past an utterance's end
    reversal: Tensor  # [T * B] int64: the permutation of (time, utterance) rows that reverses every utterance in time


def frames(lengths: Tensor, size: int) -> Frames:
    """Derives mask and reversal from lengths, on their device. Nothing is read on the host.

    Args:
      lengths: [B] integers, frames.
      size: T, the padded length, frames.

    Returns:
      ``Frames`` for time-major data. The reversal maps frame t of an utterance to frame length - 1 - t and leaves its
      padding in place, so it is its own inverse.

    >>> frames(torch.tensor([3, 1]), size=3).padding.T
    tensor([[False, False, False],
            [False,  True,  True]])
    """
    time = torch.arange(size, device=lengths.device)[:, None]
    padding = time >= lengths
    source = torch.where(padding, time, lengths - 1 - time)
    batch = lengths.shape[0]
    return Frames(padding, (source * batch + torch.arange(batch, device=lengths.device)).flatten())


def reverse(x: Tensor, frames: Frames) -> Tensor:
    """Reverses every utterance of ``x`` [T, B, C] in time; its padding stays at the end.

    >>> x = torch.tensor([[1.0, 4.0], [2.0, 0.0], [3.0, 0.0]])[:, :, None]  # utterances of 3 frames and 1 frame
    >>> reverse(x, frames(torch.tensor([3, 1]), size=3))[:, :, 0]
    tensor([[3., 4.],
            [2., 0.],
            [1., 0.]])
    """
    # index_select copies whole rows of one flattened axis. A gather over [T, B, C] is several times slower on the CPU.
    return x.flatten(0, 1).index_select(0, frames.reversal).view_as(x)


def zero_padding(x: Tensor, padding: Tensor) -> Tensor:
    """Sets ``x`` to zero where ``padding``, broadcast to ``x``, is true; NaN becomes zero too."""
    return torch.where(padding, 0.0, x)  # one pass over memory; masked_fill copies first


def conv2d(
    params: dict[str, Tensor],
    x: Tensor,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dtype: torch.dtype,
    fused: bool = False,
) -> Tensor:
    """Convolves over (frequency, time).

    Args:
      params: ``weight`` [C', C, kernel F, kernel T] and ``bias`` [C'].
      x: [B, C, F, T].
      stride: of (frequency, time).
      padding: zeros before and after (frequency, time).
      dtype: dtype to compute in.
      fused: use torch's channels-last memory format, in which oneDNN takes two thirds of the time, and in float32
        ``overlap_save`` for batches that repay its transforms. Not supported under vmap.

    Returns:
      [B, C', F', T'] in ``dtype``.
    """
    weight, bias, x = params["weight"].to(dtype), params["bias"].to(dtype), x.to(dtype)
    if not fused:
        return F.conv2d(x, weight, bias, stride=stride, padding=padding)
    if overlap_save.repays(x, weight, stride=stride[1], padding=padding[1]):
        return overlap_save.conv2d(x, weight, bias, stride=stride, padding=padding[0])
    # contiguous() would not change the layout of a single channel
    weight, x = (part.to(memory_format=torch.channels_last) for part in (weight, x))
    return F.conv2d(x, weight, bias, stride=stride, padding=padding)


def clip(x: Tensor) -> Tensor:
    """Clips to [0, 20]: the ReLU of the Deep Speech papers. The gradient is zero at and beyond both ends."""
    return F.hardtanh(x, 0.0, CEILING)


def lookahead(params: dict[str, Tensor], x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Replaces every unit's value by a weighted sum of the unit's current and next frames.

    Args:
      params: ``weight`` [H, 1, context]; entry k is the weight of the frame k later, entry 0 of the current frame.
      x: [T, B, H], zero past each utterance's end.
      dtype: dtype to compute in.

    Returns:
      [T, B, H] in ``dtype``; frames after the last frame count as zero.

    Source: Wang et al. 2016, "Lookahead Convolution Layer for Unidirectional Recurrent Neural Networks"; without bias,
    as in deepspeech.pytorch.
    """
    weight = params["weight"].to(dtype)
    by_unit = F.pad(x.to(dtype).permute(1, 2, 0), (0, weight.shape[-1] - 1))
    return F.conv1d(by_unit, weight, groups=weight.shape[0]).permute(2, 0, 1)


def dropout(x: Tensor, *, rate: float, key: int, same_frames: bool = False) -> Tensor:
    """Zeroes elements with probability ``rate`` and scales the others by 1 / (1 - rate).

    Args:
      x: [T, B, C].
      rate: in [0, 1).
      key: random key of the mask.
      same_frames: use one mask for all frames of an utterance: variational dropout (Gal and Ghahramani 2016, "A
        Theoretically Grounded Application of Dropout in Recurrent Neural Networks").
    """
    shape = (1, *x.shape[1:]) if same_frames else x.shape
    draws = torch.rand(shape, generator=rng.generator(key, x.device), dtype=torch.float32, device=x.device)
    keep = draws >= rate
    return x * keep / (1 - rate)
