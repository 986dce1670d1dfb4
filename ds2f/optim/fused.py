"""Fused optimizer steps: torch's kernels over all parameters at once, behind pure functions.

A fused step reads and writes the state of its optimizer's chain, so fused and plain steps can alternate. With
``found_inf`` set, the kernels change nothing: a step with non-finite gradients is skipped without the host's help.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ds2f import tree
from ds2f.optim import schedules
from ds2f.optim.base import EmptyState, Mask, Schedule, Step, foreign_state
from ds2f.optim.transforms import ScaleByAdamState, ScaleByScheduleState, TraceState, leaf_decays
from ds2f.tree import Tree
from ds2f.types import OptState, Params

Kernel = Callable[..., None]  # (params, grads, *moments, weight_decay): updates flat lists of params, moments in place


def adamw_step(
    learning_rate: float | Schedule, *, b1: float, b2: float, eps: float, weight_decay: float, mask: Mask | None
) -> Step:
    """The fused step of ``adamw``; arguments as there, state as its chain's."""
    schedule = schedules.as_schedule(learning_rate)

    @torch.no_grad()
    def step(grads: Tree, state: OptState, params: Params, *, finite: Tensor, donate: bool) -> tuple[Params, OptState]:
        adam, decay, by_schedule = _parts(state, 0, ScaleByAdamState)
        now = (adam.step + 1).to(torch.float32)
        rate, found_inf = schedule(by_schedule.step), (~finite).to(torch.float32)

        def kernel(
            p: list[Tensor], g: list[Tensor], mu: list[Tensor], nu: list[Tensor], *, weight_decay: float
        ) -> None:
            torch._fused_adamw_(
                p, g, mu, nu, [], [now] * len(p),
                lr=rate, beta1=b1, beta2=b2, weight_decay=weight_decay, eps=eps,
                amsgrad=False, maximize=False, found_inf=found_inf,
            )  # fmt: skip

        decays = leaf_decays(params, weight_decay, mask)
        new_params, mu, nu = _run(kernel, grads, params, adam.mu, adam.nu, decays=decays, donate=donate)
        new_adam = ScaleByAdamState(adam.step + finite, mu, nu)
        return new_params, (new_adam, decay, ScaleByScheduleState(by_schedule.step + finite))

    return step


def sgd_step(
    learning_rate: float | Schedule, *, momentum: float, nesterov: bool, weight_decay: float, mask: Mask | None
) -> Step:
    """The fused step of ``sgd``; arguments as there, state as its chain's."""
    schedule = schedules.as_schedule(learning_rate)

    @torch.no_grad()
    def step(grads: Tree, state: OptState, params: Params, *, finite: Tensor, donate: bool) -> tuple[Params, OptState]:
        decay, memory, by_schedule = _parts(state, 1, TraceState if momentum else EmptyState)
        rate, found_inf = schedule(by_schedule.step), (~finite).to(torch.float32)

        def kernel(p: list[Tensor], g: list[Tensor], *traces: list[Tensor], weight_decay: float) -> None:
            torch._fused_sgd_(
                p, g, traces[0] if momentum else [],
                lr=rate, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay,
                dampening=0.0, maximize=False, is_first_step=False, found_inf=found_inf,
            )  # fmt: skip

        moments = (memory.trace,) if momentum else ()
        decays = leaf_decays(params, weight_decay, mask)
        new_params, *new_moments = _run(kernel, grads, params, *moments, decays=decays, donate=donate)
        new_memory = TraceState(*new_moments) if momentum else memory
        return new_params, (decay, new_memory, ScaleByScheduleState(by_schedule.step + finite))

    return step


def _parts(state: OptState, index: int, kind: type) -> Any:
    """Returns the three parts of a chain's state; raises unless the part at ``index`` is of type ``kind``."""
    if len(state) != 3 or not isinstance(state[index], kind):
        made = ", ".join(type(part).__name__ for part in state)
        raise foreign_state(f"consists of {made}")
    return state


def _run(
    kernel: Kernel, grads: Tree, params: Params, *moments: Tree, decays: Sequence[float], donate: bool
) -> list[Tree]:
    """Runs ``kernel`` once per distinct weight decay and returns the new parameters and moments.

    The results go into the buffers of ``params`` and ``moments`` if ``donate``, else into copies. The kernels ignore
    strides, so every leaf is made contiguous first.
    """
    own = _contiguous if donate else _contiguous_copy
    written = [tree.map(own, part) for part in (params, *moments)]
    p, *m = [tree.leaves(part) for part in written]
    lists = [p, [_contiguous(leaf) for leaf in tree.leaves(grads)], *m]
    for decay in sorted(set(decays)):
        chosen = [index for index, leaf_decay in enumerate(decays) if leaf_decay == decay]
        kernel(*([leaves[index] for index in chosen] for leaves in lists), weight_decay=decay)
    return written


def _contiguous(leaf: Tensor) -> Tensor:
    return leaf.contiguous()


def _contiguous_copy(leaf: Tensor) -> Tensor:
    return leaf.clone(memory_format=torch.contiguous_format)
