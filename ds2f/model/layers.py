"""The small layers: convolution over frequency and time, lookahead, clipping, dropout; and where utterances end."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ds2f import rng

CEILING = 20.0  # of the clipped ReLU


class Frames(NamedTuple):
    """Which frames of a padded batch belong to its utterances; made once per batch and shared by the layers."""

    padding: Tensor  # [T, B] bool: true past an utterance's end
    reversal: Tensor  # [T * B] int64: the permutation of (time, utterance) rows that turns every utterance round


def frames(lengths: Tensor, size: int) -> Frames:
    """Derives masks and the reversal from lengths, on their device and without reading them on the host.

    Args:
      lengths: [B] integers, frames.
      size: T, the padded length, frames.

    Returns:
      ``Frames`` for time-major data. The reversal maps frame t of an utterance to frame length - 1 - t and leaves its
      padding in place, so it is its own inverse.
    """
    time = torch.arange(size, device=lengths.device)[:, None]
    padding = time >= lengths
    source = torch.where(padding, time, lengths - 1 - time)
    batch = lengths.shape[0]
    return Frames(padding, (source * batch + torch.arange(batch, device=lengths.device)).flatten())


def reverse(x: Tensor, frames: Frames) -> Tensor:
    """Turns every utterance of ``x`` [T, B, C] round in time, its padding staying behind it."""
    # Whole rows of one flattened axis: a gather over [T, B, C] is several times slower on the CPU.
    return x.flatten(0, 1).index_select(0, frames.reversal).view_as(x)


def zero_padding(x: Tensor, padding: Tensor) -> Tensor:
    """Sets ``x`` to zero where ``padding``, broadcast to it, is true, whatever it held there (NaN included)."""
    return torch.where(padding, 0.0, x)  # one pass, where masked_fill copies first


def conv2d(
    params: dict[str, Tensor],
    x: Tensor,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dtype: torch.dtype,
    innermost: bool = False,
) -> Tensor:
    """Convolves over (frequency, time) in ``dtype``: [B, C, F, T] to [B, C', F', T'].

    ``innermost`` lays channels innermost in memory, where oneDNN takes two thirds of the time; vmap does not know it.
    """
    weight, bias, x = params["weight"].to(dtype), params["bias"].to(dtype), x.to(dtype)
    if innermost:  # contiguous() would leave a single channel as it is
        weight, x = (part.to(memory_format=torch.channels_last) for part in (weight, x))
    return F.conv2d(x, weight, bias, stride=stride, padding=padding)


def clip(x: Tensor) -> Tensor:
    """Clips to [0, 20], the ReLU of the Deep Speech papers; the gradient is zero at and beyond both ends."""
    return F.hardtanh(x, 0.0, CEILING)


def lookahead(params: dict[str, Tensor], x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Mixes into every unit a weighted sum of its own next frames.

    Args:
      params: ``weight`` [H, 1, context]; entry k weighs the frame k later, entry 0 the frame itself.
      x: [T, B, H], zero past each utterance's end.
      dtype: dtype to compute in.

    Returns:
      [T, B, H] in ``dtype``; frames after the last count as zero.

    Source: Wang et al. 2016, "Lookahead Convolution Layer for Unidirectional Recurrent Neural Networks"; without bias,
    as deepspeech.pytorch does.
    """
    weight = params["weight"].to(dtype)
    by_unit = F.pad(x.to(dtype).permute(1, 2, 0), (0, weight.shape[-1] - 1))
    return F.conv1d(by_unit, weight, groups=weight.shape[0]).permute(2, 0, 1)


def dropout(x: Tensor, *, rate: float, key: int, same_frames: bool = False) -> Tensor:
    """Zeroes elements with probability ``rate`` and scales the others by 1 / (1 - rate).

    Args:
      x: [T, B, C].
      rate: in [0, 1).
      key: decides which.
      same_frames: drops a unit of an utterance at all of its frames or at none (variational dropout: Gal and Ghahramani
        2016, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks").
    """
    shape = (1, *x.shape[1:]) if same_frames else x.shape
    draws = torch.rand(shape, generator=rng.generator(key, x.device), dtype=torch.float32, device=x.device)
    keep = draws >= rate
    return x * keep / (1 - rate)
