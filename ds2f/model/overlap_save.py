"""A convolution over (frequency, time) whose time axis is computed in the Fourier domain, block by block: overlap-save.

    X = D x;  W = E w;  Y_r = convolution over frequency of X_r with W_r, for each r;  y = I Y

``D``, ``E`` and ``I`` are constant matrices: the discrete Fourier transform, with real parts, imaginary parts and sums
of both as rows, and its inverse. A complex product then takes three real products, Y_r. For 11 taps in time, all
products together are a quarter of the direct convolution's. The result is the same up to rounding. All operators are
torch's, and so are their derivatives.

Source: Stockham 1966, "High-speed convolution and correlation"; Karatsuba and Ofman 1962 for the three products.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Array = npt.NDArray[Any]

_BLOCK = 80  # input frames of a block, at most: more cost more to transform, and of fewer the overlap is a larger part
_REPAID = 128  # output frames of a batch; in smaller batches, transforming the weights costs more than it saves


class _Transforms(NamedTuple):
    """Constant matrices for blocks of M output frames from N input frames; R products: 1 of the mean, 3 a frequency."""

    forward: Array  # D, [R, N / step]
    kernel: Array  # E, [R, taps]
    phases: Array  # [taps, step]: which of the input frames that lie in one output frame a tap reads
    inverse: Array  # I, [M, R]


def repays(x: Tensor, weight: Tensor, *, stride: int, padding: int) -> bool:
    """Whether ``conv2d`` computes this, with stride and padding in time, and is faster than the direct convolution."""
    supported = x.dtype is torch.float32 and weight.shape[3] == 2 * padding + 1
    return supported and weight.shape[1] > 1 and x.shape[0] * x.shape[3] >= _REPAID * stride


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, *, stride: tuple[int, int], padding: int) -> Tensor:
    """Convolves as ``torch.nn.functional.conv2d`` that is padded in time by half of the kernel, up to rounding.

    Args:
      x: [B, C, F, T]; fast in channels-last memory format.
      weight: [C', C, kernel F, kernel T], the kernel odd in time.
      bias: [C'].
      stride: of (frequency, time).
      padding: zeros before and after in frequency.

    Returns:
      [B, C', F', T'] in channels-last memory format, T' = T / stride, rounded up.
    """
    batch, channels, rows, frames = x.shape
    step, taps, size = stride[1], weight.shape[3], -(-frames // stride[1])
    blocks = max(1, -(-frames // _BLOCK))
    block = -(-size // blocks)
    transforms = _transforms(block, taps, step)
    read, products = transforms.forward.shape[1] * step, len(transforms.forward)
    before = -(-(taps // 2) // step) * step
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, before, (blocks - 1) * block * step + read - before - frames))
    x = x.unfold(2, read, block * step).permute(0, 2, 1, 4, 3).contiguous()  # [B, blocks, F, N, C]
    # The input frames of one output frame lie side by side, like channels.
    x = _on_each(transforms.forward, x.view(-1, read // step, step * channels))
    x = x.view(batch * blocks, 1, rows, -1).permute(0, 3, 1, 2)
    w = weight.permute(3, 0, 2, 1)[:, :, :, None] * _as(weight, transforms.phases)[:, None, None, :, None]
    w = (
        (_as(weight, transforms.kernel) @ w.flatten(1))
        .view(-1, 1, weight.shape[2], step * channels)
        .permute(0, 3, 1, 2)
    )
    y = F.conv2d(x, w, stride=(1, stride[0]), padding=(0, padding), groups=products)
    y = y.permute(0, 2, 3, 1).unflatten(3, (products, -1))  # [B * blocks, 1, F', R, C']
    y = _on_each(transforms.inverse, y.flatten(0, 2)).view(batch, blocks, y.shape[2], block, -1)
    return (y.transpose(1, 2).flatten(2, 3)[:, :, :size] + bias).permute(0, 3, 1, 2)


def _on_each(matrix: Array, x: Tensor) -> Tensor:
    """The product of one matrix [M, N] with each of ``x`` [.., N, C]."""
    return torch.bmm(_as(x, matrix).expand(len(x), *matrix.shape), x)


def _as(like: Tensor, matrix: Array) -> Tensor:
    return torch.from_numpy(matrix).to(like)


@functools.lru_cache(maxsize=256)
def _transforms(block: int, taps: int, step: int) -> _Transforms:
    """The transforms for blocks of ``block`` output frames; arrays, since tensors would belong to the caller's mode."""
    offsets = np.arange(taps) - taps // 2  # of input frames from the output frame's own
    places = offsets // step
    before, after = -places.min(), places.max()
    size = block + before + after
    size += 1 - size % 2  # a transform of odd size has one real frequency, the mean
    frequencies = 2 * np.pi / size * np.arange((size + 1) // 2)[:, None]
    angles = frequencies * np.arange(before, before + block)
    cosine, sine = 2 / size * np.cos(angles), 2 / size * np.sin(angles)
    return _Transforms(
        forward=_rows(-frequencies * np.arange(size)),
        kernel=_rows(frequencies * places),
        phases=(offsets % step)[:, None] == np.arange(step),
        inverse=np.concatenate([cosine[:1] / 2, (cosine + sine)[1:], (sine - cosine)[1:], -sine[1:]]).T.copy(),
    )


def _rows(angles: Array) -> Array:
    """exp(i angles), angles [K, N]: real parts, imaginary parts and sums of both, [1 + 3 (K - 1), N]."""
    real, imaginary = np.cos(angles), np.sin(angles)
    return np.concatenate([real, imaginary[1:], (real + imaginary)[1:]])
