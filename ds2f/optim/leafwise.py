"""A step that takes one leaf after the other, in place: temporaries of one leaf instead of all."""

import torch
from torch import Tensor

from ds2f import tree
from ds2f.optim.base import GradientTransformation, Step, apply_step
from ds2f.tree import Path, Tree
from ds2f.types import OptState, Params


def leafwise_step(tx: GradientTransformation) -> Step:
    """The step of an optimizer that updates every leaf by itself, such as ``lamb``; not with clipping by global norm.

    On a CPU with ``donate``, it takes leaf after leaf. Otherwise it takes all leaves together, as ``apply_step`` does:
    an accelerator then needs fewer launches. The bits are the same.

    Args:
      tx: the optimizer; its own ``step`` is not used.
    """
    plain = tx._replace(step=None)
    known: dict[tuple[tuple[Path, torch.Size], ...], list[set[Path]]] = {}  # of one kind of parameters, computed once

    def step(grads: Tree, state: OptState, params: Params, *, finite: Tensor, donate: bool) -> tuple[Params, OptState]:
        if not (donate and all(leaf.is_cpu for leaf in tree.leaves(params))):
            return apply_step(plain, grads, state, params, finite=finite)
        kind = tuple((path, leaf.shape) for path, leaf in tree.flatten_with_paths(params).items())
        if kind not in known:
            known[kind] = _read_by_each(plain, params)
        return params, _one_by_one(plain, grads, state, params, finite, known[kind])

    return step


def _one_by_one(
    tx: GradientTransformation, grads: Tree, state: OptState, params: Params, finite: Tensor, read: list[set[Path]]
) -> OptState:
    """Writes new values into the buffers of parameters and state; returns the state, with new counters."""
    leaves, rebuild = tree.flatten(params)
    slots, rebuild_state = tree.flatten(state)
    paths = list(tree.flatten_with_paths(state))
    shared = {path for path in paths if sum(path in own for own in read) > 1}  # counters of several leaves
    new_slots = list(slots)
    for index, (grad, leaf) in enumerate(zip(tree.leaves(grads), leaves, strict=True)):
        own = [place for place, path in enumerate(paths) if path in read[index]]
        own_state = rebuild_state([slot if paths[place] in read[index] else None for place, slot in enumerate(slots)])
        alone_grad, alone = (rebuild(_only(part, index, len(leaves))) for part in (grad, leaf))
        updates, new_state = tx.update(alone_grad, own_state, alone)
        for place, new in zip(own, tree.leaves(new_state), strict=True):
            chosen = torch.where(finite, new, slots[place])
            new_slots[place] = chosen if paths[place] in shared else slots[place].copy_(chosen)
        (update,) = tree.leaves(updates)
        leaf.copy_(torch.where(finite, leaf + update, leaf))
    return rebuild_state(new_slots)


def _read_by_each(tx: GradientTransformation, params: Params) -> list[set[Path]]:
    """For each leaf, the paths of the state that an update of this leaf alone reads: those of ``init`` of it alone."""
    leaves, rebuild = tree.flatten(params)
    alone = (rebuild(_only(leaf, index, len(leaves))) for index, leaf in enumerate(leaves))
    return [set(tree.flatten_with_paths(tx.init(each))) for each in alone]


def _only(leaf: Tensor, index: int, size: int) -> list[Tensor | None]:
    """A leaf at its place, ``None`` at all others; ``None`` is no leaf, so the others' paths do not exist."""
    return [leaf if place == index else None for place in range(size)]
