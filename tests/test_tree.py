"""Tests of ds2f.tree."""

from typing import NamedTuple

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from ds2f import tree


class Point(NamedTuple):
    x: Tensor
    y: Tensor


def numbered() -> dict:
    """A tree of every container whose leaves, in flat order by hand, are 0 to 5."""
    leaf = [torch.tensor([float(n)]) for n in range(6)]
    return {"b": [leaf[2], {"d": leaf[4], "c": leaf[3]}], "a": Point(leaf[0], leaf[1]), "e": (leaf[5],)}


trees = st.recursive(
    st.builds(lambda n: torch.tensor(float(n)), st.integers(-9, 9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from("cabd"), inner, max_size=4),
        st.builds(Point, inner, inner),
        st.tuples(inner, inner),
    ),
    max_leaves=8,
)


def by_hand(node: object) -> list[Tensor]:
    """Leaves in the documented order, by plain recursion: sorted keys, everything else as it stands."""
    if isinstance(node, Tensor):
        return [node]
    children = [node[key] for key in sorted(node)] if isinstance(node, dict) else node
    return [leaf for child in children for leaf in by_hand(child)]


def test_flat_order_follows_sorted_keys_whatever_the_order_of_insertion() -> None:
    assert [leaf.item() for leaf in tree.leaves(numbered())] == [0, 1, 2, 3, 4, 5]
    backwards = dict(reversed(numbered().items()))
    assert [leaf.item() for leaf in tree.leaves(backwards)] == [0, 1, 2, 3, 4, 5]


@hypothesis.given(trees)
def test_leaves_are_those_of_a_plain_recursion(example: object) -> None:
    expected = by_hand(example)
    assert [id(leaf) for leaf in tree.leaves(example)] == [id(leaf) for leaf in expected]
    assert [id(leaf) for leaf in tree.flatten(example)[0]] == [id(leaf) for leaf in expected]
    assert [id(leaf) for leaf in tree.flatten_with_paths(example).values()] == [id(leaf) for leaf in expected]


@hypothesis.given(trees)
def test_unflatten_gives_back_the_containers(example: object) -> None:
    flat, unflatten = tree.flatten(example)
    copy = unflatten(flat)
    assert type(copy) is type(example)
    assert repr(copy) == repr(tree.map(lambda leaf: leaf, example))
    assert [id(leaf) for leaf in by_hand(copy)] == [id(leaf) for leaf in by_hand(example)]


def test_paths_name_keys_positions_and_fields() -> None:
    paths = [("a", "x"), ("a", "y"), ("b", 0), ("b", 1, "c"), ("b", 1, "d"), ("e", 0)]
    assert list(tree.flatten_with_paths(numbered())) == paths
    assert list(tree.flatten_with_names(numbered())) == ["a/x", "a/y", "b/0", "b/1/c", "b/1/d", "e/0"]


@pytest.mark.parametrize("other", [{"fc": {"weight": 2}}, {"fc.weight": 2}, {"fc": [2]}, {"fc": {0: 2}}])
def test_no_two_leaves_share_a_path(other: dict[str, object]) -> None:
    paths = tree.flatten_with_paths({"fc/weight": 1, **other})
    assert sorted(paths.values()) == [1, 2]


@pytest.mark.parametrize("both", [{"a/b": 1, "a": {"b": 2}}, {"a": {1: 1, "1": 2}}, {"": {"a": 1}, "/a": 2}])
def test_two_leaves_of_one_name_are_refused_where_names_are_needed(both: dict[str, object]) -> None:
    assert len(tree.flatten_with_paths(both)) == 2
    with pytest.raises(ValueError, match="two leaves are named"):
        tree.flatten_with_names(both)


def test_unflatten_like_takes_leaves_in_any_order() -> None:
    by_name = dict(reversed(tree.flatten_with_names(numbered()).items()))
    copy = tree.unflatten_like(tree.zeros_like(numbered()), by_name)
    assert isinstance(copy["a"], Point)
    assert [leaf.item() for leaf in by_hand(copy)] == [0, 1, 2, 3, 4, 5]


def test_unflatten_like_names_every_missing_and_unknown_leaf() -> None:
    by_name = tree.flatten_with_names(numbered())
    by_name["b/2"] = by_name.pop("b/0")
    by_name["e/9"] = by_name.pop("e/0")
    with pytest.raises(KeyError, match=r"missing \['b/0', 'e/0'\], unknown \['b/2', 'e/9'\]"):
        tree.unflatten_like(numbered(), by_name)


def test_map_takes_several_trees_and_leaves_them_alone() -> None:
    one, two = numbered(), numbered()
    total = tree.map(torch.add, one, two)
    assert [leaf.item() for leaf in tree.leaves(total)] == [0, 2, 4, 6, 8, 10]
    assert [leaf.item() for leaf in tree.leaves(one)] == [0, 1, 2, 3, 4, 5]


