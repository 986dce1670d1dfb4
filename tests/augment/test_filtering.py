"""Tests of the convolution with an impulse response."""

import numpy as np
import pytest
import torch
from scipy import fft, signal

from ds2f.augment.filtering import fast_length, filtered


def test_the_length_of_a_transform_is_scipys():
    assert [fast_length(n) for n in range(1, 5000)] == [fft.next_fast_len(n, real=True) for n in range(1, 5000)]


@pytest.mark.parametrize(("samples", "taps", "origin"), [(1, 1, 0), (1000, 37, 18), (317, 900, 0)])
def test_a_waveform_is_convolved_in_its_place(samples, taps, origin):
    drawn = np.random.default_rng(0)
    waveform, response = drawn.standard_normal(samples), drawn.standard_normal(taps)
    whole = signal.convolve(waveform, response, method="direct")
    expected = np.pad(whole, (0, samples))[origin : origin + samples]
    assert np.allclose(filtered(torch.from_numpy(waveform), response, origin=origin), expected)
