"""The one door to pytrees: nested dicts, lists, tuples and NamedTuples of tensors.

optree flattens dictionaries in the order of their sorted keys, whatever the order of insertion, so that the flat order
of a tree is a property of its structure. torch's own pytree module does not; nothing outside this file may flatten.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import optree
import torch
from torch import Tensor

Tree = Any
T = TypeVar("T")


def map(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Applies ``fn`` to the leaves of trees of the same structure and returns a tree of the results."""
    return optree.tree_map(fn, tree, *rest)


def leaves(tree: Tree) -> list[Any]:
    """The leaves of ``tree`` in its flat order."""
    return optree.tree_leaves(tree)


def flatten(tree: Tree) -> tuple[list[Any], Callable[[list[Any]], Tree]]:
    """Returns the leaves in flat order and the function that puts such a list back into the structure."""
    flat, spec = optree.tree_flatten(tree)
    return flat, lambda new_leaves: optree.tree_unflatten(spec, new_leaves)


def flatten_with_paths(tree: Tree) -> dict[str, Any]:
    """Returns the leaves by path, in flat order; a path reads like ``params/rnn_0/forward/w_ih``."""
    accessors, flat, _ = optree.tree_flatten_with_accessor(tree)
    return {"/".join(_name(entry) for entry in path): leaf for path, leaf in zip(accessors, flat, strict=True)}


def _name(entry: optree.PyTreeEntry) -> str:
    return entry.field if isinstance(entry, optree.NamedTupleEntry) else str(entry.entry)


def unflatten_like(tree: Tree, by_path: dict[str, Any]) -> Tree:
    """Puts leaves named by path into the structure of ``tree``.

    Raises:
      KeyError: when the paths are not exactly those of ``tree``; the message lists every missing and unknown path.
    """
    wanted = flatten_with_paths(tree)
    missing, unknown = sorted(wanted.keys() - by_path.keys()), sorted(by_path.keys() - wanted.keys())
    if missing or unknown:
        raise KeyError(f"the leaves do not fit the structure: missing {missing}, unknown {unknown}")
    return flatten(tree)[1]([by_path[path] for path in wanted])


def subtree(tree: Tree, path: str, *, default: Tree = None) -> Tree:
    """What nested dictionaries hold at a path such as ``rnn_0/forward``; the empty path is the tree itself."""
    for key in filter(None, path.split("/")):
        if key not in tree:
            return default
        tree = tree[key]
    return tree


def grafted(tree: Tree, path: str, branch: Tree) -> Tree:
    """Nested dictionaries with ``branch`` at a path that ``subtree`` finds; dictionaries on the way are made new."""
    key, _, rest = path.partition("/")
    return {**tree, key: grafted(tree.get(key, {}), rest, branch)} if key else branch


def zeros_like(tree: Tree) -> Tree:
    """A tree of zeros with the shapes, dtypes and devices of ``tree``."""
    return map(torch.zeros_like, tree)


def cast(tree: Tree, dtype: torch.dtype) -> Tree:
    """Casts every floating-point leaf to ``dtype`` and leaves the others as they are."""
    return map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)


def to(tree: Tree, device: torch.device | str) -> Tree:
    """Moves every tensor to ``device``."""
    return map(lambda leaf: leaf.to(device), tree)


def select(condition: Tensor, on_true: Tree, on_false: Tree) -> Tree:
    """Chooses between two trees of the same structure by one boolean scalar tensor, without reading it on the host."""
    return map(lambda a, b: torch.where(condition, a, b), on_true, on_false)


def add(first: Tree, second: Tree) -> Tree:
    """Adds two trees of the same structure, leaf by leaf."""
    flat, unflatten = flatten(first)
    return unflatten(list(torch._foreach_add(flat, leaves(second))))


def mean(trees: Iterable[Tree]) -> Tree:
    """The mean of trees of one structure, added up in float64; a single one stays as it is, to the last bit."""
    total, last, count = None, None, 0
    for last in trees:
        wide = cast(last, torch.float64)
        total = wide if total is None else add(total, wide)
        count += 1
    return last if count == 1 else map(lambda leaf, sum_: (sum_ / count).to(leaf.dtype), last, total)


def scale_(tree: Tree, factor: Tensor) -> Tree:
    """Multiplies every leaf by a scalar tensor, in place, and returns the tree; for trees that nobody else holds."""
    torch._foreach_mul_(leaves(tree), factor)
    return tree


def global_norm(tree: Tree) -> Tensor:
    """The Euclidean norm over all leaves together: a float32 scalar tensor (float64 when a leaf is)."""
    flat = leaves(tree)
    if not flat:
        return torch.zeros((), dtype=torch.float32, device="cpu")
    norms = [torch.linalg.vector_norm(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32)) for leaf in flat]
    return torch.linalg.vector_norm(torch.stack(norms))


def all_finite(tree: Tree) -> Tensor:
    """Whether every element of every leaf is finite: a boolean scalar tensor."""
    flat = leaves(tree)
    if not flat:
        return torch.ones((), dtype=torch.bool, device="cpu")
    return torch.stack([torch.isfinite(leaf).all() for leaf in flat]).all()


def size(tree: Tree) -> int:
    """The number of elements in all leaves together."""
    return sum(leaf.numel() for leaf in leaves(tree))
