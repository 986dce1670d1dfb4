import math
from collections import Counter

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f import augment
from ds2f.config import AugmentationConfig, SpectConfig
from ds2f.features import frequencies, log_spectrogram

RATE = 16000


def _tone(hertz, samples=RATE):
    return torch.sin(2 * math.pi * hertz * torch.arange(samples) / RATE)


def _pitch(waveform):
    """The strongest frequency, hertz."""
    spectrum = torch.fft.rfft(waveform * torch.hann_window(len(waveform))).abs()
    return spectrum.argmax().item() * RATE / len(waveform)


def _noise(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("factor", [0.9, 1.1, 2.0])
def test_speed_changes_length_and_pitch_by_its_factor(factor):
    faster = augment.speed(_tone(440), factor)
    assert len(faster) == augment.stretched(RATE, factor)
    assert _pitch(faster) == pytest.approx(440 * factor, abs=2)


@pytest.mark.parametrize("factor", [0.7, 0.85, 1.15, 1.5])
def test_tempo_changes_length_and_keeps_pitch_and_level(factor):
    tone = _tone(440)
    faster = augment.tempo(tone, factor, sample_rate=RATE)
    assert len(faster) == augment.stretched(RATE, factor)
    assert _pitch(faster) == pytest.approx(440, abs=2)
    middle = slice(1000, -1000)
    assert faster[middle].square().mean() == pytest.approx(0.5, rel=0.03)
    assert faster.abs().max() < 1.01


def test_tempo_keeps_the_order_and_the_relative_place_of_events():
    clicks = torch.zeros(RATE)
    clicks[[4000, 8000, 12000]] = 1.0
    slower = augment.tempo(clicks, 0.8, sample_rate=RATE)
    for place in (5000, 10000, 15000):
        assert slower[place - 400 : place + 400].abs().max() > 0.3


def test_tempo_of_almost_one_gives_the_waveform_back_however_its_level_changes():
    waveform = _noise(RATE) * torch.where(torch.arange(RATE) // 500 % 2 == 0, 0.01, 1.0)
    torch.testing.assert_close(augment.tempo(waveform, 1 + 1e-9, sample_rate=RATE), waveform, atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(samples=st.integers(1, 2000), factor=st.floats(0.25, 4))
def test_speed_and_tempo_return_as_many_samples_as_announced(samples, factor):
    waveform = _noise(samples)
    expected = augment.Perturbation(speed=factor).num_samples(samples)
    assert len(augment.speed(waveform, factor)) == expected
    assert len(augment.tempo(waveform, factor, sample_rate=RATE)) == expected
    both = augment.Perturbation(speed=factor, tempo=1.1)
    assert len(augment.perturb(waveform, both, 0, sample_rate=RATE)) == both.num_samples(samples)


@settings(max_examples=100, deadline=None)
@given(samples=st.integers(1, 3000), before=st.integers(0, 5000), after=st.integers(0, 5000))
def test_silence_around_an_utterance_is_its_own_quietest_sound(samples, before, after):
    waveform = _noise(samples)
    how = augment.Perturbation(before=before, after=after)
    found = augment.perturb(waveform, how, 0, sample_rate=RATE)
    assert len(found) == how.num_samples(samples)
    assert torch.equal(found[before : before + samples], waveform)
    width = min(RATE // 10, samples)
    powers = waveform.unfold(0, width, 1).double().square().mean(dim=1)  # the truth: every stretch on its own
    quietest = waveform[int(powers.argmin()) :][:width]
    for silence in (found[:before], found[before + samples :]):
        for first in range(0, len(silence), 2 * width):
            assert torch.equal(silence[first : first + width], quietest[: len(silence) - first])
        assert torch.isin(silence, quietest).all()


@pytest.mark.parametrize("change", [augment.speed, lambda x, factor: augment.tempo(x, factor, sample_rate=RATE)])
def test_silence_stays_silent(change):
    assert change(torch.zeros(5000), 1.1).count_nonzero() == 0


def test_gain_of_twenty_decibels_is_ten_times_the_amplitude_and_does_not_clip():
    torch.testing.assert_close(augment.gain(torch.tensor([0.5, -0.25]), 20.0), torch.tensor([5.0, -2.5]))


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        (augment.Perturbation(snr=3.0), "noise is None"),
        (augment.Perturbation(reverb=True), "response is None"),
        (augment.Perturbation(codec="opus"), "codec 'opus'"),
    ],
)
def test_what_is_wanted_and_not_given_is_an_error(how, problem):
    with pytest.raises(ValueError, match=problem):
        augment.perturb(torch.ones(9), how, 0, sample_rate=RATE)


def test_the_steps_of_the_chain_have_their_order():
    """The truth: the functions one by one, from the speaker over the room and the microphone to the line."""
    how = augment.Perturbation(
        speed=0.9, tempo=1.1, before=700, after=900, reverb=True, gain=4.0, snr=7.0, band=(300.0, 3400.0), codec="alaw"
    )
    speech, noise, response = 0.3 * _noise(5000), _noise(900, seed=1), torch.tensor([0.1, 1.0, 0.0, 0.5])
    step = augment.tempo(augment.speed(speech, 0.9), 1.1, sample_rate=RATE)
    step = augment.reverberate(augment.surround(step, 700, 900, sample_rate=RATE), response)
    step = augment.add_noise(augment.gain(step, 4.0), noise, 5, snr=7.0)
    step = augment.telephone.coded(augment.band_limit(step, 300.0, 3400.0, sample_rate=RATE), "alaw", sample_rate=RATE)
    found = augment.perturb(speech, how, 5, sample_rate=RATE, noise=noise, response=response)
    assert torch.equal(found, step)
    room = augment.Room(0.3, 5.0)
    drawn = augment.perturb(speech, augment.Perturbation(reverb=True, room=room), 5, sample_rate=RATE)
    expected = augment.reverberate(speech, augment.impulse_response(room, 5, sample_rate=RATE), direct=0)
    assert torch.equal(drawn, expected)


def test_draws_stay_within_their_limits_and_cover_them():
    cfg = AugmentationConfig(
        speeds=(0.9, 1.0, 1.1),
        tempo_min=0.85,
        tempo_max=1.15,
        silence=0.5,
        gain_min=-6,
        gain_max=8,
        noise_dir="n",
        noise_prob=0.4,
        reverb_prob=0.3,
        reverb_min_rt60=0.1,
        reverb_max_rt60=0.6,
        reverb_min_drr=-3,
        reverb_max_drr=9,
        band_prob=0.2,
        band_min_low=0,
        band_max_low=300,
        band_min_high=2500,
        band_max_high=3800,
        codec_prob=0.6,
        codecs=("ulaw", "gsm", "mp3"),
    )
    draws = [augment.draw(key, cfg, sample_rate=RATE) for key in range(2000)]
    assert all(abs(count - 2000 / 3) < 100 for count in Counter(how.speed for how in draws).values())
    for name, low, high in (
        ("tempo", 0.85, 1.15),
        ("gain", -6, 8),
        ("before", 0, RATE // 2),
        ("after", 0, RATE // 2),
    ):
        values = [getattr(how, name) for how in draws]
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
    for probability, values, limits in (
        (0.4, [how.snr for how in draws if how.snr is not None], (5, 30)),
        (0.3, [how.room.rt60 for how in draws if how.reverb], (0.1, 0.6)),
        (0.3, [how.room.drr for how in draws if how.reverb], (-3, 9)),
        (0.2, [how.band[0] for how in draws if how.band], (0, 300)),
        (0.2, [how.band[1] for how in draws if how.band], (2500, 3800)),
    ):
        assert abs(len(values) / 2000 - probability) < 0.05
        margin = 0.03 * (limits[1] - limits[0])
        assert limits[0] <= min(values) < limits[0] + margin
        assert limits[1] - margin < max(values) <= limits[1]
    codecs = Counter(how.codec for how in draws)
    assert sorted(codecs) == ["", "gsm", "mp3", "ulaw"]
    assert all(abs(codecs[name] / 2000 - 0.2) < 0.04 for name in cfg.codecs)
    # Which steps happen is drawn independently of each other.
    both = sum(how.reverb and bool(how.codec) for how in draws)
    assert abs(both / 2000 - 0.3 * 0.6) < 0.03


def test_each_step_happens_with_its_probability_and_independently_of_the_others():
    cfg = AugmentationConfig(
        **{"speeds": (0.9, 1.1), "speed_prob": 0.3, "tempo_min": 0.8, "tempo_max": 0.9, "tempo_prob": 0.6},
        **{"silence": 0.5, "silence_prob": 0.2, "gain_min": 3, "gain_max": 6, "gain_prob": 0.7},
        **{"warp_min": 1.1, "warp_max": 1.2, "warp_prob": 0.4},
    )
    draws = [augment.draw(key, cfg, sample_rate=RATE) for key in range(3000)]
    happened = {
        "speed": [how.speed != 1 for how in draws],
        "tempo": [how.tempo != 1 for how in draws],
        "silence": [how.before > 0 for how in draws],
        "gain": [how.gain != 0 for how in draws],
        "warp": [augment.draw_warp(key, cfg) != 1 for key in range(3000)],
    }
    for name, times in happened.items():
        assert sum(times) / 3000 == pytest.approx(getattr(cfg, f"{name}_prob"), abs=0.03)
        for other, others in happened.items():
            if other != name:
                both = sum(a and b for a, b in zip(times, others, strict=True)) / 3000
                assert both == pytest.approx(sum(times) * sum(others) / 3000**2, abs=0.03)
    never = attrs.evolve(cfg, speed_prob=0.0, tempo_prob=0.0, silence_prob=0.0, gain_prob=0.0, warp_prob=0.0)
    assert {augment.draw(key, never, sample_rate=RATE) for key in range(50)} == {augment.Perturbation()}
    assert {augment.draw_warp(key, never) for key in range(50)} == {1.0}


def test_the_default_configuration_changes_nothing():
    assert {augment.draw(key, AugmentationConfig(), sample_rate=RATE) for key in range(50)} == {augment.Perturbation()}
    waveform = _noise(1000)
    assert torch.equal(augment.perturb(waveform, augment.Perturbation(), 0, sample_rate=RATE), waveform)


@settings(max_examples=200, deadline=None)
@given(factor=st.floats(0.5, 2), bins=st.integers(2, 60), mel=st.booleans())
def test_what_was_at_a_frequency_is_found_at_that_times_the_factor(factor, bins, mel):
    """Of a spectrum that is its own frequency; what interpolation makes of a line is exact."""
    top = 8000.0
    hertz = top * torch.linspace(0, 1, bins, dtype=torch.float64) ** (2 if mel else 1)
    knee = 0.6 * top * min(1, factor)
    lost = (top - knee / factor) / (top - knee)  # the second line's slope, through (top, top)
    expected = torch.where(hertz <= knee, hertz / factor, top - (top - hertz) * lost)
    warped = augment.warp(hertz[:, None].repeat(1, 3), factor, hertz)
    torch.testing.assert_close(warped, expected[:, None].repeat(1, 3), atol=1e-6, rtol=1e-9)
    assert warped[-1, 0].item() == pytest.approx(top)


@pytest.mark.parametrize("num_mels", [0, 64])
@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_a_tone_is_moved_to_the_bin_of_its_new_frequency(num_mels, factor):
    cfg = SpectConfig(num_mels=num_mels)
    seconds = torch.arange(16000) / 16000

    def tone(hertz):
        return log_spectrogram(0.5 * torch.sin(2 * math.pi * hertz * seconds), cfg)

    moved = augment.warp(tone(2000), factor, frequencies(cfg))
    assert abs(moved[:, 50].argmax() - tone(2000 * factor)[:, 50].argmax()) <= 1


def test_one_bin_or_a_factor_of_one_is_left_alone():
    features = torch.rand(5, 7)
    assert augment.warp(features, 1.0, torch.arange(5.0)) is features
    assert torch.equal(augment.warp(features[:1], 1.1, torch.zeros(1)), features[:1])


def test_warps_are_drawn_between_the_limits():
    cfg = AugmentationConfig(warp_min=0.9, warp_max=1.2)
    drawn = [augment.draw_warp(key, cfg) for key in range(2000)]
    assert 0.9 <= min(drawn) < 0.905
    assert 1.195 < max(drawn) <= 1.2


@settings(max_examples=200, deadline=None)
@given(
    bins=st.integers(1, 40),
    frames=st.integers(1, 60),
    key=st.integers(0, 2**63 - 1),
    width=st.integers(0, 100),
)
def test_spec_augment_hides_whole_bins_and_frames_and_never_more_than_allowed(bins, frames, key, width):
    features = torch.rand(bins, frames) + 1
    cfg = AugmentationConfig(frequency_masks=1, frequency_width=width, time_masks=1, time_width=width)
    before = features.clone()
    masked = augment.spec_augment(features, key, cfg)
    assert torch.equal(features, before)
    donated = augment.spec_augment(before.clone(), key, cfg, donate=True)
    assert torch.equal(donated, masked)
    hidden_bins, hidden_frames = (masked == 0).all(dim=1), (masked == 0).all(dim=0)
    visible = torch.outer(~hidden_bins, ~hidden_frames)
    assert torch.equal(masked, torch.where(visible, before, torch.zeros(())))
    assert hidden_bins.sum() <= min(width, bins)
    if not hidden_bins.all():
        assert hidden_frames.sum() <= min(width, frames // 5)
    for hidden in (hidden_bins, hidden_frames):
        assert (hidden[1:] != hidden[:-1]).sum() <= 2  # one stretch


def test_a_batch_is_masked_as_each_of_its_utterances_alone():
    cfg = AugmentationConfig(frequency_masks=2, frequency_width=5, time_masks=2, time_width=9)
    features, lengths, keys = torch.rand(4, 17, 60) + 1, torch.tensor([60, 41, 8, 1]), [3, 1, 4, 1]
    before = features.clone()
    masked = augment.spec_augment_batch(features, lengths, keys, cfg)
    assert torch.equal(features, before)
    for row, alone, length, key in zip(masked, features, lengths.tolist(), keys, strict=True):
        assert torch.equal(row[:, :length], augment.spec_augment(alone[:, :length], key, cfg))
    assert (masked == 0).any()


def test_spec_augment_draws_every_width_and_reaches_both_ends():
    cfg = AugmentationConfig(time_masks=1, time_width=3)
    masked = [augment.spec_augment(torch.ones(2, 20), key, cfg)[0] == 0 for key in range(600)]
    widths = Counter(int(mask.sum()) for mask in masked)
    assert sorted(widths) == [0, 1, 2, 3]
    assert all(abs(count - 150) < 50 for count in widths.values())
    assert any(mask[0] for mask in masked)
    assert any(mask[-1] for mask in masked)


def test_each_mask_and_each_key_is_drawn_anew():
    cfg = AugmentationConfig(frequency_masks=2, frequency_width=10)
    hidden = [tuple((augment.spec_augment(torch.ones(161, 3), key, cfg)[:, 0] == 0).tolist()) for key in range(20)]
    assert len(set(hidden)) > 15
    stretches = [sum(b and not a for a, b in zip((False, *mask), mask, strict=False)) for mask in hidden]
    assert max(stretches) == 2


def test_donated_features_are_written_into():
    features = torch.ones(161, 50)
    cfg = AugmentationConfig(frequency_masks=2, frequency_width=40)
    assert augment.spec_augment(features, 1, cfg, donate=True) is features
    assert (features == 0).any()
