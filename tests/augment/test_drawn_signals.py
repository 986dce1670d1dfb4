"""A thousand drawn signals for each function: finite results of the promised lengths, arguments unchanged."""

import pytest
import torch
from signals import signal, thousand

from ds2f import augment
from ds2f.augment import telephone
from ds2f.config import AugmentationConfig
from ds2f.data import codecs

RATES = (2000, 8000, 11025, 16000, 48000)


def kept(function, *arguments, samples, **options):
    """The result of a function, which has the promised length, is finite, and left its arguments as they were."""
    before = [argument.clone() if isinstance(argument, torch.Tensor) else argument for argument in arguments]
    result = function(*arguments, **options)
    assert result.shape == (samples,)
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    for argument, copy in zip(arguments, before, strict=True):
        assert torch.equal(argument, copy) if isinstance(argument, torch.Tensor) else argument == copy
    return result


@thousand
def test_speed(draw):
    waveform, factor = signal(draw), draw.uniform(0.25, 4)
    kept(augment.speed, waveform, factor, samples=augment.stretched(len(waveform), factor))


@thousand
def test_tempo(draw):
    waveform, factor, rate = signal(draw), draw.uniform(0.25, 4), int(draw.choice(RATES))
    kept(augment.tempo, waveform, factor, sample_rate=rate, samples=augment.stretched(len(waveform), factor))


@thousand
def test_silence_around_an_utterance(draw):
    waveform, before, after = signal(draw), *draw.integers(0, 3000, 2).tolist()
    rate = int(draw.choice(RATES))
    found = kept(augment.surround, waveform, before, after, sample_rate=rate, samples=before + len(waveform) + after)
    assert torch.equal(found[before : before + len(waveform)], waveform)


@thousand
def test_gain(draw):
    waveform = signal(draw)
    kept(augment.gain, waveform, draw.uniform(-60, 60), samples=len(waveform))


@thousand
def test_noise(draw):
    waveform, noise, snr = signal(draw), signal(draw), draw.uniform(-20, 100)
    key = int(draw.integers(2**63))
    kept(augment.add_noise, waveform, noise, key, snr=snr, samples=len(waveform))


@thousand
def test_reverberation(draw):
    waveform, response = signal(draw), signal(draw)
    found = kept(augment.reverberate, waveform, response, samples=len(waveform))
    if len(waveform) and waveform.abs().max() > 1e-15:
        level = waveform.double().square().mean().sqrt()
        torch.testing.assert_close(found.double().square().mean().sqrt(), level, rtol=1e-5, atol=0)


@thousand
def test_impulse_responses(draw):
    room, rate = augment.Room(rt60=draw.uniform(0.01, 0.3), drr=draw.uniform(-20, 60)), int(draw.choice(RATES))
    response = augment.impulse_response(room, int(draw.integers(2**63)), sample_rate=rate)
    assert response.isfinite().all()
    assert response[0] == 1
    assert 10 * torch.log10(1 / response[1:].square().sum()).item() == pytest.approx(room.drr, abs=1e-6)


@thousand
def test_band_limit(draw):
    waveform, low, rate = signal(draw), draw.uniform(0, 4000) * draw.integers(2), int(draw.choice(RATES))
    high = low + draw.uniform(1, 30000)
    kept(augment.band_limit, waveform, low, high, sample_rate=rate, samples=len(waveform))


@thousand
def test_g711(draw):
    waveform, rate = signal(draw), int(draw.choice(RATES))
    codec = telephone.G711[draw.integers(2)]
    kept(telephone.coded, waveform, codec, sample_rate=rate, samples=len(waveform))


@thousand
def test_codecs_of_libsndfile(draw):
    waveform, codec = signal(draw, longest=300), ("gsm", "vorbis", "mp3", "opus")[draw.integers(4)]
    kept(codecs.coded, waveform, codec, int(draw.choice(RATES)), samples=len(waveform))


@thousand
def test_the_whole_chain(draw):
    waveform, rate = signal(draw, longest=200), int(draw.choice(RATES[:3]))
    how = augment.Perturbation(
        speed=draw.uniform(0.5, 2),
        tempo=draw.uniform(0.5, 2),
        before=int(draw.integers(100)),
        after=int(draw.integers(100)),
        reverb=True,
        room=augment.Room(draw.uniform(0.01, 0.1), draw.uniform(-20, 60)) if draw.integers(2) else None,
        gain=draw.uniform(-60, 60),
        snr=draw.uniform(-20, 100),
        band=(draw.uniform(0, 400), draw.uniform(401, 9000)),
        codec=telephone.G711[draw.integers(2)],
    )
    given = {"noise": signal(draw), "response": signal(draw)}
    kept(augment.perturb, waveform, how, 1, sample_rate=rate, samples=how.num_samples(len(waveform)), **given)


def spectrogram(draw):
    """Features [F, T], F from 1 and T from 0."""
    bins, frames = int(draw.integers(1, 40)), int(draw.choice((0, 1, 2, int(draw.integers(3, 60)))))
    return torch.from_numpy((10.0 ** draw.integers(-30, 8) * draw.normal(size=(bins, frames))).astype("float32"))


@thousand
def test_frequency_warp(draw):
    features = spectrogram(draw)
    before, frequencies = features.clone(), torch.linspace(0, 4000, len(features), dtype=torch.float64)
    found = augment.warp(features, draw.uniform(0.5, 2), frequencies)
    assert found.shape == features.shape
    assert torch.equal(features, before)
    assert found.isfinite().all()
    if features.numel():  # values are interpolated, so none leaves the range of its frame
        assert (found <= features.amax(0) + 1e-6 * features.abs().amax()).all()
        assert (found >= features.amin(0) - 1e-6 * features.abs().amax()).all()


@thousand
def test_masks_of_a_spectrogram(draw):
    features, key = spectrogram(draw), int(draw.integers(2**62))
    before, widths = features.clone(), draw.integers(0, 80, 4).tolist()
    cfg = AugmentationConfig(
        frequency_masks=widths[0] // 20,
        frequency_width=widths[1],
        time_masks=widths[2] // 20,
        time_width=widths[3],
    )
    found = augment.spec_augment(features, key, cfg)
    assert torch.equal(features, before)
    assert ((found == features) | (found == 0)).all()
    hidden = (found == 0) & (features != 0)
    rows, columns = hidden.all(1), hidden.all(0)
    assert torch.equal(hidden, (rows[:, None] | columns[None, :]) & (features != 0))
    assert torch.equal(augment.spec_augment(features.clone(), key, cfg, donate=True), found)
