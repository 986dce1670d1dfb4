"""Segments cover a recording without pauses: none is longer than a minute, and every frame is in one of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.inference.chain import Chain, Grid
from ds2f.inference.pieces import Piece

SAMPLES, RATE = 20, 1000  # 50 frames of logits per second
LABELS = 4  # blank, two letters, space
LONGEST, OVERLAP = 25 * 50, 4 * 50  # frames of pieces


def overlapping(log_probs, longest=LONGEST):
    """The pieces of a recording without pauses, with their log-probabilities."""
    begin = shared = 0
    while True:
        end = min(begin + longest, len(log_probs))
        samples = np.zeros((end - begin) * SAMPLES, np.float32)
        yield Piece(begin * SAMPLES, samples, shared * SAMPLES, end * SAMPLES), log_probs[begin:end]
        if end == len(log_probs):
            return
        begin, shared = end - OVERLAP, OVERLAP


def segments(log_probs, longest=LONGEST, space=3):
    chain = Chain(lambda *segment: segment, Grid(SAMPLES, RATE, 0, space))
    for piece, values in overlapping(log_probs, longest):
        chain.add(piece, values)
    return chain.close()


def frames(count, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, LABELS)).astype(np.float32)
    return torch.from_numpy(values).log_softmax(dim=1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30_000), st.integers(0, 1000), st.sampled_from([LONGEST, 700, 311]), st.sampled_from([3, None]))
def test_every_frame_is_in_one_segment_of_at_most_a_minute(count, seed, longest, space):
    log_probs = frames(count, seed)
    found = segments(log_probs, longest, space)
    assert torch.equal(torch.cat([values for values, _, _ in found]), log_probs)
    assert all(len(values) <= 3000 for values, _, _ in found)
    assert [begin for _, begin, _ in found] == [0.0, *(end for _, _, end in found[:-1])]
    assert found[-1][2] == pytest.approx(count / 50)


@pytest.mark.parametrize("place", [2999, 2900, 2501])
@pytest.mark.parametrize("longest", [LONGEST, 311])
def test_a_gap_shortly_before_the_end_of_the_minute_leaves_enough_for_the_next_piece(place, longest):
    log_probs = torch.full((9000, LABELS), -9.0)
    log_probs[:, 1] = -0.001
    log_probs[place::3000] = torch.tensor([-9.0, -9.0, -9.0, -0.001])
    found = segments(log_probs, longest)
    assert len(found[0][0]) == place
    assert sum(len(values) for values, _, _ in found) == 9000
