"""Recordings from disk: decoded by libsndfile, mixed down to one channel, resampled to one rate."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ds2f.config import DataConfig
from ds2f.data import containers
from ds2f.errors import InputError

_BLOCK = 1 << 22  # samples of all channels read at a time: a damaged header may promise more than memory holds
_FASTEST = 192_000  # hertz; the limit of the length counts faster recordings as if they had this rate
MAX_SECONDS = DataConfig().max_recording_seconds
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's length of a FLAC file whose header gives none
_RATES = (1000, 1_000_000)  # hertz; a header with another rate is damaged, and resampling would fill the memory
_LOUDEST = 1e9  # full scale is 1; programs that forget to scale write 2**31 at most
SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".sph"}  # of files that count as recordings in a folder
_READABLE = "readable are WAV, FLAC, OGG, MP3 and NIST SPHERE"

Source = str | Path | BinaryIO


class Audio(NamedTuple):
    """One recording, ready for the features."""

    samples: NDArray[np.float32]  # [N], one channel; integer PCM is scaled to [-1, 1): int16 / 32768
    notes: tuple[str, ...]  # conversions and oddities, in the same words for the same case


class Info(NamedTuple):
    """Length of a recording, from its header alone."""

    samples: int  # at the rate asked for: the length of ``load(...).samples`` (an estimate for MP3)
    duration: float  # seconds


def load(
    source: Source, *, sample_rate: int = 16000, name: str | None = None, max_seconds: float = MAX_SECONDS
) -> Audio:
    """Reads a recording as one channel of float32 at ``sample_rate``.

    Several channels become their mean; soxr (HQ setting) converts other sample rates. ``notes`` lists the conversions,
    so that a caller who reads many files can report each conversion once.

    Args:
      source: a path, or a binary file opened for reading (an upload, a member of an archive).
      sample_rate: the rate wanted, hertz.
      name: what messages call the recording; by default its path.
      max_seconds: limit of the length (``data.max_recording_seconds``). It is compared with the header before any
        sample is decoded, and again while samples are decoded.

    Raises:
      InputError: the file is missing, empty, cut short, too long or not audio, or it has no samples, an absurd header,
        NaN or infinite samples. Silence is a note, not an error.
    """
    label = name or _label(source)
    with _open(source, label, whole=True) as sound:
        most = int(max_seconds * min(sound.samplerate, _FASTEST))  # samples of a channel
        if len(sound) > most:
            raise InputError(too_long(label, len(sound) / most * max_seconds, max_seconds))
        try:
            samples = _read(sound, most)
        except soundfile.LibsndfileError as error:
            raise InputError(f"{label}: broken audio ({error.error_string}); copy or record it again") from error
        declared, rate, channels, container = len(sound), sound.samplerate, sound.channels, sound.format
    if len(samples) > most:
        raise InputError(too_long(label, max_seconds, max_seconds))
    # The length of an MP3 without an index is an estimate: fewer samples prove nothing.
    if len(samples) < declared and container != "MP3":
        raise InputError(containers.cut_short(label, f"its header says {declared} samples, {len(samples)} are there"))
    samples, notes = _convert(samples, channels, rate, sample_rate)
    if not len(samples):
        raise InputError(_no_samples(label))
    peak = float(np.abs(samples).max())
    if not peak < _LOUDEST:  # true for NaN too
        raise InputError(f"{label}: contains NaN, infinite or absurdly large samples; write it again as 16-bit PCM")
    if not peak:
        notes += ("silent: every sample is zero",)
    return Audio(samples, notes)


def info(source: Source, *, sample_rate: int = 16000, name: str | None = None) -> Info:
    """Reads a recording's length at ``sample_rate`` from its header, in well under a millisecond.

    Raises:
      InputError: as ``load``, as far as the header tells.
    """
    label = name or _label(source)
    with _open(source, label, whole=False) as sound:
        samples = resampled_length(len(sound), sound.samplerate, sample_rate)
        if not samples:
            raise InputError(_no_samples(label))
        return Info(samples, len(sound) / sound.samplerate)


def resample(samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    """Converts ``[N]`` or ``[N, channels]`` samples from ``rate`` to ``target`` hertz with soxr's HQ setting."""
    return soxr.resample(samples, rate, target, quality="HQ")


def resampled_length(samples: int, rate: int, target: int) -> int:
    """The number of samples that ``resample`` returns for so many: rounded half up, as soxr does.

    >>> resampled_length(11025, 22050, 16000)
    8000
    """
    return (2 * samples * target + rate) // (2 * rate)


def _convert(
    mono: NDArray[np.float32], channels: int, rate: int, target: int
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    notes: tuple[str, ...] = (f"mixed {channels} channels down to one",) if channels > 1 else ()
    if rate != target:
        mono = resample(mono, rate, target)
        notes += (f"resampled from {rate} Hz to {target} Hz",)
    return np.ascontiguousarray(mono), notes


def _read(sound: soundfile.SoundFile, most: int) -> NDArray[np.float32]:
    """The mean of the channels, [N], whatever number the header promises; ends soon after ``most`` samples."""
    size = max(1, _BLOCK // sound.channels)
    blocks: list[NDArray[np.float32]] = []
    read = 0
    while not blocks or (len(blocks[-1]) == size and read <= most):
        block = sound.read(size, dtype="float32", always_2d=True)
        blocks.append(block[:, 0] if sound.channels == 1 else block.mean(axis=1, dtype=np.float32))
        read += len(block)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _open(source: Source, label: str, *, whole: bool) -> soundfile.SoundFile:
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix.lower() == ".raw":
            raise InputError(
                f"{label}: headerless samples tell neither their rate nor their format; convert the file to WAV"
            )
        try:
            kind = path.stat().st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # reading a pipe would wait; opening a folder raises
                raise InputError(f"{label}: neither file nor folder; check the path, or the manifest that names it")
            with path.open("rb") as file:
                containers.check(file, label, whole=whole)
        except OSError as error:
            raise InputError(f"{label}: {error.strerror}; check the path, or the manifest that names it") from error
        # libsndfile opens a path itself several times faster than it reads a Python file. A path that is not UTF-8 is
        # passed as bytes.
        opened: str | bytes | BinaryIO = os.fsencode(path)
    else:
        containers.check(source, label, whole=whole)
        opened = source
    try:
        sound = soundfile.SoundFile(opened)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{label}: not audio that can be read ({error.error_string}); {_READABLE}") from error
    if len(sound) == _UNKNOWN_LENGTH:
        sound.close()
        raise InputError(
            f"{label}: its header does not say how long it is, as in output to a pipe; encode it to a file"
        )
    lowest, highest = _RATES
    if not lowest <= sound.samplerate <= highest:
        sound.close()
        raise InputError(f"{label}: its header says {sound.samplerate} samples a second; copy or record it again")
    return sound


def _label(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "recording"))


def too_long(label: str, seconds: float, limit: float) -> str:
    """The message for a recording that is longer than the limit."""
    return (
        f"{label}: {seconds:,.0f} s long or more; the limit is {limit:,.0f} s. Cut it, or raise the limit with "
        "--data.max_recording_seconds"
    )


def _no_samples(label: str) -> str:
    return f"{label}: the recording has no samples; remove it from the manifest or record it again"
