"""Tests of ds2f.rng."""

import hashlib
import itertools
import random

import hypothesis
import numpy as np
import torch
from hypothesis import strategies as st

from ds2f import rng

keys = st.integers(0, 2**63 - 1)


@hypothesis.given(keys, st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=3))
def test_a_key_fits_a_torch_generator_and_is_a_function_of_its_arguments(key: int, data: list) -> None:
    derived = rng.fold_in(key, *data)
    assert 0 <= derived < 2**63
    assert derived == rng.fold_in(key, *data)
    assert rng.generator(derived).initial_seed() == derived


def test_a_key_is_the_same_in_every_process_and_version() -> None:
    digest = hashlib.blake2b(b"(7, 3, 'dropout')", digest_size=8).digest()
    assert rng.fold_in(7, 3, "dropout") == int.from_bytes(digest, "little") // 2


def test_derived_keys_do_not_collide() -> None:
    uses = itertools.product(range(10), range(50), range(10), ["tempo", "noise"])
    derived = {rng.fold_in(*use) for use in uses}
    assert len(derived) == 10 * 50 * 10 * 2


def test_order_type_and_grouping_of_the_data_matter() -> None:
    variants = [(1, 2, 3), (1, 3, 2), (1, "2", 3), (1, 23), (12, 3), (1, "23"), (1, 2, "3")]
    assert len({rng.fold_in(*variant) for variant in variants}) == len(variants)


def test_every_bit_of_a_key_is_used() -> None:
    derived = [rng.fold_in(0, n) for n in range(4000)]
    for bit in range(63):
        share = sum(key >> bit & 1 for key in derived) / len(derived)
        assert 0.45 < share < 0.55, bit


@hypothesis.given(keys, st.integers(0, 20))
def test_numbered_keys_are_distinct_and_differ_from_their_parent(key: int, num: int) -> None:
    parts = [rng.fold_in(key, index) for index in range(num)]
    assert len({key, *parts}) == num + 1


def test_numbered_keys_do_not_depend_on_their_number() -> None:
    longer, shorter = ([rng.fold_in(5, index) for index in range(num)] for num in (7, 3))
    assert longer[:3] == shorter


def test_generators_of_different_keys_draw_uncorrelated_numbers() -> None:
    draws = torch.stack([torch.randn(4000, generator=rng.generator(key)) for key in map(rng.fold_in, range(4))])
    correlation = torch.corrcoef(draws) - torch.eye(4)
    assert correlation.abs().max() < 0.08  # five standard deviations of 1 / sqrt(4000)


def test_the_global_random_states_are_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    torch.rand(3, generator=rng.generator(rng.fold_in(1, "use")))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())
