"""The interface of an optimizer, after optax: a pair of pure functions over pytrees, and how pairs combine.

No function of this package changes an argument (except with ``donate``), reads a clock or waits for the device. Trees
of gradients, updates and parameters have one structure. Parameters are float32; tests also use float64.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ds2f import tree
from ds2f.tree import Path, Tree
from ds2f.types import OptState, Params

Init = Callable[[Params], OptState]
Update = Callable[[Tree, OptState, Params], tuple[Tree, OptState]]
Mask = Callable[[Path, Tensor], bool]  # (path such as ("rnn_0", "forward", "w_ih"), leaf) -> does a transform apply?
Schedule = Callable[[Tensor], Tensor]  # number of applied updates, [] int64 -> learning rate, [] float32


class Step(Protocol):
    """A fused optimizer step: the same numbers as ``update``, ``apply_updates`` and ``tree.select`` by ``finite``."""

    def __call__(
        self, grads: Tree, state: OptState, params: Params, *, finite: Tensor, donate: bool
    ) -> tuple[Params, OptState]:
        """Returns the new parameters and state, or the old values if ``finite`` ([] bool) is false."""


class GradientTransformation(NamedTuple):
    """Turns gradients into updates.

    ``init(params)`` makes the state. ``update(grads, state, params)`` returns ``(updates, new_state)``; updates are
    added to the parameters. A state keeps the structure, shapes and dtypes that ``init`` gave it. ``step`` is an
    optional fused form; ``apply_step`` uses it if it exists.
    """

    init: Init
    update: Update
    step: Step | None = None


class EmptyState(NamedTuple):
    """The state of a transform without memory."""


def pass_through() -> GradientTransformation:
    """Returns the gradients unchanged (optax's ``identity``)."""
    return stateless(lambda updates, params: updates)


def stateless(fn: Callable[[Tree, Params], Tree]) -> GradientTransformation:
    """Makes a transform without state from a function ``(updates, params) -> updates``."""

    def init(params: Params) -> EmptyState:
        del params
        return EmptyState()

    def update(updates: Tree, state: EmptyState, params: Params) -> tuple[Tree, EmptyState]:
        return fn(updates, params), state

    return GradientTransformation(init, update)


def chain(*transforms: GradientTransformation) -> GradientTransformation:
    """Applies ``transforms`` one after the other; the state is the tuple of their states.

    If the last transform has a fused ``step``, the chain has one too: clipping in front of ``adamw`` keeps it fused.

    Raises:
      ValueError: from ``update`` and ``step``, if the state is not a tuple of one part per transform.

    >>> import torch
    >>> from ds2f import optim
    >>> tx = optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(0.5, momentum=0))
    >>> params, grads = {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([0.0, 8.0])}
    >>> updates, state = tx.update(grads, tx.init(params), params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([1.0000, 0.5000])}
    """

    def init(params: Params) -> OptState:
        return tuple(transform.init(params) for transform in transforms)

    def update(updates: Tree, state: OptState, params: Params) -> tuple[Tree, OptState]:
        _check_parts(state, transforms)
        new_state = []
        for transform, part in zip(transforms, state, strict=True):
            updates, new_part = transform.update(updates, part, params)
            new_state.append(new_part)
        return updates, tuple(new_state)

    if not transforms or transforms[-1].step is None:
        return GradientTransformation(init, update)
    front, last_step = chain(*transforms[:-1]), transforms[-1].step

    def step(grads: Tree, state: OptState, params: Params, *, finite: Tensor, donate: bool) -> tuple[Params, OptState]:
        _check_parts(state, transforms)
        updates, new_front = front.update(grads, state[:-1], params)
        new_params, new_last = last_step(updates, state[-1], params, finite=finite, donate=donate)
        return new_params, (*tree.select(finite, new_front, state[:-1]), new_last)

    return GradientTransformation(init, update, step)


def partition(mask: Mask, chosen: GradientTransformation, others: GradientTransformation) -> GradientTransformation:
    """Applies ``chosen`` to the leaves selected by ``mask`` and ``others`` to the rest.

    Each transform sees the tree with its own leaves alone; the others are ``None``, which is a tree without leaves. So
    paths stay as they are. The state is the pair of the two states; the state of a transform without leaves is ``()``.
    """

    def halves(leaves: Tree, params: Params) -> tuple[list[bool], list[Tree]]:
        flat, rebuild = tree.flatten(leaves)
        chooses = selected(params, mask)
        both = [
            rebuild([leaf if one is half else None for leaf, one in zip(flat, chooses, strict=True)])
            for half in (True, False)
        ]
        return chooses, both

    def init(params: Params) -> OptState:
        both = zip((chosen, others), halves(params, params)[1], strict=True)
        return tuple(tx.init(half) if tree.leaves(half) else () for tx, half in both)

    def update(updates: Tree, state: OptState, params: Params) -> tuple[Tree, OptState]:
        chooses, parts = halves(updates, params)
        both = zip((chosen, others), parts, state, halves(params, params)[1], strict=True)
        done = [tx.update(grads, old, own) if tree.leaves(own) else (grads, old) for tx, grads, old, own in both]
        first, second = (iter(tree.leaves(half)) for half, _ in done)
        rebuilt = tree.flatten(updates)[1]([next(first if one else second) for one in chooses])
        return rebuilt, tuple(part for _, part in done)

    return GradientTransformation(init, update)


def selected(params: Params, mask: Mask | None) -> list[bool]:
    """Whether ``mask`` selects each leaf, in flat order; ``None`` selects all."""
    return [mask is None or bool(mask(path, leaf)) for path, leaf in tree.flatten_with_paths(params).items()]


def foreign_state(difference: str) -> ValueError:
    """The error for a state that another optimizer made; ``difference`` continues "the optimizer state ..."."""
    return ValueError(
        f"the optimizer state {difference}: it was made by another optimizer; make a new one with this optimizer's "
        "init(params)"
    )


def _check_parts(state: OptState, transforms: tuple[GradientTransformation, ...]) -> None:
    if len(state) != len(transforms):
        raise foreign_state(f"has {len(state)} parts and the chain {len(transforms)} transforms")


def apply_updates(params: Params, updates: Tree) -> Params:
    """Adds ``updates`` to ``params``, leaf by leaf.

    >>> apply_updates({"w": torch.tensor([1.0])}, {"w": torch.tensor([-0.25])})
    {'w': tensor([0.7500])}
    """
    return foreach(lambda p, u: torch._foreach_add(p, u), params, updates)


@torch.no_grad()
def apply_step(
    tx: GradientTransformation, grads: Tree, state: OptState, params: Params, *, finite: Tensor, donate: bool = False
) -> tuple[Params, OptState]:
    """Takes one optimizer step, or none if the gradients are not finite.

    Args:
      tx: the optimizer.
      grads: detached gradients, the structure of ``params``.
      state: the state that ``tx.init`` or the previous step returned.
      params: the parameters.
      finite: [] bool; if false, parameters and state come back with their old values. The host does not read it.
      donate: lets a fused step write its results into the buffers of ``params`` and ``state``, which the caller must
        not use afterwards. ``grads`` are not changed. The same bits as without.

    Returns:
      The new parameters and the new state.
    """
    if tx.step is not None:
        return tx.step(grads, state, params, finite=finite, donate=donate)
    updates, new_state = tx.update(grads, state, params)
    return tree.select(finite, (apply_updates(params, updates), new_state), (params, state))


def foreach(fn: Callable[..., Sequence[Tensor]], first: Tree, *rest: Tree) -> Tree:
    """Applies a function of flat leaf lists, such as ``torch._foreach_add``, to trees of one structure.

    A call costs a few kernel launches on an accelerator; a map over the leaves would cost one launch per leaf.
    """
    leaves, rebuild = tree.flatten(first)
    return rebuild(list(fn(leaves, *(tree.leaves(other) for other in rest))))
