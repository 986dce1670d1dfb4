"""Tests of the division of utterances into sets."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds2f.data import division
from ds2f.errors import InputError

GROUPS = st.lists(st.integers(0, 12).map(lambda number: f"speaker{number}"), min_size=3, max_size=200).filter(
    lambda groups: len(set(groups)) >= 3
)


@given(groups=GROUPS, held_out=st.floats(0, 0.4), seed=st.integers(0, 5))
def test_groups_stay_together_and_every_set_has_some(groups: list[str], held_out: float, seed: int):
    splits = division.by_groups(groups, held_out=held_out, what="speakers", salt=f"{seed} ")
    pairs = set(zip(groups, splits, strict=True))
    assert len(pairs) == len(set(groups)), "a group in two sets"
    assert set(splits) == {"train", "val", "test"}
    sizes = Counter(groups)
    for split in ("val", "test"):
        members = {group for group, own in pairs if own == split}
        assert len(members) == 1 or sum(sizes[group] for group in members) <= held_out * len(groups)


@given(groups=GROUPS)
def test_the_division_does_not_depend_on_the_order(groups: list[str]):
    def division_of(each: list[str]) -> set[tuple[str, str]]:
        return set(zip(each, division.by_groups(each, held_out=0.1, what="speakers"), strict=True))

    assert division_of(random.Random(0).sample(groups, len(groups))) == division_of(groups)


def test_fewer_than_three_groups_are_refused():
    with pytest.raises(InputError, match="2 speakers cannot be divided"):
        division.by_groups(["ann", "bob", "ann"], held_out=0.1, what="speakers")


def test_utterances_that_join_later_move_no_other():
    names = [f"wav/{number}.wav" for number in range(4000)]
    few, all_of_them = (division.by_hash(each, held_out=0.1) for each in (names[:1000], names))
    assert all_of_them[:1000] == few
    counts = Counter(all_of_them)
    for split in ("val", "test"):
        assert abs(counts[split] - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5, "four standard deviations"
    assert division.by_hash(names, held_out=0.1, salt="1 ") != all_of_them
    assert set(division.by_hash(names, held_out=0)) == {"train"}
