"""Pauses by Silero's model of speech (MIT licence; Silero Team, github.com/snakers4/silero-vad), which music and noise
do not deceive.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from ds2f.errors import InputError
from ds2f.extras import import_extra
from ds2f.inference.pauses import Samples

_HOPS = {8000: 256, 16000: 512}  # samples per measurement, by rate: what the model was trained for
_SPEECH = 0.5  # probability from which speech begins
_SILENCE = 0.35  # probability below which it ends
_UNKNOWN = -1.0


class Silero:
    """Silero's probability of speech, as a ``PauseDetector``. One recording each: the model has a memory."""

    def __init__(self, rate: int) -> None:
        """Loads the model, 2 MB, for samples of a rate.

        Raises:
          InputError: the package is missing, or the rate is neither 8000 nor 16000 Hz.
        """
        if rate not in _HOPS:
            raise InputError(
                f"Silero's detector of speech takes 8000 or 16000 samples a second, and this model {rate}; "
                "take --vad=energy"
            )
        self.hop, self._rate = _HOPS[rate], rate
        threads = torch.get_num_threads()
        package = import_extra(
            "silero_vad", need="--vad=silero needs silero-vad", remedy="pip install 'ds2f[vad]', or take --vad=energy"
        )
        torch.set_num_threads(threads)  # its import sets one thread for the whole process
        self._model = package.load_silero_vad()

    def measure(self, samples: Samples) -> NDArray[np.float64]:
        """The probability of speech in every hop."""
        with torch.inference_mode():
            chunks = torch.from_numpy(np.ascontiguousarray(samples)).split(self.hop)
            return np.array([self._model(chunk, self._rate).item() for chunk in chunks if len(chunk)], np.float64)

    def quiet(self, measured: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether each hop lies in a pause: from a probability below 0.35 to one of 0.5 or more."""
        told = np.where(measured >= _SPEECH, 1.0, np.where(measured < _SILENCE, 0.0, _UNKNOWN))
        last = np.maximum.accumulate(np.where(told != _UNKNOWN, np.arange(len(told)), 0))
        return told[last] == 0.0
