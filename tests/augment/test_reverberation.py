import math

import numpy as np
import pytest
import torch
from scipy import signal

from ds2f import augment

RATE = 16000


def _noise(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def _reverberation_time(response, sample_rate, *, first=-5.0, last=-35.0):
    """Seconds to decay by 60 dB, by Schroeder's backward integration and a line from ``first`` to ``last`` dB (T30)."""
    energy = np.square(np.asarray(response, dtype=np.float64))
    decay = np.cumsum(energy[::-1])[::-1]
    decibels = 10 * np.log10(decay / decay[0])
    chosen = np.flatnonzero((decibels <= first) & (decibels >= last))
    slope, _ = np.polyfit(chosen / sample_rate, decibels[chosen], 1)
    return -60 / slope


def test_backward_integration_finds_the_time_of_an_exact_decay():
    seconds = np.arange(16000) / 16000
    assert _reverberation_time(10 ** (-3 * seconds / 0.7), 16000) == pytest.approx(0.7, rel=0.01)


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("rt60", [0.1, 0.3, 0.8, 2.0])
@pytest.mark.parametrize("drr", [-10.0, 6.0])
def test_the_energy_of_a_click_decays_as_asked(rate, rt60, drr):
    click = torch.zeros(round(rate * rt60 * 1.2))
    click[0] = 0.5
    for key in range(3):
        response = augment.impulse_response(augment.Room(rt60, drr), key, sample_rate=rate)
        heard = augment.reverberate(click, response, direct=0)
        found = _reverberation_time(heard[1:], rate)  # behind the direct sound
        assert found == pytest.approx(rt60, rel=0.1)
        ratio = 10 * math.log10(heard[0].double().square() / heard[1:].double().square().sum())
        assert ratio == pytest.approx(drr, abs=0.05)


def test_rooms_of_many_keys_decay_as_asked_on_average_and_differ():
    responses = [augment.impulse_response(augment.Room(0.5, 0.0), key, sample_rate=8000)[1:] for key in range(60)]
    assert np.mean([_reverberation_time(each, 8000) for each in responses]) == pytest.approx(0.5, rel=0.01)
    assert abs(np.corrcoef(responses[0], responses[1])[0, 1]) < 0.1
    again = augment.impulse_response(augment.Room(0.5, 0.0), 0, sample_rate=8000)[1:]
    assert torch.equal(again, responses[0])


@pytest.mark.parametrize("samples", [1, 7, 400, 5000])
@pytest.mark.parametrize("peak", [0, 30])
def test_reverberation_is_the_convolution_from_the_direct_sound_on_at_the_level_of_before(samples, peak):
    speech, response = _noise(samples), 0.2 * _noise(900, seed=1)
    response[peak] = 3.0
    full = signal.convolve(speech.double().numpy(), response.double().numpy(), method="direct")
    expected = full[peak : peak + samples]
    expected *= np.sqrt(np.mean(np.square(speech.double().numpy())) / np.mean(np.square(expected)))
    found = augment.reverberate(speech, response)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("delay", [0, 80, 2000])
@pytest.mark.parametrize("level", [1e-3, 1.0, -50.0])
def test_a_response_with_a_delay_and_any_level_keeps_the_place_and_the_level_of_the_sound(delay, level):
    speech = _noise(4000)
    response = torch.zeros(3000)
    response[delay] = level
    torch.testing.assert_close(augment.reverberate(speech, response).abs(), speech.abs(), atol=1e-5, rtol=1e-5)


def test_the_place_of_speech_is_kept_in_a_room():
    speech = _noise(8000) * (torch.arange(8000) // 1000 % 2)
    room = augment.impulse_response(augment.Room(0.4, 3.0), 2, sample_rate=RATE)
    delayed = torch.cat((torch.zeros(123), room.float()))
    for response in (room, delayed):
        heard = augment.reverberate(speech, response)
        correlation = signal.correlate(heard.numpy(), speech.numpy())
        assert correlation.argmax() == len(speech) - 1, "the largest correlation is at no delay"


@pytest.mark.parametrize(
    ("speech", "response"),
    [(torch.zeros(50), torch.ones(3)), (torch.ones(50), torch.zeros(3)), (torch.ones(50), torch.zeros(0))],
)
def test_silence_and_silent_responses_leave_the_waveform(speech, response):
    assert augment.reverberate(speech, response) is speech
