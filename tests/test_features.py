import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.config import SpectConfig
from ds2f.errors import InputError
from ds2f.features import log_spectrogram, mel_bands, num_frames

CFG = SpectConfig()


def _by_definition(waveform, *, size, hop, full_scale=1):
    """The spectrogram summed out in float64, one frame and one bin at a time, before normalisation."""
    padded = np.pad(waveform.astype(np.float64), size // 2, mode="reflect")
    n = np.arange(size)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * n / size)
    basis = np.exp(-2j * np.pi * np.outer(np.arange(size // 2 + 1), n) / size)
    frames = [padded[start : start + size] for start in range(0, len(padded) - size + 1, hop)]
    return np.log1p(full_scale * np.abs(np.stack([basis @ (window * frame) for frame in frames], axis=1)))


@pytest.mark.parametrize(("rate", "samples"), [(16000, 161), (16000, 4321), (8000, 1600), (22050, 4410)])
def test_features_are_the_normalised_log_magnitudes_of_the_discrete_fourier_transform(rate, samples):
    cfg = SpectConfig(sample_rate=rate)
    waveform = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    expected = _by_definition(waveform, size=cfg.window_samples, hop=cfg.stride_samples)
    expected = (expected - expected.mean()) / expected.std(ddof=1)
    features = log_spectrogram(torch.from_numpy(waveform), cfg)
    assert features.dtype == torch.float32
    assert features.shape == (cfg.num_bins, num_frames(samples, cfg)) == expected.shape
    np.testing.assert_allclose(features, expected, atol=2e-5)


@pytest.mark.parametrize("normalize", ["utterance", "bins"])
def test_full_scale_counts_as_the_amplitude_that_is_asked_for_and_the_mean_is_the_one_that_is_named(normalize):
    cfg = SpectConfig(full_scale=1000, normalize=normalize)
    white = np.random.default_rng(0).normal(0, 0.01, 3001).astype(np.float32)
    waveform = white[1:] + 0.9 * white[:-1]  # low bins are loud
    expected = _by_definition(waveform, size=320, hop=160, full_scale=1000)
    expected -= expected.mean(axis=1, keepdims=True) if normalize == "bins" else expected.mean()
    expected /= math.sqrt(np.square(expected).sum() / (expected.size - 1))
    np.testing.assert_allclose(log_spectrogram(torch.from_numpy(waveform), cfg), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("mels", "rate", "samples"), [(1, 16000, 320), (40, 16000, 320), (64, 8000, 161), (200, 16000, 320)]
)
def test_a_bin_counts_with_the_mean_of_the_band_s_triangle(mels, rate, samples):
    cfg = SpectConfig(num_mels=mels, sample_rate=rate, window_size=samples / rate)
    mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)  # noqa: E731
    corners = np.interp(
        np.linspace(0, mel(rate / 2), mels + 2), mel(np.linspace(0, rate / 2, 200001)), np.linspace(0, rate / 2, 200001)
    )
    fine = 2000  # points in a bin
    hertz = ((np.arange(fine * (samples // 2 + 1)) + 0.5) / fine - 0.5) * rate / samples
    expected = np.stack([np.interp(hertz, corners[k : k + 3], [0, 1, 0]) for k in range(mels)])
    expected = expected.reshape(mels, samples // 2 + 1, fine).mean(axis=2)
    bands = mel_bands(cfg)
    np.testing.assert_allclose(bands, expected, atol=1e-4)
    assert (bands.sum(dim=1) > 0).all()
    inner = (np.arange(samples // 2 + 1) + 0.5) * rate / samples
    inner = (inner < corners[-2]) & (inner - rate / samples > corners[1])
    np.testing.assert_allclose(bands.sum(dim=0)[inner], 1, atol=1e-6)  # the bands lose nothing and count nothing twice


def test_mel_features_are_the_logarithms_of_summed_magnitudes():
    cfg = SpectConfig(num_mels=24, full_scale=10)
    waveform = np.random.default_rng(0).normal(0, 0.1, 3000).astype(np.float32)
    expected = np.log1p(10 * mel_bands(cfg).numpy() @ np.expm1(_by_definition(waveform, size=320, hop=160)))
    expected = (expected - expected.mean()) / expected.std(ddof=1)
    features = log_spectrogram(torch.from_numpy(waveform), cfg)
    assert features.shape == (24, num_frames(3000, cfg))
    np.testing.assert_allclose(features, expected, atol=2e-5)


@pytest.mark.parametrize("gain", [0.1, 10])
def test_a_large_full_scale_makes_features_that_hardly_notice_how_loud_a_recording_is(gain):
    waveform = torch.randn(4000, generator=torch.Generator().manual_seed(0)) / 100
    compressed, linear = (
        (log_spectrogram(gain * waveform, cfg) - log_spectrogram(waveform, cfg)).abs().max()
        for cfg in (SpectConfig(full_scale=1e6), CFG)
    )
    assert compressed < 0.02 < 0.2 < linear


def test_a_tone_stands_in_its_own_bin():
    seconds = torch.arange(16000) / 16000
    features = log_spectrogram(0.5 * torch.sin(2 * math.pi * 1000 * seconds), CFG)
    assert features[:, 5:-5].argmax(dim=0).unique().tolist() == [1000 * 320 // 16000]


@pytest.mark.parametrize("window", ["hamming", "hann", "blackman", "bartlett"])
def test_every_window_of_the_configuration_is_known(window):
    features = log_spectrogram(torch.randn(1000), SpectConfig(window=window))
    assert features.isfinite().all()
    assert features.std().item() == pytest.approx(1, abs=1e-4)


def test_silence_gives_zeros():
    assert log_spectrogram(torch.zeros(5000), CFG).count_nonzero() == 0


@pytest.mark.parametrize("samples", [1, 2, 159, 160])
def test_a_waveform_too_short_for_reflection_is_as_if_followed_by_zeros(samples):
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
    features = log_spectrogram(waveform, CFG)
    assert features.shape == (161, num_frames(samples, CFG))
    longer = np.zeros(161, np.float32)
    longer[:samples] = waveform
    expected = _by_definition(longer, size=320, hop=160)[:, : num_frames(samples, CFG)]
    deviation = expected.std(ddof=1)
    if samples > 1:  # one sample has a flat spectrum, which is all mean
        np.testing.assert_allclose(features, (expected - expected.mean()) / deviation, atol=2e-4)
    assert features.isfinite().all()


def test_an_empty_waveform_is_an_input_error():
    with pytest.raises(InputError, match="without samples"):
        log_spectrogram(torch.zeros(0), CFG)


def test_the_waveform_is_not_changed():
    waveform = torch.randn(1000)
    before = waveform.clone()
    log_spectrogram(waveform, CFG)
    assert torch.equal(waveform, before)


@settings(max_examples=50, deadline=None)
@given(samples=st.integers(1, 3000), rate=st.sampled_from([8000, 11025, 16000, 22050, 44100]))
def test_num_frames_counts_the_frames_that_are_made(samples, rate):
    cfg = SpectConfig(sample_rate=rate)
    assert log_spectrogram(torch.ones(samples), cfg).shape[1] == num_frames(samples, cfg)


def test_sixteen_kilohertz_gives_a_frame_every_160_samples_and_one_more():
    assert [num_frames(samples, CFG) for samples in (1, 159, 160, 319, 320, 16000)] == [1, 1, 2, 2, 3, 101]
