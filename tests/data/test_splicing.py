"""Recordings cut between their words, and pieces joined anew."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.data.splicing import Piece, cut, joined, recombined, strung

RATE = 16000


def spoken(words, gaps, *, pause=0.0, seed=0):
    """Noise of 0.1 s per character, with ``gaps`` seconds of amplitude ``pause`` between words.

    Returns:
      Samples, the text, when each character begins, and the samples where each pause begins and ends.
    """
    draw = np.random.default_rng(seed)
    samples, starts, pauses, text = [], [], [], " ".join(words)
    for character, gap in zip(text, [gaps[text[:index].count(" ") :] for index in range(len(text))], strict=True):
        at = sum(map(len, samples))
        starts.append(at / RATE)
        if character == " ":
            samples.append(pause * draw.standard_normal(round(gap[0] * RATE)))
            pauses.append((at, at + len(samples[-1])))
        else:
            samples.append(0.1 * draw.standard_normal(RATE // 10))
    return np.concatenate(samples).astype(np.float32), text, starts, pauses


@given(st.lists(st.text("ABC", min_size=1, max_size=4), min_size=1, max_size=5), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_pieces_end_in_the_pauses_and_are_the_whole(words, seed):
    samples, text, starts, pauses = spoken(words, [0.15] * len(words), seed=seed)
    pieces = cut(samples, text, starts, sample_rate=RATE)
    assert [piece.text for piece in pieces] == words
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces]), samples)
    places = np.cumsum([len(piece.samples) for piece in pieces])[:-1]
    for place, (first, last) in zip(places, pauses, strict=True):
        assert first <= place <= last


def test_words_without_a_pause_stay_together():
    samples, text, starts, _ = spoken(["A", "BB", "C"], [0.15, 0.0], seed=1)
    assert [piece.text for piece in cut(samples, text, starts, sample_rate=RATE)] == ["A", "BB C"]
    samples, text, starts, _ = spoken(["A", "BB", "C"], [0.15, 0.15], pause=0.05)
    assert [piece.text for piece in cut(samples, text, starts, sample_rate=RATE)] == ["A BB C"]


def test_silence_is_not_cut():
    whole = Piece("A B", np.zeros(RATE, np.float32))
    [piece] = cut(whole.samples, whole.text, [0.2, 0.4, 0.6], sample_rate=RATE)
    assert piece.text == whole.text
    assert np.array_equal(piece.samples, whole.samples)


def test_what_is_joined_fades_from_one_piece_into_the_next():
    ones, twos = np.full(400, 1, np.float32), np.full(400, 2, np.float32)
    found = joined([[Piece("A", ones)], [Piece("B", twos)]], words=4, draw=random.Random(0), sample_rate=RATE)
    assert len(found.text.split()) == 4
    assert len(found.samples) == 4 * 400 - 3 * 80, "the fades of 5 ms overlap"
    levels = [1 if word == "A" else 2 for word in found.text.split()]
    assert sorted(set(levels)) == [1, 2]
    for index, level in enumerate(levels):
        inside = found.samples[index * 320 + 80 : index * 320 + 320]
        assert np.array_equal(inside, np.full(240, level, np.float32))
    for index, (before, after) in enumerate(itertools.pairwise(levels)):
        fade = found.samples[(index + 1) * 320 : (index + 1) * 320 + 80]
        np.testing.assert_allclose(fade, np.linspace(before, after, 80), atol=1e-6)


@pytest.mark.parametrize("lengths", [(1, 1), (3, 400), (400, 3)])
def test_pieces_shorter_than_a_fade_are_joined_too(lengths):
    recordings = [[Piece("A", np.ones(length, np.float32))] for length in lengths]
    for seed in range(5):
        found = joined(recordings, words=3, draw=random.Random(seed), sample_rate=RATE)
        assert found.text == "A A A"
        np.testing.assert_allclose(found.samples, 1, atol=1e-6)


def test_neighbours_may_stay_together_and_are_then_unchanged():
    draw = np.random.default_rng(0)
    recording = [Piece(word, draw.standard_normal(500).astype(np.float32)) for word in ("A", "B", "C")]
    texts = {joined([recording], words=2, draw=random.Random(seed), sample_rate=RATE).text for seed in range(400)}
    assert texts == {"A B", "B C", *(f"{one} {other}" for one in "ABC" for other in "ABC"), "A B C"} | {
        f"{one} {pair}" for one in "ABC" for pair in ("A B", "B C")
    }
    whole = np.concatenate([piece.samples for piece in recording])
    for seed in range(20):
        found = joined([recording], words=1, draw=random.Random(seed), sample_rate=RATE)
        start = 500 * ["A", "B", "C"].index(found.text[0])
        assert np.array_equal(found.samples, whole[start : start + len(found.samples)])


def test_there_are_copies_of_every_length_and_a_seed_repeats_them():
    recordings = [[Piece("A B C D", np.ones(300, np.float32))], [Piece("E", np.zeros(200, np.float32))]]
    first, second = (
        [piece.text for piece in recombined(recordings, copies=50, draw=random.Random(3), sample_rate=RATE)]
        for _ in range(2)
    )
    assert first == second
    assert len(first) == 100
    assert all(len(text.split()) >= 4 for text in first[::2])
    assert set(first[1::2]) == {"E", "A B C D"}


def test_recordings_without_words_are_left_alone():
    recordings = [[Piece("", np.zeros(300, np.float32))], [Piece("A", np.ones(200, np.float32))]]
    found = list(recombined(recordings, copies=9, draw=random.Random(0), sample_rate=RATE))
    assert {piece.text for piece in found} == {"A"}
    assert len(found) == 9
    assert not list(recombined(recordings[:1], copies=9, draw=random.Random(0), sample_rate=RATE))


@pytest.mark.parametrize("seed", range(20))
def test_whole_utterances_are_strung_to_recordings_of_bounded_length(seed):
    draw = np.random.default_rng(seed)
    sizes = [*draw.integers(1, 3 * RATE, size=8), 0, 20 * RATE]
    utterances = [Piece(f"W{index}", np.full(size, index, np.float32)) for index, size in enumerate(sizes)]
    utterances.append(Piece("", np.ones(RATE, np.float32)))
    asked, longest = 60.0, 10.0
    first, second = (
        list(strung(utterances, seconds=asked, longest=longest, draw=random.Random(seed), sample_rate=RATE))
        for _ in range(2)
    )
    for new in first:
        words = new.text.split()
        assert len(words) >= 2
        assert len(new.samples) <= longest * RATE
        expected = [utterances[int(word[1:])].samples for word in words]
        assert np.array_equal(new.samples, np.concatenate(expected))
    seconds = [len(new.samples) / RATE for new in first]
    assert asked <= sum(seconds) < asked + seconds[-1]
    assert [new.text for new in first] == [new.text for new in second]
    assert len({len(new.text.split()) for new in first}) > 1, "of several lengths"


@pytest.mark.parametrize("sizes", [[], [300], [300, 20 * RATE], [0, 0]])
def test_nothing_is_strung_where_no_two_utterances_fit(sizes):
    utterances = [Piece("A", np.ones(size, np.float32)) for size in sizes]
    assert not list(strung(utterances, seconds=9, longest=10, draw=random.Random(0), sample_rate=RATE))
