"""An uploaded recording: its header is checked before any sample is decoded."""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ds2f.data import audio
from ds2f.data.audio_blocks import Recording
from ds2f.errors import InputError

NAME = "recording"  # in messages: the client knows the file, and its name may be anything


class TooLong(InputError):  # noqa: N818  an answer
    """The recording is longer than the limit."""


class UploadedRecording(Recording):
    """A recording that a client has sent."""

    def __init__(self, file: BinaryIO, *, sample_rate: int, max_seconds: float) -> None:
        """Opens nothing yet.

        Args:
          file: open for reading, seekable.
          sample_rate: the rate wanted, hertz.
          max_seconds: limit of the length.
        """
        super().__init__(file, sample_rate=sample_rate, name=NAME, max_seconds=max_seconds)
        self._file, self._limit = file, max_seconds

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Reads the recording.

        Raises:
          NotAudio: the file is of no known format.
          TooLong: the header says so, or the samples.
          InputError: the content is broken.
        """
        self._require_short(audio.info(self._file, name=NAME).duration)
        for block in super().__iter__():
            yield block
            self._require_short(self.seconds)

    def _require_short(self, seconds: float) -> None:
        if seconds > self._limit:
            raise TooLong(f"{NAME}: {seconds:,.0f} s long or more; the limit is {self._limit:,.0f} s. Send it in parts")
