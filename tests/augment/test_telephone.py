import io
import math

import numpy as np
import pytest
import soundfile
import torch

from ds2f import augment
from ds2f.augment import telephone


def _tone(hertz, rate, samples):
    return torch.sin(2 * math.pi * hertz * torch.arange(samples, dtype=torch.float64) / rate).float()


def _decibels(hertz, rate, low, high):
    """Change of a tone's level in the middle of a second, and its change of phase in samples."""
    tone = _tone(hertz, rate, rate)
    middle = slice(rate // 4, 3 * rate // 4)
    window = np.hanning(rate // 2) * np.exp(-2j * np.pi * hertz * np.arange(rate // 2) / rate)
    given, heard = (
        np.sum(each[middle].double().numpy() * window)
        for each in (tone, augment.band_limit(tone, low, high, sample_rate=rate))
    )
    return 20 * math.log10(abs(heard / given) + 1e-12), np.angle(heard / given) * rate / (2 * np.pi * hertz)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize(("low", "high"), [(300.0, 3400.0), (150.0, 3700.0), (500.0, 2000.0)])
def test_tones_inside_the_band_pass_and_others_are_gone(rate, low, high):
    for inside in (low + 51, 0.5 * (low + high), high - 51):
        level, delay = _decibels(inside, rate, low, high)
        assert abs(level) < 0.02
        assert abs(delay) < 1e-3
    for cutoff in (low, high):
        assert _decibels(cutoff, rate, low, high)[0] == pytest.approx(-6.02, abs=0.1)
    for outside in (low - 60, high + 60, 0.8 * low - 60):
        assert _decibels(outside, rate, low, high)[0] < -58


def test_a_band_is_open_without_a_lower_cutoff_or_with_an_upper_one_beyond_the_rate():
    waveform = torch.randn(500, generator=torch.Generator().manual_seed(0))
    assert augment.band_limit(waveform, 0.0, 4000.0, sample_rate=8000) is waveform
    assert abs(_decibels(60, 16000, 0.0, 3000.0)[0]) < 0.01
    assert abs(_decibels(3990, 8000, 300.0, 9000.0)[0]) < 0.01
    constant = augment.band_limit(torch.ones(4000), 300.0, 9000.0, sample_rate=8000)
    assert constant[1000:3000].abs().max() < 1e-6


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_click_stays_at_its_place(rate):
    for place in (0, 1000, 3999):
        click = torch.zeros(4000)
        click[place] = 1.0
        assert augment.band_limit(click, 300.0, 3400.0, sample_rate=rate).abs().argmax() == place


@pytest.mark.parametrize(("codec", "subtype"), [("ulaw", "ULAW"), ("alaw", "ALAW")])
def test_every_sample_is_quantized_as_libsndfile_does(codec, subtype):
    samples = np.arange(-32768, 32768).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, format="WAV", subtype=subtype)
    file.seek(0)
    expected, _ = soundfile.read(file, dtype="int16")
    assert np.array_equal(getattr(telephone, codec)(samples.astype(np.int32)), expected)


@pytest.mark.parametrize("codec", telephone.G711)
def test_the_distortion_of_g711_does_not_depend_on_the_level(codec):
    """Theory: about 38 dB for a sine at any level of 40 dB below full scale and more; here the peak is always set."""
    tone = _tone(437, 8000, 8000)
    noises = []
    for level in (1e-6, 0.01, 1.0, 30.0):
        heard = telephone.coded(level * tone, codec, sample_rate=8000)
        noises.append(10 * math.log10(tone.square().mean() / (heard / level - tone).square().mean()))
    assert max(noises) - min(noises) < 0.1
    assert 35 < min(noises) < 41


@pytest.mark.parametrize("rate", [2000, 11025, 16000, 48000])
def test_a_telephone_codec_has_eight_kilohertz_and_keeps_length_and_place(rate):
    samples = rate + 3
    speech = _tone(400, rate, samples) * (torch.arange(samples) // (rate // 5) % 2)
    heard = telephone.coded(speech, "ulaw", sample_rate=rate)
    assert len(heard) == samples
    assert 10 * torch.log10(speech.square().mean() / (heard - speech).square().mean()) > 25, "no delay"
    if rate > 8000:
        assert telephone.coded(_tone(4500, rate, samples), "ulaw", sample_rate=rate).square().mean() < 0.005


def test_silence_stays_silent_in_every_codec():
    for codec in telephone.G711:
        assert telephone.coded(torch.zeros(100), codec, sample_rate=16000).count_nonzero() == 0