def test_map_refuses_trees_of_different_structure() -> None:
    with pytest.raises(ValueError, match="key"):
        tree.map(torch.add, {"a": torch.ones(1)}, {"b": torch.ones(1)})


def test_cast_changes_floating_point_leaves_only() -> None:
    example = {"weight": torch.ones(2), "count": torch.ones(2, dtype=torch.int64), "flag": torch.tensor(True)}
    cast = tree.cast(example, torch.bfloat16)
    assert {name: leaf.dtype for name, leaf in cast.items()} == {
        "weight": torch.bfloat16,
        "count": torch.int64,
        "flag": torch.bool,
    }
    assert example["weight"].dtype == torch.float32


def test_to_moves_every_leaf() -> None:
    assert {leaf.device.type for leaf in tree.leaves(tree.to(numbered(), "meta"))} == {"meta"}


@pytest.mark.parametrize("condition", [True, False])
def test_select_chooses_whole_trees_and_keeps_nan_out(condition: bool) -> None:
    good, bad = numbered(), tree.map(lambda leaf: leaf * float("nan"), numbered())
    chosen = tree.select(torch.tensor(condition), *((good, bad) if condition else (bad, good)))
    assert [leaf.item() for leaf in tree.leaves(chosen)] == [0, 1, 2, 3, 4, 5]


def test_zeros_like_keeps_shape_and_dtype() -> None:
    zeros = tree.zeros_like({"a": torch.ones(2, 3, dtype=torch.float64), "b": torch.ones(1, dtype=torch.int32)})
    assert zeros["a"].shape == (2, 3)
    assert zeros["a"].dtype == torch.float64
    assert zeros["b"].dtype == torch.int32
    assert not zeros["a"].any()


def test_global_norm_is_the_norm_of_all_elements_together() -> None:
    example = {"a": torch.tensor([[3.0, 4.0]]), "b": [torch.tensor(12.0), torch.zeros(0)]}
    assert tree.global_norm(example).item() == 13.0  # 3-4-5 and 5-12-13


def test_global_norm_of_half_precision_does_not_overflow() -> None:
    norm = tree.global_norm({"a": torch.full((4,), 60000.0, dtype=torch.float16)})
    assert norm.dtype == torch.float32
    assert norm.item() == 120000.0


def test_global_norm_of_nothing_is_zero() -> None:
    assert tree.global_norm({}).item() == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_element_anywhere_makes_a_tree_not_finite(value: float) -> None:
    example = numbered()
    assert tree.all_finite(example).item()
    example["b"][1]["c"] = torch.tensor([0.0, value])
    assert not tree.all_finite(example).item()


def test_an_empty_tree_is_finite() -> None:
    assert tree.all_finite([]).item()


def test_size_counts_elements() -> None:
    assert tree.size({"a": torch.ones(2, 3), "b": [torch.ones(()), torch.ones(0)]}) == 7


def test_a_subtree_is_found_by_its_path_and_grafted_back_without_touching_the_tree() -> None:
    whole = {"a": {"b": torch.ones(2), "c": torch.zeros(1)}, "d": torch.ones(3)}
    assert tree.subtree(whole, "a/b") is whole["a"]["b"]
    assert tree.subtree(whole, "") is whole
    assert tree.subtree(whole, "a/x", default={}) == {}
    grafted = tree.grafted(whole, "a/b", torch.full((2,), 7.0))
    assert grafted["a"]["b"].tolist() == [7, 7]
    assert whole["a"]["b"].tolist() == [1, 1]
    assert grafted["a"]["c"] is whole["a"]["c"]
    assert tree.grafted({}, "new/leaf", 1) == {"new": {"leaf": 1}}
    assert tree.grafted(whole, "", 5) == 5


def test_trees_are_added_leaf_by_leaf_into_new_ones() -> None:
    first, second = {"a": torch.ones(2), "b": [torch.tensor(3.0)]}, {"a": torch.ones(2), "b": [torch.tensor(4.0)]}
    added = tree.add(first, second)
    assert added["a"].tolist() == [2, 2]
    assert added["b"][0] == 7
    assert first["b"][0] == 3


def test_the_mean_is_added_up_in_float64_and_one_tree_is_its_own_mean() -> None:
    trees = [{"a": torch.tensor([1e8, 1.0])}, {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([-1e8, 6.0])}]
    assert tree.mean(trees)["a"].tolist() == [pytest.approx(1 / 3), 3.0]
    assert tree.mean(trees)["a"].dtype == torch.float32
    assert tree.mean(trees[:1])["a"] is trees[0]["a"]
