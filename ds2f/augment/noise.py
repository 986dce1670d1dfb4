"""Noise at a signal-to-noise ratio: a random crop of a long recording, a short recording looped without clicks."""

import torch
from torch import Tensor

from ds2f.augment.drawing import integer
from ds2f.augment.filtering import power

_OVERLAP = 10  # a loop's end overlaps its beginning by this part of the recording


def add_noise(waveform: Tensor, noise: Tensor, key: int, *, snr: float) -> Tensor:
    """Adds noise at a signal-to-noise ratio, the ratio of the mean powers over the whole utterance.

    Args:
      waveform: [N] float, the signal.
      noise: [M] float at the same sampling rate.
      key: draws the part of the noise.
      snr: signal-to-noise ratio, dB.

    Returns:
      [N] float; ``waveform`` itself if signal or noise is silent, since no ratio can be reached.

    >>> noisy = add_noise(torch.ones(100), torch.tensor([1.0, -1.0]), 0, snr=20.0)
    >>> (noisy - 1).square().mean()
    tensor(0.0100)
    """
    if not len(waveform) or not len(noise):
        return waveform
    added = part_of(noise, len(waveform), key)
    signal_power, noise_power = power(waveform), power(added)
    if signal_power == 0 or noise_power == 0:
        return waveform
    factor = (signal_power / noise_power * 10 ** (-snr / 10)) ** 0.5
    return waveform + (added.double() * factor).to(waveform)


def part_of(noise: Tensor, num_samples: int, key: int) -> Tensor:
    """A random part of a noise, of any length.

    A noise that is long enough is cropped. A shorter one is looped from a random offset: its last tenth is cross-faded
    with its first tenth at equal power, so that the loop has no seam.

    Args:
      noise: [M] float, M > 0.
      num_samples: N, the length of the part.
      key: draws the offset.

    Returns:
      [N] float.
    """
    if len(noise) >= num_samples:
        offset = integer(key, "noise offset", high=len(noise) - num_samples)
        return noise[offset : offset + num_samples]
    loop = _loop(noise)
    offset = integer(key, "noise offset", high=len(loop) - 1)
    return loop[(offset + torch.arange(num_samples, device=noise.device)) % len(loop)]


def _loop(noise: Tensor) -> Tensor:
    """A period of the looped noise: the beginning is faded in over the fading end."""
    overlap = len(noise) // _OVERLAP
    angles = (torch.arange(overlap, device=noise.device, dtype=torch.float64) + 0.5) * (torch.pi / 2 / max(1, overlap))
    loop = noise[: len(noise) - overlap].clone()
    end = noise[len(loop) :]
    loop[:overlap] = (loop[:overlap] * angles.sin() + end * angles.cos()).to(noise)
    return loop
