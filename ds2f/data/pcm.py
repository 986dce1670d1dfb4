"""Raw PCM as it comes from a microphone or a connection: bytes in pieces of any size to samples at the rate wanted."""

import numpy as np
import soxr
from numpy.typing import NDArray

from ds2f.data.sound_files import RATES
from ds2f.errors import InputError

_HEADERS = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "OGG", b"NIST": "NIST SPHERE", b"ID3": "MP3"}


class PcmDecoder:
    """A recording of 16-bit little-endian samples of one channel that is still going on."""

    def __init__(self, rate: int, *, sample_rate: int = 16000, name: str = "stream") -> None:
        """Begins a recording.

        Args:
          rate: samples per second of the recording.
          sample_rate: the rate wanted, hertz.
          name: what messages call the recording.

        Raises:
          InputError: a rate that no recording has.
        """
        if not RATES[0] <= rate <= RATES[1]:
            raise InputError(f"{name}: {rate} samples a second; give the rate in hertz, {RATES[0]} to {RATES[1]}")
        self._resampler = soxr.ResampleStream(rate, sample_rate, 1, "float32", "HQ") if rate != sample_rate else None
        self._name, self._rest, self._checked = name, b"", False

    def decode(self, content: bytes) -> NDArray[np.float32]:
        """The samples [n] that further bytes complete, full scale 1; half a sample waits for its other byte.

        Raises:
          InputError: the recording begins like an audio file, whose header would be taken for samples.
        """
        content = self._rest + content
        if not self._checked and len(content) < 4:
            self._rest = content
            return np.zeros(0, np.float32)
        if not self._checked:
            self._refuse_files(content)
        return self._resampled(self._samples(content), last=False)

    def finish(self) -> NDArray[np.float32]:
        """The last samples [n], after the last bytes; half a sample is dropped."""
        return self._resampled(self._samples(self._rest), last=True)

    def _samples(self, content: bytes) -> NDArray[np.float32]:
        whole = len(content) // 2 * 2
        self._rest = content[whole:]
        return np.frombuffer(content[:whole], "<i2").astype(np.float32) / np.float32(32768)

    def _resampled(self, samples: NDArray[np.float32], *, last: bool) -> NDArray[np.float32]:
        return self._resampler.resample_chunk(samples, last=last) if self._resampler else samples

    def _refuse_files(self, content: bytes) -> None:
        self._checked = True
        for magic, kind in _HEADERS.items():
            if content.startswith(magic):
                raise InputError(
                    f"{self._name}: a {kind} file, but raw PCM is expected (16-bit little-endian, one channel); give "
                    "the file by its path"
                )
