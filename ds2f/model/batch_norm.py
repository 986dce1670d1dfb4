"""Batch norm that ignores padding, as pure functions: moments out, statistics updated elsewhere.

deepspeech.pytorch normalises over padded frames too, so its statistics depend on how utterances were batched. Here
only frames inside an utterance count; on a batch without padding both agree.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ds2f.model.layers import zero_padding
from ds2f.tree import Tree
from ds2f.types import Moments, identity

EPS = 1e-5
MOMENTUM = 0.1


def masked_moments(
    x: Tensor, padding: Tensor, *, axis: int, reduce_moments: Callable[[Tensor], Tensor] = identity
) -> tuple[Moments, Tensor]:
    """Measures each channel over the elements that are not padding, in two passes.

    The squared deviations are summed around the mean: E[x^2] - E[x]^2 cancels when the mean is large.

    Args:
      x: any shape, channels on ``axis``.
      padding: bool, broadcastable to ``x`` and of its rank, size 1 on ``axis``; true where ``x`` means nothing.
      axis: the axis of the channels.
      reduce_moments: a differentiable sum over ranks, applied to [C + 1] sums and count and then to [C] squared
        deviations; with it the moments are those of the global batch.

    Returns:
      The moments, differentiable, in float32 (float64 for float64 input), and x - mean. With nothing but padding,
      count, mean and m2 are zero.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    shape = [-1 if dim == axis else 1 for dim in range(x.dim())]
    # What padding does not tell apart is summed first: then the mask applies to a small tensor.
    others = [dim for dim in range(x.dim()) if dim != axis]
    whole = [dim for dim in others if padding.shape[dim] == 1]

    def total(values: Tensor) -> Tensor:
        values = values.sum(whole, keepdim=True, dtype=wide) if whole else values
        return zero_padding(values, padding).sum(others, dtype=wide)

    count = (~padding).sum(dtype=wide) * math.prod(x.shape[dim] for dim in whole)
    sums = reduce_moments(torch.cat([total(x), count[None]]))
    count = sums[-1]
    mean = sums[:-1] / count.clamp(min=1)
    centred = x + (-mean).view(shape)  # a subtraction's backward pass would negate the whole gradient first
    m2 = reduce_moments(total(centred.square()))
    return Moments(count, mean, m2), centred


def batch_norm(
    params: dict[str, Tensor],
    stats: dict[str, Tensor],
    x: Tensor,
    padding: Tensor,
    *,
    axis: int,
    train: bool,
    dtype: torch.dtype,
    reduce_moments: Callable[[Tensor], Tensor] = identity,
) -> tuple[Tensor, Moments | None]:
    """Normalises each channel, by the batch's own moments in training and by running statistics in evaluation.

    Args:
      params: ``scale`` and ``bias`` [C].
      stats: ``mean`` and ``var`` [C].
      x: any shape, channels on ``axis``.
      padding: as for ``masked_moments``.
      axis: the axis of the channels.
      train: whose moments to normalise by; training divides by the biased variance, as torch does.
      dtype: dtype of the result; the arithmetic is never below float32.
      reduce_moments: as for ``masked_moments``.

    Returns:
      The normalised ``x``, its padding holding values that mean nothing, and the batch's moments, detached, for
      ``update_stats`` (``None`` in evaluation).

    Source: Ioffe and Szegedy 2015, algorithm 1.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    shape = [-1 if dim == axis else 1 for dim in range(x.dim())]
    moments = None
    if train:
        measured, centred = masked_moments(x, padding, axis=axis, reduce_moments=reduce_moments)
        var = measured.m2 / measured.count.clamp(min=1)
        moments = Moments(*(field.detach() for field in measured))
    else:
        centred = x - stats["mean"].to(wide).view(shape)
        var = stats["var"].to(wide)
    factor = params["scale"].to(wide) * torch.rsqrt(var + EPS)
    y = torch.addcmul(params["bias"].to(wide).view(shape), centred, factor.view(shape))
    return y.to(dtype), moments


def update_stats(stats: Tree, moments: Tree) -> Tree:
    """Moves running statistics a tenth of the way to a batch's moments; the variance is unbiased, as torch's.

    Args:
      stats: nested dicts and lists that end in ``{"mean": [C], "var": [C]}``.
      moments: the same nesting, ending in ``Moments``; entries that ``stats`` lacks are ignored.

    Returns:
      New statistics with the structure and dtypes of ``stats``. A batch of fewer than two elements per channel has no
      unbiased variance and leaves them as they were.
    """
    if isinstance(moments, Moments):
        return _updated(stats, moments)
    if isinstance(stats, list):
        return [update_stats(*pair) for pair in zip(stats, moments, strict=True)]
    return {name: update_stats(inner, moments[name]) for name, inner in stats.items()}


def _updated(stats: dict[str, Tensor], moments: Moments) -> dict[str, Tensor]:
    batch = {"mean": moments.mean, "var": moments.m2 / (moments.count - 1).clamp(min=1)}
    enough = moments.count > 1
    return {
        name: torch.where(enough, (1 - MOMENTUM) * old + MOMENTUM * batch[name].to(old.dtype), old)
        for name, old in stats.items()
    }


def merge(first: Tree, second: Tree) -> Tree:
    """The moments of two batches together, from the trees of their moments.

    Source: Chan, Golub and LeVeque 1979, equations 2.1.
    """

    def merged(a: Moments, b: Moments) -> Moments:
        count, delta = a.count + b.count, b.mean - a.mean
        share = b.count / count.clamp(min=1)
        return Moments(count, a.mean + delta * share, a.m2 + b.m2 + delta.square() * a.count * share)

    return _each(merged, first, second)


def pool(moments: Tree, reduce: Callable[[Tree], Tree]) -> Tree:
    """Pools the moments of all ranks into those of the global batch, weighted by valid frames.

    The pooled variance holds the spread between the ranks' means, which a mean of the variances would lose. A rank
    without frames contributes nothing.

    Args:
      moments: this rank's tree of ``Moments``.
      reduce: sums a tree of tensors over the ranks, leaf by leaf; called twice.

    Returns:
      The same structure, the same values on every rank. Moments that ``reduce_moments`` has already made global must
      not be pooled: every frame would count once per rank.

    Source: Chan, Golub and LeVeque 1979, the pairwise update in its form for many parts.
    """
    totals = reduce(_each(lambda m: [m.count, m.count * m.mean], moments))
    means = _each(lambda _, total: total[1] / total[0].clamp(min=1), moments, totals)
    m2 = reduce(_each(lambda m, mean: m.m2 + m.count * (m.mean - mean).square(), moments, means))
    return _each(lambda _, total, mean, deviations: Moments(total[0], mean, deviations), moments, totals, means, m2)


def _each(fn: Callable[..., Tree], moments: Tree, *rest: Tree) -> Tree:
    """Applies ``fn`` to every ``Moments`` of a tree and to what stands in its place in the other trees."""
    if isinstance(moments, Moments):
        return fn(moments, *rest)
    if isinstance(moments, list):
        return [_each(fn, *parts) for parts in zip(moments, *rest, strict=True)]
    return {name: _each(fn, inner, *(other[name] for other in rest)) for name, inner in moments.items()}
