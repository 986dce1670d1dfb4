"""Reverberation: with the impulse response of a room, recorded or drawn."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ds2f import rng
from ds2f.augment.filtering import filtered, power


class Room(NamedTuple):
    """A drawn room, as one hears it from one place."""

    rt60: float  # seconds in which the energy of the reverberation decays by 60 dB
    drr: float  # dB, energy of the direct sound over the energy of the reverberation


def impulse_response(room: Room, key: int, *, sample_rate: int) -> Tensor:
    """Draws the impulse response of a room: a direct sound of 1 at sample 0, then Gaussian noise that decays.

    The amplitude of the noise at t seconds is proportional to 10 ** (-3 t / rt60). The response ends when the noise has
    decayed by 60 dB.

    Args:
      room: reverberation time and direct-to-reverberant ratio; the ratio is met exactly.
      key: draws the noise.
      sample_rate: hertz.

    Returns:
      [1 + max(1, ceil(rt60 * sample_rate))] float64.

    Source: Polack, "La transmission de l'energie sonore dans les salles", 1988; Moorer, "About this reverberation
      business", Computer Music Journal, 1979.

    >>> response = impulse_response(Room(rt60=0.5, drr=6.0), 0, sample_rate=8000)
    >>> len(response), response[0].item(), round(10 * math.log10(1 / response[1:].square().sum()), 6)
    (4001, 1.0, 6.0)
    """
    samples = max(1, math.ceil(room.rt60 * sample_rate))
    seconds = torch.arange(1, 1 + samples, dtype=torch.float64, device="cpu") / sample_rate
    generator = rng.generator(rng.fold_in(key, "room"))
    drawn = torch.randn(samples, dtype=torch.float64, device="cpu", generator=generator)
    tail = drawn * 10 ** (-3 * seconds / room.rt60)
    tail *= (10 ** (-room.drr / 10) / tail.square().sum()).sqrt()
    return F.pad(tail, (1, 0), value=1.0)


def reverberate(waveform: Tensor, response: Tensor, *, direct: int | None = None) -> Tensor:
    """Plays a waveform in the room of an impulse response.

    The direct sound is not delayed. The reverberation after the last sample is cut off. The mean power stays.

    Args:
      waveform: [N] float on the CPU.
      response: [M] float at the same sampling rate, of any level.
      direct: the sample of the response with the direct sound; None: its largest peak.

    Returns:
      [N]; ``waveform`` itself if it or the response is silent.

    >>> reverberate(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.4, 0.3]))  # with the power of 1, 0
    tensor([0.8000, 0.6000])
    """
    level = power(waveform)
    if level == 0 or not len(response) or not response.any():
        return waveform
    weights = response.double().numpy()
    peak = int(np.abs(weights).argmax())
    heard = filtered(waveform, weights / abs(weights[peak]), origin=peak if direct is None else direct)
    found = float(np.square(heard).mean())
    return torch.from_numpy(heard * (level / found) ** 0.5).to(waveform) if found > 0 else waveform
