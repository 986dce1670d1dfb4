"""Batch norm that ignores padding, as pure functions: ``batch_norm`` returns moments, ``update_stats`` applies them.

Only frames within an utterance count. deepspeech.pytorch counts padded frames too, so its statistics depend on the
batching of utterances; on a batch without padding both agree.
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
      padding: bool, broadcastable to ``x``, with as many dimensions and size 1 on ``axis``; true in the padding.
      axis: the axis of the channels.
      reduce_moments: a differentiable all-reduce, applied to [C + 1] sums and count, then to [C] squared deviations;
        the moments are then global.

    Returns:
      The moments, differentiable, in float32 (float64 for float64 input), and x - mean. Without valid elements, count,
      mean and m2 are zero.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    shape = [-1 if dim == axis else 1 for dim in range(x.dim())]
    # Axes along which the mask is constant are summed first, so that the mask applies to a small tensor.
    others = [dim for dim in range(x.dim()) if dim != axis]
    unmasked = [dim for dim in others if padding.shape[dim] == 1]

    def total(values: Tensor) -> Tensor:
        values = values.sum(unmasked, keepdim=True, dtype=wide) if unmasked else values
        return zero_padding(values, padding).sum(others, dtype=wide)

    count = (~padding).sum(dtype=wide) * math.prod(x.shape[dim] for dim in unmasked)
    sums = reduce_moments(torch.cat([total(x), count[None]]))
    count = sums[-1]
    mean = sums[:-1] / count.clamp(min=1)
    centred = x + (-mean).view(shape)  # the backward pass of x - mean would negate the whole gradient
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
    """Normalises each channel: in training by the batch's moments, in evaluation by running statistics.

    Args:
      params: ``scale`` and ``bias`` [C].
      stats: ``mean`` and ``var`` [C].
      x: any shape, channels on ``axis``.
      padding: as for ``masked_moments``.
      axis: the axis of the channels.
      train: whether to normalise by the batch's moments; the variance is then biased, as in torch.
      dtype: dtype of the result; the arithmetic is at least float32.
      reduce_moments: as for ``masked_moments``.

    Returns:
      The normalised ``x``, with arbitrary values in the padding, and the batch's moments, detached, for
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
    """New running statistics: 0.9 times the old ones plus 0.1 times the batch's mean and unbiased variance.

    Args:
      stats: nested dicts and lists with ``{"mean": [C], "var": [C]}`` per norm.
      moments: the same nesting with ``Moments`` per norm; entries missing in ``stats`` are ignored.

    Returns:
      New statistics with the structure and dtypes of ``stats``. A batch of fewer than two elements per channel has no
      unbiased variance; the old values are then returned.

    >>> moments = Moments(count=torch.tensor(5.0), mean=torch.tensor([10.0]), m2=torch.tensor([8.0]))
    >>> update_stats({"norm": {"mean": torch.zeros(1), "var": torch.ones(1)}}, {"norm": moments})
    {'norm': {'mean': tensor([1.]), 'var': tensor([1.1000])}}
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
    """Combines the moments trees of two batches into the moments of their union.

    Source: Chan, Golub and LeVeque 1979, equations 2.1.
    """

    def merged(a: Moments, b: Moments) -> Moments:
        count, delta = a.count + b.count, b.mean - a.mean
        fraction = b.count / count.clamp(min=1)
        return Moments(count, a.mean + delta * fraction, a.m2 + b.m2 + delta.square() * a.count * fraction)

    return _each(merged, first, second)


def pool(moments: Tree, reduce: Callable[[Tree], Tree]) -> Tree:
    """Pools the moments of all ranks into the moments of the global batch, weighted by valid frames.

    The pooled variance includes the spread between the ranks' means; a mean of the ranks' variances would lose it. A
    rank without frames contributes nothing.

    Args:
      moments: this rank's tree of ``Moments``. Moments that are already global (``reduce_moments``) must not be pooled:
        every frame would count once per rank.
      reduce: the all-reduce of a tree of tensors, leaf by leaf; called twice.

    Returns:
      The same structure, with the same values on every rank.

    Source: Chan, Golub and LeVeque 1979, the pairwise update, generalised to many parts.
    """
    totals = reduce(_each(lambda m: [m.count, m.count * m.mean], moments))
    means = _each(lambda _, total: total[1] / total[0].clamp(min=1), moments, totals)
    m2 = reduce(_each(lambda m, mean: m.m2 + m.count * (m.mean - mean).square(), moments, means))
    return _each(lambda _, total, mean, deviations: Moments(total[0], mean, deviations), moments, totals, means, m2)


def _each(fn: Callable[..., Tree], moments: Tree, *rest: Tree) -> Tree:
    """Applies ``fn`` to every ``Moments`` of a tree and the branches at its place in the other trees."""
    if isinstance(moments, Moments):
        return fn(moments, *rest)
    if isinstance(moments, list):
        return [_each(fn, *parts) for parts in zip(moments, *rest, strict=True)]
    return {name: _each(fn, inner, *(other[name] for other in rest)) for name, inner in moments.items()}
