"""Words with times and confidences, and their errors."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f import text
from ds2f.inference.confidence import Calibration
from ds2f.inference.timed_words import are_right, scored_transcript, timed_words
from ds2f.inference.transcript import Word
from ds2f.metrics import count_errors

LABELS = "_AB "
WORDS = st.lists(st.sampled_from(["ONE", "TWO", "OH"]), max_size=6)


@settings(deadline=None, max_examples=1000)
@given(
    st.lists(st.integers(1, 3), max_size=12),
    st.integers(0, 40),
    st.builds(Calibration, st.floats(1e-3, 1000), st.floats(-1000, 1000), st.floats(-2, 2)),
    st.integers(0, 99),
)
def test_there_are_as_many_words_times_and_confidences_as_the_transcript_has_words(tokens, frames, calibration, seed):
    values = 9 * np.random.default_rng(seed).standard_normal((frames, len(LABELS)))
    log_probs = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    found = timed_words(
        log_probs, tokens, LABELS, frame=0.02, begin=3.0, end=3.0 + 0.02 * frames, calibration=calibration
    )
    assert [word.text for word in found] == text.decode(tokens, LABELS).split()
    assert all(0 < word.confidence < 1 for word in found)
    times = [time for word in found for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(3.0 <= time <= 3.0 + 0.02 * frames + 1e-9 for time in times)
    if frames >= len(tokens) + sum(one == other for one, other in pairwise(tokens)):  # CTC has a path
        assert all(word.end - word.start >= 0.02 - 1e-9 for word in found)


def test_a_delay_moves_words_to_where_they_are_said():
    log_probs = np.log(np.full((8, 4), 0.1) + 0.6 * np.eye(4)[[0, 0, 0, 0, 1, 1, 2, 0]])
    plain, moved = (
        timed_words(log_probs, [1, 2], LABELS, frame=0.02, calibration=Calibration(delay=delay))[0]
        for delay in (0.0, 0.05)
    )
    assert (plain.start, plain.end) == pytest.approx((0.08, 0.14))
    assert (moved.start, moved.end) == pytest.approx((0.03, 0.09))


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (0.02, [(0.0, 0.02), (0.04, 0.06)]),  # the first would end where it begins
        (0.2, [(0.0, 0.02), (0.02, 0.04)]),  # both would
        (-0.02, [(0.02, 0.04), (0.06, 0.08)]),  # at the end of the stretch
        (-0.2, [(0.04, 0.06), (0.06, 0.08)]),
    ],
)
def test_a_word_at_an_edge_keeps_a_frame(delay, expected):
    log_probs = np.log(np.full((4, 4), 0.1) + 0.6 * np.eye(4)[[1, 3, 3, 2]])
    words = timed_words(log_probs, [1, 3, 2], LABELS, frame=0.02, end=0.08, calibration=Calibration(delay=delay))
    assert [(word.start, word.end) for word in words] == [pytest.approx(span) for span in expected]


@given(WORDS, WORDS)
def test_as_many_words_are_right_as_an_edit_path_leaves(said, heard):
    right = are_right(" ".join(said), heard)
    counts = count_errors(" ".join(said), " ".join(heard))
    assert len(right) == len(heard)
    assert len(heard) - sum(right) <= counts.word_errors
    assert right == [True] * len(said) if said == heard else counts.word_errors > 0


def test_an_utterance_with_its_errors():
    heard = (Word("ONE", 0.1, 0.2, 0.99), Word("FOR", 0.3001, 0.4, 0.5), Word("OH", 0.5, 0.6, math.pi / 10))
    found = scored_transcript("a.wav", "ONE TWO FOUR", "ONE FOR OH", heard)
    assert {"audio", "reference", "transcript"} < found.keys()
    assert (found["word_errors"], found["words"], found["char_errors"], found["chars"]) == (2, 3, 5, 10)
    assert [(pair["said"], pair["heard"]) for pair in found["alignment"]] == [
        *[("ONE", "ONE"), ("TWO", "FOR"), ("FOUR", "OH")]
    ]
    assert [pair["confidence"] for pair in found["alignment"]] == [0.99, 0.5, 0.3142]
    missing = scored_transcript("a.wav", "ONE TWO", "ONE", heard[:1])["alignment"][1]
    assert missing == {"said": "TWO", "heard": None}
