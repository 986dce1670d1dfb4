"""Another tempo at the same pitch, by WSOLA, and the lengths of stretched waveforms."""

import math

import numpy as np
import torch
from torch import Tensor

_TEMPO_HOP = 0.015  # seconds between WSOLA's segments; a segment is twice as long, two or three pitch periods
_TEMPO_TOLERANCE = 0.008  # largest shift of a segment to fit its predecessor, seconds: half of a low voice's period


def stretched(num_samples: int, factor: float) -> int:
    """The number of samples after ``augment.speed`` or ``tempo``: N / factor, halves rounded up; at least 1 if N is.

    >>> stretched(16000, 1.25)
    12800
    """
    return num_samples if factor == 1 else max(min(num_samples, 1), math.floor(num_samples / factor + 0.5))


def tempo(waveform: Tensor, factor: float, *, sample_rate: int) -> Tensor:
    """Plays the waveform ``factor`` times as fast and keeps its pitch.

    Segments overlap by half and are cross-faded. In the input they lie ``factor`` times as far apart as in the output.
    Each segment is shifted a little, to the place where it is most similar to the continuation of its predecessor.

    Args:
      waveform: [N] float32 on the CPU.
      factor: above 1 is faster.
      sample_rate: hertz.

    Returns:
      [stretched(N, factor)] float32.

    Source: WSOLA (Verhelst and Roelands, ICASSP 1993), the method of sox's ``tempo``, with the normalised
    cross-correlation as the measure of similarity.
    """
    if factor == 1 or not len(waveform):
        return waveform
    hop, tolerance = max(1, round(_TEMPO_HOP * sample_rate)), max(1, round(_TEMPO_TOLERANCE * sample_rate))
    length = stretched(len(waveform), factor)
    blocks = -(-length // hop)
    # With a segment before the first, every block of the output is the sum of halves of two segments.
    nominal = np.concatenate(([-hop], np.round(np.arange(blocks) * hop * factor).astype(np.int64)))
    before = tolerance + hop
    after = max(0, int(nominal[-1]) + tolerance + 3 * hop - len(waveform))
    samples = np.pad(waveform.numpy(), (before, after))
    starts = _best_starts(samples, nominal + before, hop=hop, tolerance=tolerance)
    fade = 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * hop, dtype=np.float32) / hop)
    segments = samples[starts[:, None] + np.arange(2 * hop)] * fade
    overlapped = segments[1:, :hop] + segments[:-1, hop:]
    return torch.from_numpy(overlapped.reshape(-1)[:length])


def _best_starts(samples: np.ndarray, nominal: np.ndarray, *, hop: int, tolerance: int) -> np.ndarray:
    """The first sample of each segment of two hops: within the tolerance, most similar to its predecessor's end."""
    width = 2 * hop
    power = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    starts = nominal.copy()
    for k in range(1, len(nominal)):
        lowest, highest = nominal[k] - tolerance, nominal[k] + tolerance + 1
        wanted = samples[starts[k - 1] + hop : starts[k - 1] + hop + width]
        similarity = np.correlate(samples[lowest : highest - 1 + width], wanted, mode="valid")
        energy = power[lowest + width : highest + width] - power[lowest:highest]
        audible = energy > 1e-12 * width
        if audible.any():
            scores = np.where(audible, similarity, -np.inf) / np.sqrt(np.where(audible, energy, 1.0))
            starts[k] = lowest + int(scores.argmax())
    return starts
