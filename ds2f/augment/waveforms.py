"""Augmentation of a waveform alone: speed, silence around an utterance, gain."""

import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

from ds2f.wsola import stretched

_QUIET = 0.1  # seconds of an utterance that become the silence around it


def speed(waveform: Tensor, factor: float) -> Tensor:
    """Plays the waveform ``factor`` times as fast; the pitch rises by the same factor.

    Args:
      waveform: [N] float32 on the CPU.
      factor: above 1 is faster.

    Returns:
      [stretched(N, factor)] float32.

    Source: Ko et al., "Audio augmentation for speech recognition", Interspeech 2015; band-limited resampling by soxr.
    """
    if factor == 1 or not len(waveform):
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
    if not len(waveform):
        return waveform.new_zeros(before + after)
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
