"""Pieces cover a recording, are short enough, and are cut in its pauses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.inference import pieces
from ds2f.inference.pieces import Cutting, Piece

RATE, GRID = 1000, 20
SHORT = Cutting(shortest=0.5, longest=4.0, pause=0.4, margin=0.1, overlap=1.0)


def cut(samples: np.ndarray, block: int = 700, cutting: Cutting = SHORT) -> list[Piece]:
    blocks = (samples[begin : begin + block] for begin in range(0, len(samples), block))
    return list(pieces.cut(blocks, rate=RATE, grid=GRID, cutting=cutting))


def sound(*parts: tuple[float, float], seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Noise of (seconds, amplitude)."""
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.normal(0, loud, round(seconds * rate)) for seconds, loud in parts]).astype("f4")


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0.01, 6), st.sampled_from((0.0, 0.001, 0.1))), min_size=1, max_size=10),
    st.integers(1, 5000),
)
def test_pieces_cover_all_but_pauses(parts: list[tuple[float, float]], block: int) -> None:
    samples = sound(*parts)
    found = cut(samples, block)
    covered = np.zeros(len(samples), bool)
    reached = 0
    for piece in found:
        assert 0 < len(piece.samples) <= SHORT.longest * RATE
        assert piece.begin % GRID == 0
        np.testing.assert_array_equal(piece.samples, samples[piece.begin : piece.begin + len(piece.samples)])
        if piece.shared:
            assert reached - piece.begin == piece.shared
        covered[piece.begin : piece.begin + len(piece.samples)] = True
        reached = piece.begin + len(piece.samples)
    assert np.abs(samples[~covered]).max(initial=0) <= 0.3  # sounds of single samples at most


def seconds_in_pieces(*parts: tuple[float, float]) -> float:
    """Seconds that belong to pieces, overlaps counted once; at a rate at which the level of noise is steady."""
    samples = sound(*parts, rate=8000)
    found = pieces.cut([samples], rate=8000, grid=8 * GRID, cutting=SHORT)
    return sum(len(piece.samples) - piece.shared for piece in found) / 8000


@pytest.mark.parametrize("quiet", [0.0, 0.0003, 0.003])
def test_long_pauses_belong_to_no_piece(quiet: float) -> None:
    assert 6 <= seconds_in_pieces((3, 0.1), (30, quiet), (3, 0.1), (31, quiet)) <= 8
    assert 3 <= seconds_in_pieces((30, min(quiet, 0.0003)), (3, 0.1)) <= 4


def test_a_quiet_voice_after_a_loud_one_and_a_long_pause_is_kept() -> None:
    voice = [(0.3, 0.01), (0.1, 0.001)] * 15
    kept = seconds_in_pieces((3, 0.1), (30, 0.001), *voice, (20, 0.001), (0.3, 0.01))
    assert 3 + 6 + 0.3 <= kept <= 3 + 6 + 0.3 + 3


def test_steady_noise_that_may_hide_speech_is_kept() -> None:
    assert seconds_in_pieces((30, 0.01)) == 30
    assert seconds_in_pieces((5, 0.1), (30, 0.06)) == 35


@pytest.mark.parametrize("seconds", [0.5, 4.0, 13.0])
def test_a_silent_recording_has_no_pieces(seconds: float) -> None:
    assert cut(np.zeros(round(seconds * RATE), np.float32)) == []


def test_the_blocks_do_not_matter() -> None:
    samples = sound((3, 0.1), (0.6, 0.001), (9, 0.1), (0.2, 0.001), (3, 0.1))
    once = cut(samples, 10**6)
    for block in (1, 333, 4000):
        assert [(piece.begin, len(piece.samples), piece.shared) for piece in cut(samples, block)] == [
            (piece.begin, len(piece.samples), piece.shared) for piece in once
        ]


def test_a_short_recording_is_one_piece() -> None:
    samples = sound((1, 0.1), (1.5, 0.0), (1, 0.1))
    (piece,) = cut(samples)
    assert (piece.begin, len(piece.samples), piece.shared) == (0, len(samples), 0)


def test_cuts_lie_in_long_pauses_with_a_margin() -> None:
    samples = sound((2, 0.1), (1.0, 0.001), (3, 0.1), (0.8, 0.001), (2, 0.1))
    first, second, third = cut(samples)
    assert abs(len(first.samples) - 2100) <= 20
    assert abs(second.begin - 2900) <= 20
    assert abs(third.begin - (6800 - 100)) <= 20
    assert not second.shared
    assert not third.shared


def test_without_pauses_pieces_overlap_on_the_grid() -> None:
    found = cut(sound((11, 0.1)))
    assert [piece.shared for piece in found] == [0, 1000, 1000, 1000]
    assert all(len(piece.samples) == 4000 for piece in found[:-1])


def test_pieces_meet_where_both_name_the_blank() -> None:
    generator = np.random.default_rng(0)
    whole = np.log(generator.dirichlet(np.ones(4), 60))
    whole[:, 0] = -2.0
    whole[33, 0] = -0.01
    first, second = whole[:40].copy(), whole[24:].copy()
    first[-2:], second[:2] = 0.0, 0.0  # nonsense at the ends
    keep, drop = pieces.join(first, second, 16)
    np.testing.assert_array_equal(np.concatenate((first[:keep], second[drop:])), whole)
    assert keep == 33
