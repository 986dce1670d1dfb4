"""Tells pauses from speech: by the level of the sound, or by another detector of speech."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
_HOP = 0.01  # seconds between measurements of the level
_FLOOR, _SPEECH = 10, 95  # percentiles of the levels that stand for noise and for speech
_QUIET = 0.35  # of the way from noise to speech, in decibels: below is a pause
_LEAST_CONTRAST = 6.0  # decibels from noise to speech; with less, the sound is noise alone, or speech that noise hides
_NOISE_ALONE = 12.0  # decibels below the speech of the recording: noise that is as quiet hides no speech
_QUIET_SPEECH = -50.0  # decibels re full scale: the speech of a recording before any is heard
_SILENT = -90.0  # decibels re full scale, less than one step of 16 bits: always a pause


class PauseDetector(Protocol):
    """Measures one recording from its beginning to its end, and says which measurements lie in pauses.

    Attributes:
      hop: samples per measurement.
    """

    hop: int

    def measure(self, samples: Samples) -> NDArray[np.float64]:
        """[N / hop]: a number for every ``hop`` of the next samples of the recording, [N], N a multiple of ``hop``."""

    def quiet(self, measured: NDArray[np.float64]) -> NDArray[np.bool_]:
        """[n]: whether each of n consecutive measurements lies in a pause."""


class Energy:
    """The level of the sound, compared with the noise and the speech around it. No model, any rate."""

    def __init__(self, rate: int) -> None:
        """Takes the samples per second."""
        self.hop = round(_HOP * rate)
        self._speech = _QUIET_SPEECH  # level of the loudest speech so far

    def measure(self, samples: Samples) -> NDArray[np.float64]:
        """The level of every hop, decibels re full scale."""
        return level(samples, self.hop)

    def quiet(self, measured: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether each level is nearer to the quietest ones than to the loudest.

        Steady noise is a pause too, if it is much quieter than the speech before it.
        """
        low, high = np.percentile(measured, (_FLOOR, _SPEECH))
        limit = _SILENT
        if high - low >= _LEAST_CONTRAST:
            self._speech = max(self._speech, high)
            limit = max(limit, low + _QUIET * (high - low))
        elif self._speech - low >= _NOISE_ALONE:
            limit = max(limit, low + _LEAST_CONTRAST)
        return measured < limit


class Measurements:
    """The measurements of a recording whose beginning is forgotten while it goes on."""

    def __init__(self, detector: PauseDetector) -> None:
        """Begins a recording, with a detector of its own."""
        self._detector = detector
        self.hop = detector.hop
        self._first = 0  # number of the first measurement that is kept
        self._values: NDArray[np.float64] = np.zeros(0)

    def measure(self, samples: Samples, begin: int, end: int) -> None:
        """Measures up to the sample ``end`` what is not measured yet, and forgets what lies before ``begin``.

        Args:
          samples: of the recording from ``begin`` on, to ``end`` or beyond it.
          begin: number of the first sample; not less than in the call before, nor beyond the end of that call.
          end: number of the sample after the last one.
        """
        hop = self._detector.hop
        first = -(-begin // hop)
        kept = self._values[first - self._first :]
        done = first + len(kept)
        new = self._detector.measure(samples[done * hop - begin : max(done, end // hop) * hop - begin])
        self._values, self._first = np.concatenate((kept, new)), first

    def pauses(self, begin: int, end: int) -> list[tuple[int, int]]:
        """The pauses among the measurements, as (first sample, sample after the last), within ``begin`` and ``end``."""
        hop = self._detector.hop
        quiet = np.concatenate(([False], self._detector.quiet(self._values), [False]))
        edges = np.flatnonzero(quiet[1:] != quiet[:-1]) + self._first
        return [(max(first * hop, begin), min(last * hop, end)) for first, last in edges.reshape(-1, 2).tolist()]


def level(samples: Samples, hop: int) -> NDArray[np.float64]:
    """The level of every ``hop`` samples, decibels re full scale; at least -120."""
    whole = samples[: len(samples) // hop * hop].reshape(-1, hop)
    return 10 * np.log10(np.einsum("nh,nh->n", whole, whole, dtype=np.float64) / hop + 1e-12)
