"""Batch norm in training, clipping and zeros in the padding as one operator with its own backward pass.

It is defined as ``batch_norm.batch_norm``, ``layers.clip`` and ``layers.zero_padding`` and takes half their time.
Synchronised batch norm cannot use it: there, the all-reduce of the moments has to be differentiated.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ds2f.model.batch_norm import EPS
from ds2f.model.layers import CEILING
from ds2f.types import Moments


def normalise(
    params: dict[str, Tensor], x: Tensor, padding: Tensor, *, axis: int, dtype: torch.dtype, clipped: bool
) -> tuple[Tensor, Moments]:
    """Normalises each channel by the batch's moments over valid frames. First derivatives only, no vmap.

    Args:
      params: ``scale`` and ``bias`` [C].
      x: [B, C, F, T] with channels on axis 1, or [T, B, C] with channels on axis 2; finite in the padding too.
      padding: bool, broadcastable to ``x``, with as many dimensions and size 1 on ``axis``; true in the padding.
      axis: the axis of the channels.
      dtype: dtype of the result; the arithmetic is at least float32.
      clipped: clip the result to [0, 20] and set its padding to zero. Otherwise the padding has arbitrary values.

    Returns:
      The normalised ``x`` and the batch's moments, detached.
    """
    y, count, mean, m2, *_ = _Norm.apply(x, params["scale"], params["bias"], padding, axis, dtype, clipped)
    return y, Moments(count, mean, m2)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, scale: Tensor, bias: Tensor, padding: Tensor, axis: int, dtype: torch.dtype, clipped: bool
    ) -> tuple[Tensor, ...]:
        wide = torch.promote_types(x.dtype, torch.float32)
        shape = [-1 if dim == axis else 1 for dim in range(x.dim())]
        others = [dim for dim in range(x.dim()) if dim != axis]
        # Multiplying by a mask of zeros and ones is several times faster than torch.where on a boolean mask.
        valid = (~padding).to(wide)
        count = valid.sum() * math.prod(x.shape[dim] for dim in others if padding.shape[dim] == 1)
        mean = (x * valid).sum(others) / count.clamp(min=1)
        centred = (x - mean.view(shape)).mul_(valid)
        m2 = centred.square().sum(others)
        factor = scale.to(wide) * torch.rsqrt(m2 / count.clamp(min=1) + EPS)
        y = torch.addcmul(bias.to(wide).view(shape), centred, factor.view(shape))
        if clipped:
            y = y.clamp_(0, CEILING).mul_(valid)
        return y.to(dtype), count, mean, m2, valid

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps the tensors that the backward pass reads. The caller holds ``x`` anyway, the input of its stage."""
        x, scale, bias, _, ctx.axis, _, ctx.clipped = inputs
        y, count, mean, m2, valid = output
        ctx.dtypes = x.dtype, scale.dtype, bias.dtype
        ctx.mark_non_differentiable(count, mean, m2, valid)
        ctx.save_for_backward(x, scale, y if ctx.clipped else count, count, mean, m2, valid)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _NormGradient.apply(dy, *ctx.saved_tensors, ctx.axis, ctx.clipped)
        dx, dscale, dbias = (leaf.to(dtype) for leaf, dtype in zip(gradients, ctx.dtypes, strict=True))
        return dx, dscale, dbias, None, None, None, None


class _NormGradient(torch.autograd.Function):
    """The backward pass as an operator whose own backward pass raises: second derivatives would silently be zero."""

    @staticmethod
    def forward(
        dy: Tensor,
        x: Tensor,
        scale: Tensor,
        y: Tensor,
        count: Tensor,
        mean: Tensor,
        m2: Tensor,
        valid: Tensor,
        axis: int,
        clipped: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if dy.numel() == 0:  # torch's operator would divide by the number of rows
            return torch.zeros_like(x, dtype=m2.dtype), torch.zeros_like(m2), torch.zeros_like(m2)
        if clipped:  # clipped values are zero in the padding, so the gradient there is zero too
            dy = torch.ops.aten.hardtanh_backward(dy, y, 0, CEILING)
        shape = [-1 if dim == axis else 1 for dim in range(dy.dim())]
        count, scale = count.clamp(min=1), scale.to(m2.dtype)
        var = m2 / count
        centred = (x - mean.view(shape)).mul_(valid)
        rows = (dy.to(m2.dtype), centred) if axis == 1 else (dy.to(m2.dtype).flatten(0, 1), centred.flatten(0, 1))
        # First with constant moments: scale / deviation * dy, and the gradients of scale and bias.
        dx, dscale, dbias = torch.ops.aten.native_batch_norm_backward(
            *rows, scale, torch.zeros_like(var), var, None, None, False, EPS, [True, True, True]
        )
        factor = scale * torch.rsqrt(var + EPS)
        by_mean = -(factor * dbias / count).view(shape)
        by_var = -(factor * dscale * torch.rsqrt(var + EPS) / count).view(shape)
        through_moments = torch.addcmul(by_mean, centred, by_var).mul_(valid)
        return through_moments.add_(dx.view_as(centred)), dscale, dbias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps nothing: ``backward`` raises."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> None:
        raise RuntimeError("the fused batch norm has no second derivatives; use a plain Policy(..., fused=False)")
