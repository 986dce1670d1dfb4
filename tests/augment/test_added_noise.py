import math

import numpy as np
import pytest
import torch

from ds2f import augment
from ds2f.augment.noise import part_of

RATE = 16000


def _tone(hertz, samples=RATE):
    return torch.sin(2 * math.pi * hertz * torch.arange(samples) / RATE)


def _noise(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def _ratio(signal, noise):
    """Signal-to-noise ratio by numpy, dB."""
    power = [np.mean(np.square(each.numpy().astype(np.float64))) for each in (signal, noise)]
    return 10 * math.log10(power[0] / power[1])


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
@pytest.mark.parametrize("noise_samples", [37, 5000, 50000])
def test_noise_is_added_at_the_signal_to_noise_ratio_however_long_it_is(snr, noise_samples):
    speech, noise = _tone(300, 8000), 0.01 * _noise(noise_samples)
    added = augment.add_noise(speech, noise, 7, snr=snr) - speech
    assert _ratio(speech, added) == pytest.approx(snr, abs=0.01)


@pytest.mark.parametrize("snr", [0.0, 12.0, 30.0])
@pytest.mark.parametrize("noise_samples", [500, 90000])
def test_the_ratio_holds_after_the_steps_before_it(snr, noise_samples):
    speech, noise = 0.1 * _tone(300, 24000) * torch.linspace(0, 1, 24000), _noise(noise_samples)
    before = augment.Perturbation(
        speed=1.1, tempo=0.85, before=3000, after=100, reverb=True, room=augment.Room(0.4, 0.0), gain=-7.0
    )
    clean = augment.perturb(speech, before, 3, sample_rate=RATE)
    noisy = augment.perturb(speech, before._replace(snr=snr), 3, sample_rate=RATE, noise=noise)
    assert _ratio(clean, noisy - clean) == pytest.approx(snr, abs=0.2)


def test_a_line_takes_signal_and_noise_alike():
    """A band limit is linear: what it does to the sum it does to both parts, so their ratio is that of the parts."""
    speech, noise = _tone(1000, 8000), _noise(9000)
    line = augment.Perturbation(band=(300.0, 3400.0))
    clean = augment.perturb(speech, line, 3, sample_rate=RATE)
    noisy = augment.perturb(speech, line._replace(snr=10.0), 3, sample_rate=RATE, noise=noise)
    # 3,100 of 8,000 Hz of the white noise pass, and the tone passes whole.
    assert _ratio(clean, noisy - clean) == pytest.approx(10 + 10 * math.log10(8000 / 3100), abs=0.3)


def test_a_long_noise_is_cropped_at_every_place_and_never_across_its_ends():
    noise = torch.arange(100.0)
    crops = [part_of(noise, 90, key) for key in range(400)]
    for crop in crops:
        assert torch.equal(crop, torch.arange(90.0) + crop[0])
    assert {int(crop[0]) for crop in crops} == set(range(11))
    assert torch.equal(part_of(noise, 100, 5), noise)


def test_a_short_noise_is_looped_from_every_place():
    noise = torch.arange(30.0)
    parts = [part_of(noise, 200, key) for key in range(400)]
    period = 27  # the last tenth lies over the first
    for part in parts:
        assert torch.equal(part[period:], part[:-period])
    assert len({float(part[0]) for part in parts}) == period
    middle = set(range(3, 27))
    assert middle <= {int(value) for value in parts[0].tolist()}, "outside the overlap the noise is as it was"


def test_a_loop_has_no_seam():
    """The noise ends elsewhere than it began. The largest step in the loop is hardly larger than in the noise."""
    noise = torch.cos(torch.linspace(0, 9.5 * math.pi, 4000))
    hard = torch.cat((noise, noise)).diff().abs().max()
    looped = part_of(noise, 20000, 1).diff().abs().max()
    assert hard > 0.9
    assert looped < 2 * noise.diff().abs().max()


def test_a_loop_of_white_noise_keeps_its_level_at_the_seam():
    """Equal power: 100 ms around the seam are as loud as the rest."""
    noise = _noise(16000)
    loop = part_of(noise, 3 * 14400, 0)
    levels = loop.unfold(0, 1600, 1600).square().mean(dim=1).sqrt()
    assert 0.9 < levels.min() <= levels.max() < 1.1


def test_noise_begins_where_the_key_says():
    speech, noise = _tone(300, 8000), _noise(50000)
    mixed = [augment.add_noise(speech, noise, key, snr=10.0) for key in (1, 1, 2)]
    assert torch.equal(mixed[0], mixed[1])
    assert not torch.equal(mixed[0], mixed[2])


@pytest.mark.parametrize(
    ("speech", "noise"),
    [(torch.zeros(100), torch.ones(9)), (torch.ones(100), torch.zeros(9)), (torch.ones(9), torch.zeros(0))],
)
def test_without_a_ratio_to_reach_the_waveform_stays(speech, noise):
    assert torch.equal(augment.add_noise(speech, noise, 0, snr=3.0), speech)
