"""Recordings of any length, block by block: one channel at one rate, in constant memory."""

from collections.abc import Iterator
from io import TextIOBase
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ds2f.data import audio, mixing, sound_files
from ds2f.errors import InputError

Source = sound_files.Source | NDArray[Any]
MAX_SECONDS = 24 * 3600.0
_BLOCK_SECONDS = 10.0
_BLOCK_VALUES = 1 << 22  # of all channels: a header may promise a thousand channels and a million samples a second
_SHORT = 60.0  # seconds: a recording that is no longer is read at once, as training reads it


class Recording:
    """A recording that is read while it is iterated: blocks of samples, [n] float32.

    Attributes:
      label: what messages call the recording.
      seconds: read so far; after the last block, the recording's duration.
      notes: remarks on the recording, as of ``audio.load``; complete after the last block.
    """

    def __init__(
        self,
        source: Source,
        *,
        rate: int | None = None,
        sample_rate: int = 16000,
        name: str | None = None,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        """Opens nothing yet.

        Args:
          source: a path, a binary file that is open, or samples [N] or [N, channels], as for ``audio.of_array``.
          rate: sampling rate of samples, hertz.
          sample_rate: the rate wanted, hertz.
          name: what messages call the recording; by default its path.
          max_seconds: limit of the length.

        Raises:
          InputError: samples without a rate, a file with one, or a source of another kind.
        """
        if not isinstance(source, str | Path | np.ndarray):
            _require_binary(source, name)
        if isinstance(source, np.ndarray) and rate is None:
            raise InputError(f"{name or 'array'}: samples do not tell their sampling rate; pass rate=")
        if not isinstance(source, np.ndarray) and rate is not None:
            raise InputError(f"{name or audio.label_of(source)}: a file tells its own sampling rate; pass no rate=")
        self.seconds = 0.0
        self.notes: tuple[str, ...] = ()
        self._source, self._rate, self._sample_rate = source, rate or 0, sample_rate
        self.label = name or (audio.label_of(source) if not isinstance(source, np.ndarray) else "array")
        self._max_seconds = max_seconds
        self._found: dict[str, None] = {}  # remarks, in their order, each once

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Reads the recording.

        Raises:
          InputError: as ``audio.load``, from whichever block shows the fault.
        """
        whole = self._whole()
        for block in self._blocks() if whole is None else iter((whole.samples,)):
            self.seconds += len(block) / self._sample_rate
            yield block
        if not self.seconds:
            raise InputError(audio.no_samples(self.label))
        self.notes = whole.notes if whole else tuple(self._found)

    def _whole(self) -> audio.Audio | None:
        """The recording at once, if it is in memory or short."""
        source, target, label, limit = self._source, self._sample_rate, self.label, self._max_seconds
        if isinstance(source, np.ndarray):
            return audio.of_array(source, self._rate, sample_rate=target, name=label, max_seconds=limit)
        file = isinstance(source, str | Path) or source.seekable()
        if file and audio.info(source, sample_rate=target, name=label).duration > _SHORT:
            return None
        return audio.load(source, sample_rate=target, name=label, max_seconds=limit)

    def _blocks(self) -> Iterator[NDArray[np.float32]]:
        """The blocks of a long recording, at the rate wanted."""
        assert not isinstance(self._source, np.ndarray)
        with sound_files.opened(self._source, self.label, whole=True, max_seconds=self._max_seconds) as opened:
            streams, oddities = opened
            self._found.update(dict.fromkeys(oddities))
            for sound in streams:
                for mono in self._of_stream(sound):
                    if self.seconds > self._max_seconds:
                        raise InputError(audio.too_long(self.label, self.seconds, self._max_seconds))
                    yield mono

    def _of_stream(self, sound: soundfile.SoundFile) -> Iterator[NDArray[np.float32]]:
        rate, target = sound.samplerate, self._sample_rate
        channel, remarks = mixing.choose(lambda: self._read(sound), sound.channels)
        resampler = soxr.ResampleStream(rate, target, 1, dtype="float32", quality="HQ") if rate != target else None
        if resampler:
            remarks += (f"resampled from {rate} Hz to {target} Hz",)
        self._found.update(dict.fromkeys(remarks))
        for block in self._read(sound):
            mono = block.mean(axis=1, dtype=np.float32) if channel is None else block[:, channel]
            audio.require_sound(np.abs(mono), self.label)
            yield resampler.resample_chunk(mono) if resampler else mono
        if resampler:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def _read(self, sound: soundfile.SoundFile) -> Iterator[NDArray[np.float32]]:
        """Blocks [n, channels] of a stream, from its beginning."""
        if sound.seekable() and sound.tell():  # GSM 6.10 cannot be sought in; it has one channel, read once
            sound.seek(0)
        most = min(round(_BLOCK_SECONDS * sound.samplerate), _BLOCK_VALUES // sound.channels)
        size, read = audio.block_size(most), 0
        try:
            while len(block := sound.read(size, dtype="float32", always_2d=True)):
                read += len(block)
                yield block
        except soundfile.LibsndfileError as error:
            raise InputError(audio.broken(error, self.label)) from error
        audio.require_whole(sound, read, self.label)


def _require_binary(source: Any, name: str | None) -> None:
    """Raises ``InputError`` unless the source is a binary file that is open."""
    label = name or "recording"
    if not hasattr(source, "seekable"):
        raise InputError(f"{label}: {type(source).__name__}; give a path, an open binary file, or samples as an array")
    if getattr(source, "closed", False) or isinstance(source, TextIOBase):
        raise InputError(f"{label}: the file is closed, or open as text; open it in binary, with 'rb'")
