"""Transforms, the parts of optimizers: each takes updates and returns updates."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ds2f import tree
from ds2f.optim import schedules
from ds2f.optim.base import GradientTransformation, Mask, Schedule, foreach, pass_through, selected, stateless
from ds2f.tree import Path, Tree
from ds2f.types import Params


class TraceState(NamedTuple):
    """State of ``trace``: the momentum."""

    trace: Tree  # like the parameters


class ScaleByAdamState(NamedTuple):
    """State of ``scale_by_adam``: the moments."""

    step: Tensor  # [] int64: number of updates so far
    mu: Tree  # like the parameters: mean gradient
    nu: Tree  # like the parameters: mean squared gradient


class ScaleByNovogradState(NamedTuple):
    """State of ``scale_by_novograd``: the second moments."""

    step: Tensor  # [] int64: number of updates so far
    nu: Tree  # a scalar per leaf: mean squared norm of the gradient


class ScaleByScheduleState(NamedTuple):
    """State of ``scale_by_schedule``."""

    step: Tensor  # [] int64: number of updates so far


def trace(decay: float, *, nesterov: bool = False) -> GradientTransformation:
    """Accumulates momentum, ``m = g + decay * m``, and returns ``m`` (with Nesterov: ``g + decay * m``).

    As ``torch.optim.SGD`` without dampening.
    """

    def init(params: Params) -> TraceState:
        return TraceState(tree.zeros_like(params))

    def accumulate(grads: list[Tensor], old: list[Tensor]) -> Sequence[Tensor]:
        return torch._foreach_add(grads, old, alpha=decay)

    def update(updates: Tree, state: TraceState, params: Params) -> tuple[Tree, TraceState]:
        del params
        new_trace = foreach(accumulate, updates, state.trace)
        return foreach(accumulate, updates, new_trace) if nesterov else new_trace, TraceState(new_trace)

    return GradientTransformation(init, update)


def scale_by_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> GradientTransformation:
    """Divides the mean gradient by the root of the mean squared gradient, both with bias correction.

    Kingma and Ba 2015 (https://arxiv.org/abs/1412.6980), algorithm 1; ``eps`` is added outside the root.
    """

    def init(params: Params) -> ScaleByAdamState:
        return ScaleByAdamState(_first_step(params), tree.zeros_like(params), tree.zeros_like(params))

    def next_mu(mu: list[Tensor], grads: list[Tensor]) -> Sequence[Tensor]:
        return torch._foreach_lerp(mu, grads, 1 - b1)

    def next_nu(nu: list[Tensor], grads: list[Tensor]) -> Sequence[Tensor]:
        new_nu = torch._foreach_mul(nu, b2)
        torch._foreach_addcmul_(new_nu, grads, grads, 1 - b2)
        return new_nu

    def update(updates: Tree, state: ScaleByAdamState, params: Params) -> tuple[Tree, ScaleByAdamState]:
        del params
        step = state.step + 1
        mu, nu = foreach(next_mu, state.mu, updates), foreach(next_nu, state.nu, updates)
        mu_bias, nu_bias = _bias_correction(b1, step), _bias_correction(b2, step)

        def ratio(mu: list[Tensor], nu: list[Tensor]) -> Sequence[Tensor]:
            denominators = torch._foreach_sqrt(nu)
            torch._foreach_div_(denominators, nu_bias.sqrt())
            torch._foreach_add_(denominators, eps)
            ratios = torch._foreach_div(mu, denominators)
            torch._foreach_div_(ratios, mu_bias)
            return ratios

        return foreach(ratio, mu, nu), ScaleByAdamState(step, mu, nu)

    return GradientTransformation(init, update)


def _bias_correction(decay: float, step: Tensor) -> Tensor:
    """``1 - decay ** step``, without the cancellation that would halve float32's digits at the first steps."""
    return -torch.expm1(step.to(torch.float32) * (math.log(decay) if decay > 0 else -math.inf))


def scale_by_trust_ratio(*, mask: Mask | None = None) -> GradientTransformation:
    """Scales each leaf's update to the norm of the leaf: by ``|p| / |u|``, or by 1 if either norm is zero.

    LAMB, You et al. 2019 (https://arxiv.org/abs/1904.00962), algorithm 2, with the identity for phi.

    Args:
      mask: which leaves' updates are scaled; ``None``: all. Other updates are unchanged.
    """

    def update(updates: Tree, params: Params) -> Tree:
        chosen = selected(params, mask)

        def scaled(updates: list[Tensor], params: list[Tensor]) -> Sequence[Tensor]:
            norms = zip(chosen, torch._foreach_norm(params), torch._foreach_norm(updates), strict=True)
            ratios = [torch.where((p > 0) & (u > 0) & applies, p / u, 1.0) for applies, p, u in norms]
            return torch._foreach_mul(updates, ratios)

        return foreach(scaled, updates, params)

    return stateless(update)


def scale_by_novograd(b2: float = 0.98, eps: float = 1e-8) -> GradientTransformation:
    """Divides each leaf's gradient by the root of its mean squared norm; the first squared norm starts the mean.

    The normalisation of NovoGrad, Ginsburg et al. 2019 (https://arxiv.org/abs/1905.11286), algorithm 1. NovoGrad's
    weight decay and momentum follow in the chain. A gradient whose squared norm float32 cannot hold becomes zero, as in
    optax, and leaves the mean as it is.
    """

    def init(params: Params) -> ScaleByNovogradState:
        return ScaleByNovogradState(_first_step(params), tree.map(lambda leaf: leaf.new_zeros(()), params))

    def squared_norms(grads: list[Tensor]) -> Sequence[Tensor]:
        return torch._foreach_pow(torch._foreach_norm(grads), 2)

    def next_nu(first: Tensor, old: Tensor, square: Tensor) -> Tensor:
        return torch.where(square.isinf(), old, torch.where(first, square, torch.lerp(square, old, b2)))

    def normalised(grads: list[Tensor], nu: list[Tensor], squares: list[Tensor]) -> Sequence[Tensor]:
        roots = torch._foreach_add(torch._foreach_sqrt(nu), eps)
        pairs = zip(squares, roots, strict=True)
        return torch._foreach_div(grads, [torch.where(square.isinf(), square, root) for square, root in pairs])

    def update(updates: Tree, state: ScaleByNovogradState, params: Params) -> tuple[Tree, ScaleByNovogradState]:
        del params
        first = state.step == 0
        squares = foreach(squared_norms, updates)
        nu = tree.map(lambda old, square: next_nu(first, old, square), state.nu, squares)
        return foreach(normalised, updates, nu, squares), ScaleByNovogradState(state.step + 1, nu)

    return GradientTransformation(init, update)


def orthogonalize(*, iterations: int = 5, eps: float = 1e-7) -> GradientTransformation:
    """Replaces each matrix by a nearly orthogonal matrix with the root mean square of an Adam step.

    Muon, Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/): Newton-Schulz iterations with a quintic
    polynomial keep the singular vectors and bring all but tiny singular values near 1. The result is scaled by
    ``0.2 * sqrt(max(rows, columns))``, after Liu et al. 2025 (https://arxiv.org/abs/2502.16982), so that AdamW's
    learning rates and weight decays fit. A convolution is taken as a matrix with a row per output channel.
    """

    def matrix(leaf: Tensor) -> Tensor:
        rows = leaf.flatten(1)
        tall = rows.shape[0] > rows.shape[1]
        x = rows.T if tall else rows
        x = x / (torch.linalg.matrix_norm(x) + eps)
        # Each iteration multiplies x by a polynomial of x x^T. The polynomials commute, so their product is formed on
        # the short side and multiplies x once, at the end.
        gram = x @ x.T
        one = factor = total = torch.eye(len(x), dtype=x.dtype, device=x.device)
        for _ in range(iterations):
            gram = factor @ gram @ factor
            factor = torch.addmm(torch.add(3.4445 * one, gram, alpha=-4.7750), gram, gram, alpha=2.0315)
            total = factor @ total
        x = total @ x
        return (x.T if tall else x).reshape(leaf.shape) * (0.2 * max(rows.shape) ** 0.5)

    return stateless(lambda updates, params: tree.map(matrix, updates))


def add_decayed_weights(weight_decay: float, *, mask: Mask | None = None) -> GradientTransformation:
    """Adds ``weight_decay * p`` to each update.

    Before momentum this is L2 regularisation, after Adam's division it is decoupled weight decay (Loshchilov and
    Hutter 2019, https://arxiv.org/abs/1711.05101).

    Args:
      weight_decay: the factor; 0: updates are unchanged.
      mask: which leaves decay, for example ``matrices_only``; ``None``: all, as in deepspeech.pytorch.
    """
    if weight_decay == 0:
        return pass_through()

    def update(updates: Tree, params: Params) -> Tree:
        decays = leaf_decays(params, weight_decay, mask)
        return foreach(lambda u, p: torch._foreach_add(u, torch._foreach_mul(p, decays)), updates, params)

    return stateless(update)


def leaf_decays(params: Params, weight_decay: float, mask: Mask | None) -> list[float]:
    """The weight decay of each leaf, in flat order."""
    return [weight_decay if applies else 0.0 for applies in selected(params, mask)]


def matrices_only(path: Path, leaf: Tensor) -> bool:
    """A ``mask`` without biases and without the scales and shifts of batch norm."""
    del path
    return leaf.ndim > 1


def hidden_matrices(path: Path, leaf: Tensor) -> bool:
    """A ``mask`` of the matrices that Muon orthogonalizes: convolutions and recurrent layers, not the output layers."""
    return leaf.ndim > 1 and path[0] not in ("output", "intermediate")


def scale(factor: float) -> GradientTransformation:
    """Multiplies updates by a constant."""
    return stateless(lambda updates, params: foreach(lambda u: torch._foreach_mul(u, factor), updates))


def scale_by_schedule(schedule: Schedule) -> GradientTransformation:
    """Multiplies updates by ``schedule(step)``; ``step`` ([] int64) counts the earlier updates."""

    def init(params: Params) -> ScaleByScheduleState:
        return ScaleByScheduleState(_first_step(params))

    def update(updates: Tree, state: ScaleByScheduleState, params: Params) -> tuple[Tree, ScaleByScheduleState]:
        del params
        factor = schedule(state.step)
        return foreach(lambda u: torch._foreach_mul(u, factor), updates), ScaleByScheduleState(state.step + 1)

    return GradientTransformation(init, update)


def scale_by_learning_rate(learning_rate: float | Schedule) -> GradientTransformation:
    """Multiplies updates by minus the learning rate.

    A number becomes a constant schedule. The state is then the same, so a run can resume with another schedule.
    """
    schedule = schedules.as_schedule(learning_rate)
    return scale_by_schedule(lambda step: -schedule(step))


def clip_by_global_norm(max_norm: float) -> GradientTransformation:
    """Scales all updates together so that their global norm is at most ``max_norm``; smaller ones keep their bits."""

    def update(updates: Tree, params: Params) -> Tree:
        del params
        factor = clip_factor(tree.global_norm(updates), max_norm)
        return foreach(lambda u: torch._foreach_mul(u, factor), updates)

    return stateless(update)


def clip_factor(norm: Tensor, max_norm: float, *, eps: float = 0.0) -> Tensor:
    """The factor, at most 1, that brings gradients of global norm ``norm`` down to ``max_norm``.

    Args:
      norm: scalar tensor; it is not read on the host.
      max_norm: the largest norm.
      eps: is added to ``norm``. ``torch.nn.utils.clip_grad_norm_`` has 1e-6, and so has ``steps.train_step``; 0 leaves
        gradients of exactly the largest norm as they are.

    Returns:
      Scalar tensor, ``min(max_norm / (norm + eps), 1)``.

    >>> clip_factor(torch.tensor(8.0), max_norm=2.0)
    tensor(0.2500)
    """
    return (max_norm / (norm + eps)).clamp(max=1.0)


def _first_step(params: Params) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=tree.leaves(params)[0].device)
