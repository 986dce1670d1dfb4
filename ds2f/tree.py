"""Pytrees: nested dicts, lists, tuples and NamedTuples of tensors.

Only this module flattens trees. optree sorts dictionary keys, so the flat order of a tree depends on its structure
alone. torch's own pytree module keeps the order of insertion instead.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import optree
import torch
from torch import Tensor

Tree = Any
Path = tuple[Any, ...]  # of a leaf: the dictionary key, index or field name at every level, from the root
T = TypeVar("T")


def map(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Applies ``fn`` to the leaves of trees of the same structure and returns a tree of the results."""
    return optree.tree_map(fn, tree, *rest)


def leaves(tree: Tree) -> list[Any]:
    """The leaves of ``tree`` in flat order.

    >>> leaves({"b": 1, "a": [2, 3]})
    [2, 3, 1]
    """
    return optree.tree_leaves(tree)


def flatten(tree: Tree) -> tuple[list[Any], Callable[[list[Any]], Tree]]:
    """The leaves in flat order, and the function that builds the same structure from a list of new leaves.

    >>> flat, unflatten = flatten({"b": 1, "a": [2, 3]})
    >>> unflatten([10 * leaf for leaf in flat])
    {'b': 10, 'a': [20, 30]}
    """
    flat, spec = optree.tree_flatten(tree)
    return flat, lambda new_leaves: optree.tree_unflatten(spec, new_leaves)


def flatten_with_paths(tree: Tree) -> dict[Path, Any]:
    """The leaves by path, in flat order: the key, index or field at every level. No two leaves share a path.

    >>> flatten_with_paths({"rnn_0": {"forward": {"w_ih": 1}}, "conv": [2, 3]})
    {('conv', 0): 2, ('conv', 1): 3, ('rnn_0', 'forward', 'w_ih'): 1}
    """
    accessors, flat, _ = optree.tree_flatten_with_accessor(tree)
    return {tuple(_key(entry) for entry in path): leaf for path, leaf in zip(accessors, flat, strict=True)}


def _key(entry: optree.PyTreeEntry) -> Any:
    return entry.field if isinstance(entry, optree.NamedTupleEntry) else entry.entry


def flatten_with_names(tree: Tree) -> dict[str, Any]:
    """The leaves by name, in flat order: the path's parts, joined by slashes, as in files and messages.

    Raises:
      ValueError: when two leaves have one name, such as ``{"a/b": ..., "a": {"b": ...}}``.

    >>> flatten_with_names({"rnn_0": {"forward": {"w_ih": 1}}, "conv": [2, 3]})
    {'conv/0': 2, 'conv/1': 3, 'rnn_0/forward/w_ih': 1}
    """
    named: dict[str, Any] = {}
    for path, leaf in flatten_with_paths(tree).items():
        name = "/".join(str(key) for key in path)
        if name in named:
            raise ValueError(f"two leaves are named {name}: rename a key that has a slash or is a number")
        named[name] = leaf
    return named


def unflatten_like(tree: Tree, by_name: dict[str, Any]) -> Tree:
    """Builds the structure of ``tree`` from leaves by name; the inverse of ``flatten_with_names``.

    Raises:
      KeyError: when the names differ from the names of ``tree``; the message lists every missing and unknown name.
    """
    wanted = flatten_with_names(tree)
    missing, unknown = sorted(wanted.keys() - by_name.keys()), sorted(by_name.keys() - wanted.keys())
    if missing or unknown:
        raise KeyError(f"the leaves do not fit the structure: missing {missing}, unknown {unknown}")
    return flatten(tree)[1]([by_name[name] for name in wanted])


def subtree(tree: Tree, path: str, *, default: Tree = None) -> Tree:
    """The branch of nested dictionaries at ``path``, or ``default``; the empty path is the tree itself.

    >>> subtree({"rnn_0": {"forward": {"w_ih": 1}}}, "rnn_0/forward")
    {'w_ih': 1}
    """
    for key in filter(None, path.split("/")):
        if key not in tree:
            return default
        tree = tree[key]
    return tree


def grafted(tree: Tree, path: str, branch: Tree) -> Tree:
    """A copy of nested dictionaries with ``branch`` at ``path``; missing dictionaries on the path are created.

    >>> grafted({"conv": 2}, "rnn_0/forward", {"w_ih": 1})
    {'conv': 2, 'rnn_0': {'forward': {'w_ih': 1}}}
    """
    key, _, rest = path.partition("/")
    return {**tree, key: grafted(tree.get(key, {}), rest, branch)} if key else branch


def zeros_like(tree: Tree) -> Tree:
    """A tree of zeros with the shapes, dtypes and devices of ``tree``."""
    return map(torch.zeros_like, tree)


def cast(tree: Tree, dtype: torch.dtype) -> Tree:
    """Casts every floating-point leaf to ``dtype``; other leaves stay unchanged."""
    return map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)


def to(tree: Tree, device: torch.device | str) -> Tree:
    """Moves every tensor to ``device``."""
    return map(lambda leaf: leaf.to(device), tree)


def select(condition: Tensor, on_true: Tree, on_false: Tree) -> Tree:
    """Returns ``on_true`` or ``on_false``, trees of one structure, by a boolean scalar tensor.

    The tensor is not read on the host.

    >>> select(torch.tensor(False), {"w": torch.ones(2)}, {"w": torch.zeros(2)})
    {'w': tensor([0., 0.])}
    """
    return map(lambda a, b: torch.where(condition, a, b), on_true, on_false)


def add(first: Tree, second: Tree) -> Tree:
    """Adds two trees of the same structure, leaf by leaf."""
    flat, unflatten = flatten(first)
    return unflatten(list(torch._foreach_add(flat, leaves(second))))


def mean(trees: Iterable[Tree]) -> Tree:
    """The mean of one or more trees of one structure, summed in float64. A single tree is returned unchanged."""
    total, last, count = None, None, 0
    for last in trees:
        wide = cast(last, torch.float64)
        total = wide if total is None else add(total, wide)
        count += 1
    return last if count == 1 else map(lambda leaf, sum_: (sum_ / count).to(leaf.dtype), last, total)


def scale_(tree: Tree, factor: Tensor) -> Tree:
    """Multiplies every leaf by a scalar tensor, in place, and returns the tree.

    The caller must own the leaves: nobody else may hold them.
    """
    torch._foreach_mul_(leaves(tree), factor)
    return tree


def global_norm(tree: Tree) -> Tensor:
    """The Euclidean norm over all elements of all leaves: a float32 scalar tensor (float64 if any leaf is float64).

    >>> global_norm({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    tensor(5.)
    """
    flat = leaves(tree)
    if not flat:
        return torch.zeros((), dtype=torch.float32, device="cpu")
    norms = [torch.linalg.vector_norm(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32)) for leaf in flat]
    return torch.linalg.vector_norm(torch.stack(norms))


def all_finite(tree: Tree) -> Tensor:
    """Whether every element of every leaf is finite, as a boolean scalar tensor."""
    flat = leaves(tree)
    if not flat:
        return torch.ones((), dtype=torch.bool, device="cpu")
    return torch.stack([torch.isfinite(leaf).all() for leaf in flat]).all()


def size(tree: Tree) -> int:
    """The number of elements of all leaves together."""
    return sum(leaf.numel() for leaf in leaves(tree))
