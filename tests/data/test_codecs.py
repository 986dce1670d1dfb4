import math

import numpy as np
import pytest
import torch
from scipy import signal

from ds2f.config import AugmentationConfig
from ds2f.data import codecs

NAMES = ("ulaw", "alaw", "gsm", "opus", "vorbis", "mp3")


def _speech(rate, seconds=1.5):
    """Noise with the spectrum of speech, with pauses: its place in time shows."""
    samples = round(seconds * rate)
    draw = np.random.default_rng(0)
    low, high = signal.butter(2, [200, min(1500, 0.45 * rate)], "bandpass", fs=rate)
    noise = signal.lfilter(low, high, draw.normal(0, 1, samples))
    syllables = np.sin(2 * np.pi * 3 * np.arange(samples) / rate) > 0
    return torch.from_numpy((0.2 * noise / np.abs(noise).max() * (0.05 + syllables)).astype(np.float32))


def test_the_codecs_are_those_of_the_setting():
    with pytest.raises(ValueError, match="not one of " + ", ".join(NAMES)):
        AugmentationConfig(codecs=("mp4",))


@pytest.mark.parametrize("rate", [2000, 8000, 11025, 16000, 22050, 48000])
@pytest.mark.parametrize("codec", NAMES)
def test_a_codec_keeps_length_place_and_level(codec, rate):
    speech = _speech(rate)[: rate + 7]
    heard = codecs.coded(speech, codec, rate)
    assert heard.shape == speech.shape
    assert not torch.equal(heard, speech)
    correlation = signal.correlate(heard.double().numpy(), speech.double().numpy())
    late = correlation.argmax() - (len(speech) - 1)
    assert abs(late) <= max(1, rate // 8000), "samples; less than a thirtieth of a frame's stride"
    level = 10 * math.log10(heard.square().mean() / speech.square().mean())
    assert abs(level) < 1.5
    assert correlation.max() / math.sqrt(float(heard.square().sum() * speech.square().sum())) > 0.75


@pytest.mark.parametrize("codec", NAMES)
def test_the_same_bits_come_every_time_and_at_every_level(codec):
    speech = _speech(16000, 0.3)
    first = codecs.coded(speech, codec, 16000)
    assert torch.equal(first, codecs.coded(speech.clone(), codec, 16000))
    assert torch.equal(first * 256, codecs.coded(speech * 256, codec, 16000))


@pytest.mark.parametrize("codec", NAMES)
def test_a_sound_in_the_last_samples_is_not_cut_off(codec):
    speech = torch.zeros(8000)
    speech[-800:] = _speech(16000)[2000:2800]
    heard = codecs.coded(speech, codec, 16000)
    kept = heard[-800:].square().sum() / speech.square().sum()
    assert 0.5 < kept < 1.5
