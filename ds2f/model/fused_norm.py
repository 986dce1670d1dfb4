"""Batch norm in training, the clip behind it and zeros for padding as one operator with a backward pass of its own.

``batch_norm.batch_norm``, ``layers.clip`` and ``layers.zero_padding`` are its definition, and take twice its time. It
is for one process: synchronised batch norm has to differentiate its sums over the ranks.
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
    """Normalises each channel by the moments of the batch's own valid frames.

    Args:
      params: ``scale`` and ``bias`` [C].
      x: [B, C, F, T] with channels on axis 1, or [T, B, C] with channels on axis 2; finite in the padding too.
      padding: bool, broadcastable to ``x`` and of its rank, size 1 on ``axis``.
      axis: the axis of the channels.
      dtype: dtype of the result; the arithmetic is never below float32.
      clipped: clip the result to [0, 20] and set its padding to zero; otherwise its padding means nothing.

    Returns:
      The normalised ``x`` and the batch's moments, detached. First derivatives only, and no vmap.
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
        # A product with zeros and ones is several times as fast as a choice, for which memory is read bit by bit.
        valid = (~padding).to(wide)
        count = valid.sum() * math.prod(x.shape[dim] for dim in others if padding.shape[dim] == 1)
        mean = (x * valid).sum(others) / count.clamp(min=1)
        centred = (x - mean.view(shape)).mul_(valid)
        m2 = centred.square().sum(others)
        factor = scale.to(wide) * torch.rsqrt(m2 / count.clamp(min=1) + EPS)
        y = torch.addcmul(bias.to(wide).view(shape), centred, factor.view(shape))
        if clipped:
            y = y.clamp_(0, CEILING).mul_(valid)
        return y.to(dtype), count, mean, m2, centred, valid

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps what the backward pass reads."""
        x, scale, bias, _, ctx.axis, _, ctx.clipped = inputs
        y, count, mean, m2, centred, valid = output
        ctx.dtypes = x.dtype, scale.dtype, bias.dtype
        ctx.mark_non_differentiable(count, mean, m2, centred, valid)
        ctx.save_for_backward(scale, y if ctx.clipped else count, count, m2, centred, valid)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _NormGradient.apply(dy, *ctx.saved_tensors, ctx.axis, ctx.clipped)
        dx, dscale, dbias = (leaf.to(dtype) for leaf, dtype in zip(gradients, ctx.dtypes, strict=True))
        return dx, dscale, dbias, None, None, None, None


class _NormGradient(torch.autograd.Function):
    """The backward pass as an operator without a derivative, so that a second derivative is refused, not zero."""

    @staticmethod
    def forward(
        dy: Tensor,
        scale: Tensor,
        y: Tensor,
        count: Tensor,
        m2: Tensor,
        centred: Tensor,
        valid: Tensor,
        axis: int,
        clipped: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if dy.numel() == 0:  # torch's operator would divide by the number of rows
            return torch.zeros_like(centred), torch.zeros_like(m2), torch.zeros_like(m2)
        if clipped:  # the clipped values are zero in the padding too, and pass nothing there
            dy = torch.ops.aten.hardtanh_backward(dy, y, 0, CEILING)
        shape = [-1 if dim == axis else 1 for dim in range(dy.dim())]
        count, scale = count.clamp(min=1), scale.to(m2.dtype)
        var = m2 / count
        rows = (dy.to(m2.dtype), centred) if axis == 1 else (dy.to(m2.dtype).flatten(0, 1), centred.flatten(0, 1))
        # As if the moments were constants: scale / deviation * dy, and the gradients of scale and bias.
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
        """Keeps nothing: there is no way back."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> None:
        raise RuntimeError("the fused batch norm gives first derivatives only; for second ones use a plain Policy")
