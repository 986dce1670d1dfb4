"""Augmentation of training utterances, from speed to SpecAugment: pure functions of a key.

Every random number is a hash of the key and of its own name, so it depends neither on the loader process nor on the
order of draws. Waveforms are float tensors [N], full scale 1; results may exceed full scale and are not clipped.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

from ds2f import rng
from ds2f.config import AugmentationConfig
from ds2f.wsola import stretched, tempo

_QUIET = 0.1  # seconds of an utterance that become the silence around it


class Perturbation(NamedTuple):
    """Augmentation of an utterance's waveform; a factor above 1 shortens the waveform."""

    speed: float = 1.0
    tempo: float = 1.0
    before: int = 0  # samples of silence
    after: int = 0
    gain: float = 0.0  # dB
    snr: float | None = None  # dB; None: no noise

    def num_samples(self, num_samples: int) -> int:
        """The number of samples after ``speed``, ``tempo`` and ``surround``, of ``num_samples`` before."""
        return self.before + stretched(stretched(num_samples, self.speed), self.tempo) + self.after


def draw_speed(key: int, cfg: AugmentationConfig) -> float:
    """Draws one of ``cfg.speeds`` with equal probabilities; 1 if there are none."""
    return cfg.speeds[_integer(key, "speed", high=len(cfg.speeds) - 1)] if cfg.speeds else 1.0


def draw(key: int, cfg: AugmentationConfig, *, sample_rate: int) -> Perturbation:
    """Draws the augmentation of an utterance in an epoch; ``key`` stands for both.

    >>> cfg = AugmentationConfig(speeds=(0.9, 1.0, 1.1), gain_min=-6, gain_max=6)
    >>> how = draw(rng.fold_in(0, 3, "utterance 7"), cfg, sample_rate=16000)
    >>> how.speed in cfg.speeds, -6 <= how.gain <= 6, how.tempo, how.snr
    (True, True, 1.0, None)
    """
    noisy = bool(cfg.noise_dir) and _uniform(key, "noisy", 0, 1) < cfg.noise_prob
    return Perturbation(
        speed=draw_speed(key, cfg),
        tempo=_uniform(key, "tempo", cfg.tempo_min, cfg.tempo_max),
        before=round(_uniform(key, "before", 0, cfg.silence) * sample_rate),
        after=round(_uniform(key, "after", 0, cfg.silence) * sample_rate),
        gain=_uniform(key, "gain", cfg.gain_min, cfg.gain_max),
        snr=_uniform(key, "snr", cfg.noise_min_snr, cfg.noise_max_snr) if noisy else None,
    )


def speed(waveform: Tensor, factor: float) -> Tensor:
    """Plays the waveform ``factor`` times as fast; the pitch rises by the same factor.

    Args:
      waveform: [N] float32 on the CPU.
      factor: above 1 is faster.

    Returns:
      [stretched(N, factor)] float32.

    Source: Ko et al., "Audio augmentation for speech recognition", Interspeech 2015; band-limited resampling by soxr.
    """
    if factor == 1:
        return waveform
    resampled = torch.from_numpy(soxr.resample(waveform.numpy(), factor, 1.0))
    return F.pad(resampled, (0, stretched(len(waveform), factor) - len(resampled)))


