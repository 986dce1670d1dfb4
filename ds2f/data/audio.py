"""Recordings from disk: decoded by libsndfile, mixed down to one channel, resampled to one rate."""

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ds2f.errors import InputError

_UNKNOWN_SIZE = 0x7FFFF000  # programs that write WAV to a pipe put a size from here to 2**32 - 1 in its header
_SLACK = 64  # bytes: some programs count the header into the size of the samples
_READABLE = "readable are WAV, FLAC, OGG, MP3 and NIST SPHERE"

Source = str | Path | BinaryIO


class Audio(NamedTuple):
    """One recording, ready for the features."""

    samples: NDArray[np.float32]  # [N], one channel; integer PCM is scaled to [-1, 1): int16 / 32768
    notes: tuple[str, ...]  # what was done to it or is odd about it, worded so that equal notes can be counted


class Info(NamedTuple):
    """How long a recording is, from its header alone."""

    samples: int  # at the rate asked for: the length of ``load(...).samples`` (an estimate for MP3)
    duration: float  # seconds


def load(source: Source, *, sample_rate: int = 16000, name: str | None = None) -> Audio:
    """Reads a recording as one channel of float32 at ``sample_rate``.

    Several channels become their mean; another rate is converted by soxr (its HQ setting). The conversions are listed
    in ``notes``; whoever reads many files counts the notes and reports each once.

    Args:
      source: a path, or a binary file opened for reading (an upload, a member of an archive).
      sample_rate: the rate wanted, hertz.
      name: what messages call the recording; by default its path.

    Raises:
      InputError: the file is missing, empty, cut short, not audio or without a single sample, or it holds NaN or
        infinity. Silence is not an error; it is noted.
    """
    label = name or _label(source)
    with _open(source, label) as sound:
        try:
            samples = sound.read(dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise InputError(f"{label}: broken audio ({error.error_string}); copy or record it again") from error
        declared, rate, container = len(sound), sound.samplerate, sound.format
    # Without an index an MP3's length is an estimate, so a difference proves nothing there.
    if len(samples) < declared and container != "MP3":
        raise InputError(_cut_short(label, f"its header says {declared} samples, {len(samples)} are there"))
    samples, notes = _convert(samples, rate, sample_rate)
    if not len(samples):
        raise InputError(_no_samples(label))
    if not np.isfinite(samples).all():
        raise InputError(f"{label}: contains NaN or infinite samples; write it again as 16-bit PCM")
    if not samples.any():
        notes += ("silent: every sample is zero",)
    return Audio(samples, notes)


def info(source: Source, *, sample_rate: int = 16000, name: str | None = None) -> Info:
    """Reads from a recording's header how long it will be at ``sample_rate``; takes well under a millisecond.

    Raises:
      InputError: as ``load``, for everything that the header tells.
    """
    label = name or _label(source)
    with _open(source, label) as sound:
        samples = resampled_length(len(sound), sound.samplerate, sample_rate)
        if not samples:
            raise InputError(_no_samples(label))
        return Info(samples, len(sound) / sound.samplerate)


def resample(samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    """Converts ``[N]`` or ``[N, channels]`` samples from ``rate`` to ``target`` hertz with soxr's HQ setting."""
    return soxr.resample(samples, rate, target, quality="HQ")


def resampled_length(samples: int, rate: int, target: int) -> int:
    """The number of samples that ``resample`` makes of ``samples``: rounded half up, as soxr does."""
    return (2 * samples * target + rate) // (2 * rate)


def _convert(samples: NDArray[np.float32], rate: int, target: int) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    notes: tuple[str, ...] = ()
    channels = samples.shape[1]
    if channels == 1:
        mono = samples[:, 0]
    else:
        mono = samples.mean(axis=1, dtype=np.float32)
        notes += (f"mixed {channels} channels down to one",)
    if rate != target:
        mono = resample(mono, rate, target)
        notes += (f"resampled from {rate} Hz to {target} Hz",)
    return np.ascontiguousarray(mono), notes


def _open(source: Source, label: str) -> soundfile.SoundFile:
    if isinstance(source, str | Path):
        if Path(source).suffix.lower() == ".raw":
            raise InputError(
                f"{label}: headerless samples say neither their rate nor their format; convert the file to WAV"
            )
        try:
            with Path(source).open("rb") as file:
                _check_size(file, label)
        except OSError as error:
            raise InputError(f"{label}: {error.strerror}; check the path, or the manifest that names it") from error
        source = str(source)  # libsndfile opens a path itself several times faster than it reads a Python file
    else:
        _check_size(source, label)
    try:
        return soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{label}: not audio that can be read ({error.error_string}); {_READABLE}") from error


def _check_size(file: BinaryIO, label: str) -> None:
    """Compares the size that a WAV or SPHERE header declares with the file's, which libsndfile does not."""
    start = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(start)
    if end == start:
        raise InputError(f"{label}: the file is empty; copy or record it again")
    magic = file.read(12)
    if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
        declared = _riff_data_end(file)
    elif magic[:7] == b"NIST_1A":
        file.seek(start)
        declared = _sphere_data_end(file)
    else:
        declared = 0
    file.seek(start)
    if declared > end - start + _SLACK:
        raise InputError(_cut_short(label, f"its header says {declared} bytes, {end - start} are there"))


def _riff_data_end(file: BinaryIO) -> int:
    """Where the ``data`` chunk ends by its own account, in bytes from the file's beginning; 0: it does not say."""
    position = 12
    while len(header := file.read(8)) == 8:
        kind, size = struct.unpack("<4sI", header)
        position += 8
        if kind == b"data":
            return position + size if size < _UNKNOWN_SIZE else 0
        position += size + size % 2
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0


def _sphere_data_end(file: BinaryIO) -> int:
    """Where a SPHERE file's samples end by its header's account, in bytes; 0: it does not say, or is compressed."""
    header = file.read(1024)
    if b"shorten" in header or b"shortpack" in header:
        return 0
    fields = {words[0]: words[2] for line in header.split(b"\n") if len(words := line.split()) == 3}
    try:
        header_bytes = int(header.split(b"\n", 2)[1])
        frames, width = int(fields[b"sample_count"]), int(fields[b"sample_n_bytes"])
        return header_bytes + frames * width * int(fields.get(b"channel_count", b"1"))
    except (KeyError, ValueError, IndexError):
        return 0


def _label(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "recording"))


def _cut_short(label: str, evidence: str) -> str:
    return f"{label}: the recording is cut short: {evidence}; copy it again"


def _no_samples(label: str) -> str:
    return f"{label}: the recording has no samples; remove it from the manifest or record it again"
