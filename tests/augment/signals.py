"""Signals of every kind that a recording may hold, and a thousand draws of them for a test."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

_KINDS = {
    "silence": lambda draw, size: np.zeros(size),
    "constant": lambda draw, size: np.ones(size),
    "noise": lambda draw, size: draw.normal(0, 0.1, size),
    "tone": lambda draw, size: np.sin(np.arange(size) * draw.uniform(0, np.pi)),
    "click": lambda draw, size: np.where(np.arange(size) == size // 3, 1.0, 0.0),
    "square": lambda draw, size: np.where(np.arange(size) // 7 % 2, 1.0, -1.0),
    "half silent": lambda draw, size: np.where(np.arange(size) < size // 2, 0.0, draw.normal(0, 1, size)),
}
_NAMES = sorted(_KINDS)
_SHORT = (0, 1, 2, 3)
_LEVELS = (0, -1, 8, -4, -20, -38, -42)  # powers of ten: to the smallest numbers, and to those that audio.load refuses


def signal(draw, longest=1500):
    """A float32 waveform [N], N from 0, of a numpy generator."""
    size = int(draw.choice(_SHORT)) if draw.random() < 0.2 else int(draw.integers(4, longest))
    shape = _KINDS[_NAMES[draw.integers(len(_NAMES))]](draw, size)
    return torch.from_numpy((10.0 ** int(draw.choice(_LEVELS)) * shape).astype(np.float32))


def thousand(test):
    """Runs a test with a thousand numpy generators, ten of each seed that hypothesis draws: the seed is what it shows.

    A thousand examples of hypothesis itself would take ten times as long as the functions under test.
    """

    @settings(max_examples=100, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def run(seed):
        for number in range(10):
            test(np.random.default_rng([seed, number]))

    run.__name__ = test.__name__
    return run
