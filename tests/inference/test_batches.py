"""Tests of the windows and batches of pieces."""

import itertools

import numpy as np
import pytest

from ds2f.inference.batches import _BATCH_FRAMES, _WINDOW_FRAMES, _WINDOW_ITEMS, batches_by_length, windows


@pytest.mark.parametrize(("seed", "longest"), [(0, 1), (1, 300), (2, 2_500), (3, 200_000)])
def test_windows_keep_the_order_and_hold_a_bounded_number_of_frames(seed, longest):
    lengths = np.random.default_rng(seed).integers(0, longest, size=2_000, endpoint=True).tolist()
    found = list(windows(iter(lengths), lambda frames: frames))
    assert list(itertools.chain.from_iterable(found)) == lengths
    assert all(0 < len(window) <= _WINDOW_ITEMS and sum(window[:-1]) < _WINDOW_FRAMES for window in found)
    for one, other in itertools.pairwise(found):  # none could be larger
        assert len(one) == _WINDOW_ITEMS or sum(one) >= _WINDOW_FRAMES, other


def test_a_window_is_given_as_soon_as_it_is_full():
    lengths = iter([_WINDOW_FRAMES, 1, 1])
    assert next(windows(lengths, lambda frames: frames)) == [_WINDOW_FRAMES]
    assert next(lengths) == 1, "nothing after the window was taken"


@pytest.mark.parametrize("seed", range(5))
def test_batches_hold_every_piece_once_with_little_padding(seed):
    lengths = np.random.default_rng(seed).integers(1, 3_000, size=300).tolist()
    batches = list(batches_by_length(lengths))
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(300))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= _BATCH_FRAMES
        assert sum(lengths[index] for index in batch) >= 0.9 * padded
