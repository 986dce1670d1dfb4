"""Pauses are found by level and by Silero's model; measurements do not depend on how a recording is forgotten."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ds2f.errors import InputError
from ds2f.inference import pieces
from ds2f.inference.pauses import Energy, Measurements
from ds2f.inference.silero import Silero

RATE = 1000


class Numbers:
    """A detector whose measurements tell their own samples."""

    hop = 7

    def measure(self, samples):
        assert len(samples) % self.hop == 0
        return samples[:: self.hop].astype(np.float64)

    def quiet(self, measured):
        return measured % 3 != 0


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 90)), min_size=1, max_size=12))
def test_measurements_are_of_their_samples_however_much_is_forgotten(steps):
    samples = np.arange(2000, dtype=np.float32)
    measured, begin, reached = Measurements(Numbers()), 0, 0
    for forgotten, length in steps:
        begin = min(begin + forgotten, reached)
        reached = max(reached, begin + length)
        measured.measure(samples[begin:], begin, reached)
        hops = [hop * 7 for hop in range(-(-begin // 7), reached // 7)]
        quiet = {hop for hop in hops if hop % 3 != 0}
        found = measured.pauses(begin, reached)
        assert {hop for first, last in found for hop in range(first, last, 7)} == quiet
        assert all(begin <= first < last <= reached for first, last in found)


def test_without_contrast_nothing_is_a_pause():
    energy = Energy(RATE)
    noise = np.random.default_rng(0).normal(0, 0.1, 3000).astype(np.float32)
    assert not energy.quiet(energy.measure(noise)).any()


def speech(seconds: float) -> np.ndarray:
    """A voice's spectrum, pulses through three resonances whose frequencies move: enough for Silero's model."""
    rate, time = 16000, np.arange(int(seconds * 16000)) / 16000
    pitch = 120 + 20 * np.sin(2 * np.pi * 2.5 * time)
    phase = np.cumsum(pitch) / rate
    found = np.zeros(len(time))
    for harmonic in range(1, 30):
        frequency = harmonic * pitch
        formants = [
            (500 + 250 * np.sin(2 * np.pi * 4 * time), 80),
            (1500 + 500 * np.sin(2 * np.pi * 3 * time), 120),
            (2500, 160),
        ]
        gain = sum(1 / (1 + ((frequency - middle) / width) ** 2) for middle, width in formants)
        found += gain * np.sin(2 * np.pi * harmonic * phase)
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time - np.pi / 2)
    return (0.2 * found / np.abs(found).max() * envelope).astype(np.float32)


def test_silero_finds_pauses_that_music_fills():
    pytest.importorskip("silero_vad", reason="pip install 'ds2f[vad]'")
    threads = torch.get_num_threads()
    time = np.arange(16000 * 2) / 16000
    chord = sum(np.sin(2 * np.pi * frequency * time) for frequency in (262, 330, 392))
    music = (0.07 * chord).astype(np.float32)
    samples = np.concatenate((speech(3), music, speech(3)))
    found = list(
        pieces.cut([samples], rate=16000, grid=640, cutting=pieces.Cutting(longest=6.0, overlap=1.0), detector=Silero)
    )
    assert torch.get_num_threads() == threads
    assert [piece.shared for piece in found] == [0, 0]
    assert 2.5 < found[0].end / 16000 < 4.0
    assert 4.0 < found[1].begin / 16000 < 5.2
    by_level = pieces.cut([samples], rate=16000, grid=640, cutting=pieces.Cutting(longest=6.0, overlap=1.0))
    assert [piece.begin for piece in by_level] != [piece.begin for piece in found]


def test_silero_takes_the_rates_of_its_model():
    with pytest.raises(InputError, match=r"8000 or 16000 .* 44100; take --vad=energy"):
        Silero(44100)