def surround(waveform: Tensor, before: int, after: int, *, sample_rate: int) -> Tensor:
    """Adds silence with the sound of the room: the quietest tenth of a second, forwards and backwards in turns.

    A model that knows utterances only from their beginnings to their ends takes its bearings from these, and a
    recording that is cut elsewhere confuses it.

    Args:
      waveform: [N] float.
      before: samples of silence before it.
      after: samples of silence after it.
      sample_rate: hertz.

    Returns:
      [before + N + after].

    >>> surround(torch.tensor([0.5, 1.0]), 1, 3, sample_rate=10)
    tensor([0.5000, 0.5000, 1.0000, 0.5000, 0.5000, 0.5000])
    """
    if not before and not after:
        return waveform
    width = max(1, min(round(_QUIET * sample_rate), len(waveform)))
    power = F.pad(waveform.double().square().cumsum(0), (1, 0))
    quietest = int((power[width:] - power[:-width]).argmin())
    stretch = waveform[quietest : quietest + width]
    turns = torch.cat((stretch, stretch.flip(0)))

    def silence(size: int) -> Tensor:
        return turns.repeat(-(-size // len(turns)))[:size]

    return torch.cat((silence(before), waveform, silence(after)))


def gain(waveform: Tensor, decibels: float) -> Tensor:
    """Multiplies the amplitude by 10 ** (decibels / 20).

    >>> gain(torch.tensor([0.5, -0.25]), 20.0)
    tensor([ 5.0000, -2.5000])
    """
    return waveform * 10 ** (decibels / 20)


def add_noise(waveform: Tensor, noise: Tensor, key: int, *, snr: float) -> Tensor:
    """Adds noise at a signal-to-noise ratio, the ratio of the mean powers over the whole utterance.

    Args:
      waveform: [N] float, the signal.
      noise: [M] float at the same sampling rate; it starts at a random offset and is repeated as often as needed.
      key: draws the offset.
      snr: signal-to-noise ratio, dB.

    Returns:
      [N] float; ``waveform`` itself if signal or noise is silent, since no ratio can be reached.

    >>> noisy = add_noise(torch.ones(100), torch.tensor([1.0, -1.0]), 0, snr=20.0)
    >>> (noisy - 1).square().mean()
    tensor(0.0100)
    """
    if noise.numel() == 0:
        return waveform
    offset = _integer(key, "noise offset", high=len(noise) - 1)
    added = noise[(offset + torch.arange(len(waveform), device=noise.device)) % len(noise)]
    signal_power, noise_power = waveform.square().mean(), added.square().mean()
    if signal_power == 0 or noise_power == 0:
        return waveform
    return waveform + added * torch.sqrt(signal_power / noise_power * 10 ** (-snr / 10))


def perturb(waveform: Tensor, how: Perturbation, key: int, *, sample_rate: int, noise: Tensor | None = None) -> Tensor:
    """Applies speed, tempo, silence, gain and noise, in this order.

    Args:
      waveform: [N] float32 on the CPU.
      how: the augmentation, from ``draw``.
      key: the key that ``draw`` got.
      sample_rate: hertz.
      noise: [M] float32, required if ``how.snr`` is set.

    Returns:
      [how.num_samples(N)] float32.

    Raises:
      ValueError: if ``how.snr`` is set and ``noise`` is None.
    """
    waveform = tempo(speed(waveform, how.speed), how.tempo, sample_rate=sample_rate)
    waveform = gain(surround(waveform, how.before, how.after, sample_rate=sample_rate), how.gain)
    if how.snr is None:
        return waveform
    if noise is None:
        raise ValueError(f"how.snr={how.snr:g} asks for noise, and noise is None: pass a noise waveform")
    return add_noise(waveform, noise, key, snr=how.snr)


def draw_warp(key: int, cfg: AugmentationConfig) -> float:
    """Draws the factor for ``warp``, uniform from ``cfg.warp_min`` to ``cfg.warp_max``."""
    return _uniform(key, "warp", cfg.warp_min, cfg.warp_max)


def warp(features: Tensor, factor: float, frequencies: Tensor) -> Tensor:
    """Multiplies the frequencies of a spectrogram by a factor, like a shorter or longer vocal tract.

    The content of frequency f moves to ``factor`` f, for f up to a knee. Above the knee a second line maps up to the
    highest bin, which stays in place. Values between bins are interpolated linearly. Below the lowest bin, the
    spectrogram is taken as constant.

    Args:
      features: [F, T] float of one utterance.
      factor: above 1: a shorter vocal tract, a higher voice.
      frequencies: [F] float64 on the CPU, ascending, of the bins; any unit in which 0 is 0 Hz.

    Returns:
      [F, T]; ``features`` itself if the factor is 1.

    Source: Jaitly and Hinton, "Vocal Tract Length Perturbation (VTLP) improves speech recognition", 2013. Their knee,
      at 4.8 of 8 kHz, is here at 60 % of the highest frequency.

    >>> ramp = torch.arange(5.0)[:, None]  # the bin of each value
    >>> warp(ramp, 1.25, torch.arange(5.0).double())[:, 0]  # bin 1 now has the content of bin 0.8
    tensor([0.0000, 0.8000, 1.6000, 2.7000, 4.0000])
    """
    if factor == 1:
        return features
    bins = frequencies.numpy()
    knee = 0.6 * bins[-1] * min(1.0, factor)
    origins = np.interp(bins, [0, knee, bins[-1]], [0, knee / factor, bins[-1]])
    places = torch.from_numpy(np.interp(origins, bins, np.arange(len(bins))))
    below = places.long().clamp(max=max(0, len(bins) - 2))
    fraction = (places - below).to(features).unsqueeze(1)
    lower, upper = features[below], features[(below + 1).clamp(max=len(bins) - 1)]
    return lower + fraction * (upper - lower)


def spec_augment(features: Tensor, key: int, cfg: AugmentationConfig, *, donate: bool = False) -> Tensor:
    """Sets random bands of frequencies and stretches of time to zero, the mean of an utterance.

    A band is 0 to ``cfg.frequency_width`` bins wide. A stretch is 0 to ``cfg.time_width`` frames long, but at most a
    fifth of the utterance. Widths and places are drawn uniformly.

    Args:
      features: [F, T] float of one utterance, without padding, of zero mean; not changed unless ``donate``.
      key: draws the masks.
      cfg: the ``augmentation`` section.
      donate: writes the zeros into ``features`` and returns it.

    Returns:
      [F, T], a new tensor unless ``donate``.

    Source: Park et al., "SpecAugment", Interspeech 2019, without time warping.

    >>> masked = spec_augment(torch.ones(20, 100), 0, AugmentationConfig(frequency_masks=1, frequency_width=5))
    >>> masked.shape, (masked.sum(dim=1) == 0).sum() <= 5
    (torch.Size([20, 100]), tensor(True))
    """
    masked = features if donate else features.clone()
    bands, stretches = _hidden(key, cfg, num_bins=features.shape[0], num_frames=features.shape[1])
    for band in bands:
        masked[band] = 0
    for stretch in stretches:
        masked[:, stretch] = 0
    return masked


def spec_augment_batch(features: Tensor, lengths: Tensor, keys: Sequence[int], cfg: AugmentationConfig) -> Tensor:
    """Applies ``spec_augment`` to every utterance of a batch, on the batch's device.

    Args:
      features: [B, F, T] float, padded.
      lengths: [B] int64 on the CPU, frames.
      keys: B keys, one per utterance.
      cfg: the ``augmentation`` section.

    Returns:
      [B, F, T], a new tensor. Within the lengths, it equals ``spec_augment`` of each utterance alone.
    """
    num_bins, num_frames = features.shape[1:]
    hidden_bins = torch.zeros(len(keys), num_bins, 1, dtype=torch.bool, device="cpu")
    hidden_frames = torch.zeros(len(keys), 1, num_frames, dtype=torch.bool, device="cpu")
    for row, (key, length) in enumerate(zip(keys, lengths.tolist(), strict=True)):
        bands, stretches = _hidden(key, cfg, num_bins=num_bins, num_frames=length)
        for band in bands:
            hidden_bins[row, band] = True
        for stretch in stretches:
            hidden_frames[row, :, stretch] = True
    bins, frames = (hidden.to(features.device, non_blocking=True) for hidden in (hidden_bins, hidden_frames))
    return features.masked_fill(bins | frames, 0)


def _hidden(
    key: int, cfg: AugmentationConfig, *, num_bins: int, num_frames: int
) -> tuple[Iterator[slice], Iterator[slice]]:
    """Draws the bands of bins and the stretches of frames that SpecAugment sets to zero."""
    width, length = min(cfg.frequency_width, num_bins), min(cfg.time_width, num_frames // 5)
    bands = (_mask(key, "frequency", index, size=num_bins, widest=width) for index in range(cfg.frequency_masks))
    stretches = (_mask(key, "time", index, size=num_frames, widest=length) for index in range(cfg.time_masks))
    return bands, stretches


def _mask(key: int, axis: str, index: int, *, size: int, widest: int) -> slice:
    width = _integer(key, axis, index, "width", high=widest)
    start = _integer(key, axis, index, "start", high=size - width)
    return slice(start, start + width)


def _uniform(key: int, use: str, low: float, high: float) -> float:
    """Draws a number from [low, high]; exactly ``low`` if both bounds are equal."""
    return low if low == high else low + (high - low) * (rng.fold_in(key, use) / 2**63)


def _integer(key: int, *use: int | str, high: int) -> int:
    """Draws an integer from 0 to ``high`` inclusive; the bias of the modulo is below 2**-40 for any size here."""
    return rng.fold_in(key, *use) % (high + 1) if high else 0
