"""Recordings from disk: decoded by libsndfile, mixed down to one channel, resampled to one rate."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ds2f.config import DataConfig
from ds2f.data import containers, mixing
from ds2f.data.sound_files import RATES, Source, opened
from ds2f.errors import InputError

_BLOCK = 1 << 22  # samples of all channels read at a time: a damaged header may promise more than memory holds
_FASTEST = 192_000  # hertz; the limit of the length counts faster recordings as if they had this rate
MAX_SECONDS = DataConfig().max_recording_seconds
_MP3_FRAME = 1152  # samples of a channel, or half as many
_LOUDEST = 1e9  # full scale is 1; programs that forget to scale write 2**31 at most


class Audio(NamedTuple):
    """One recording, ready for the features."""

    samples: NDArray[np.float32]  # [N], one channel; integer PCM is scaled to [-1, 1): int16 / 32768
    notes: tuple[str, ...]  # conversions and oddities, in the same words for the same case


class Info(NamedTuple):
    """Length of a recording, without decoding it."""

    samples: int  # at the rate asked for: the length of ``load(...).samples``
    duration: float  # seconds


def load(
    source: Source, *, sample_rate: int = 16000, name: str | None = None, max_seconds: float = MAX_SECONDS
) -> Audio:
    """Reads a recording as one channel of float32 at ``sample_rate``.

    Several channels become their mean; soxr (HQ setting) converts other sample rates. ``notes`` lists the conversions,
    so that a caller who reads many files can report each conversion once.

    Args:
      source: a path, or a binary file opened for reading (an upload, a member of an archive, a pipe).
      sample_rate: the rate wanted, hertz.
      name: what messages call the recording; by default its path.
      max_seconds: limit of the length (``data.max_recording_seconds``). It is compared with the header before any
        sample is decoded, and again while samples are decoded.

    Raises:
      InputError: the file is missing, empty, cut short, too long or not audio, or it has no samples, an absurd header,
        NaN or infinite samples. Silence is a note, not an error.
    """
    label = name or label_of(source)
    pieces: list[NDArray[np.float32]] = []
    notes: dict[str, None] = {}  # in their order, each once
    left = max_seconds
    with opened(source, label, whole=True, max_seconds=max_seconds) as (streams, oddities):
        for sound in streams:
            most = int(left * min(sound.samplerate, _FASTEST))  # samples of a channel
            if len(sound) > most:
                promised = len(sound) / min(sound.samplerate, _FASTEST)
                raise InputError(too_long(label, max_seconds - left + promised, max_seconds))
            mono, remarks = _read(sound, most, label)
            if len(mono) > most:
                raise InputError(too_long(label, max_seconds, max_seconds))
            left -= len(mono) / min(sound.samplerate, _FASTEST)
            mono, remarks = _at_rate(mono, sound.samplerate, sample_rate, remarks)
            pieces.append(mono)
            notes.update(dict.fromkeys(remarks))
    return _checked(pieces, (*notes, *oddities), label)


def of_array(
    samples: NDArray[Any],
    rate: int,
    *,
    sample_rate: int = 16000,
    name: str = "array",
    max_seconds: float = MAX_SECONDS,
) -> Audio:
    """Converts a recording in memory to one channel of float32 at ``sample_rate``.

    Args:
      samples: [N] or [N, channels]; floating point with full scale 1, or integers of 8, 16 or 32 bits, which are scaled
        to [-1, 1).
      rate: their sampling rate, hertz.
      sample_rate: the rate wanted, hertz.
      name: what messages call the recording.
      max_seconds: limit of the length.

    Raises:
      InputError: another shape, dtype or rate; and as ``load``.
    """
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > max(1, samples.shape[0])):
        raise InputError(f"{name}: samples of shape {samples.shape}; give [N], or [N, channels]")
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(f"{name}: {rate} samples a second; give the rate in hertz")
    if len(samples) > max_seconds * min(rate, _FASTEST):
        raise InputError(too_long(name, len(samples) / rate, max_seconds))
    table = scaled(samples[:, None] if samples.ndim == 1 else samples, name)
    mono, remarks = mixing.mono(lambda: iter((table,)), table.shape[1])
    mono, remarks = _at_rate(mono, rate, sample_rate, remarks)
    return _checked([mono], remarks, name)


def scaled(samples: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Samples of any shape as float32 with full scale 1: integers are scaled to [-1, 1).

    Raises:
      InputError: samples of another dtype than floating-point numbers and integers of at most 32 bits; ``name`` is the
        recording's. Integers of 64 bits do not tell their full scale: mostly they have the values of 16 bits.
    """
    if samples.dtype.kind not in "fiu":
        raise InputError(f"{name}: samples of dtype {samples.dtype}; give floating-point numbers or integers")
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype.itemsize > 4:
        raise InputError(f"{name}: samples of dtype {samples.dtype}; give int16 or int32: their full scale is known")
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return ((samples - (half if samples.dtype.kind == "u" else 0.0)) / half).astype(np.float32)


def _at_rate(
    mono: NDArray[np.float32], rate: int, target: int, remarks: tuple[str, ...]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    if rate == target:
        return mono, remarks
    return resample(mono, rate, target), (*remarks, f"resampled from {rate} Hz to {target} Hz")


def info(source: Source, *, sample_rate: int = 16000, name: str | None = None) -> Info:
    """Reads a recording's length at ``sample_rate`` without decoding it, in about a millisecond.

    Raises:
      InputError: as ``load``, as far as the header tells.
    """
    label = name or label_of(source)
    samples, duration = 0, 0.0
    with opened(source, label, whole=False, max_seconds=MAX_SECONDS) as (streams, _):
        for sound in streams:
            samples += resampled_length(len(sound), sound.samplerate, sample_rate)
            duration += len(sound) / sound.samplerate
    if not samples:
        raise InputError(no_samples(label))
    return Info(samples, duration)


def resample(samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    """Converts ``[N]`` or ``[N, channels]`` samples from ``rate`` to ``target`` hertz with soxr's HQ setting."""
    return soxr.resample(samples, rate, target, quality="HQ")


def resampled_length(samples: int, rate: int, target: int) -> int:
    """The number of samples that ``resample`` returns for so many: rounded half up, as soxr does.

    >>> resampled_length(11025, 22050, 16000)
    8000
    """
    return (2 * samples * target + rate) // (2 * rate)


def _read(sound: soundfile.SoundFile, most: int, label: str) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """One channel, [N], whatever number the header promises, and remarks; ends soon after ``most`` samples."""
    try:
        samples, remarks = mixing.mono(lambda: _blocks(sound, most), sound.channels)
    except soundfile.LibsndfileError as error:
        raise broken(error, label) from error
    require_whole(sound, len(samples), label)
    return samples, remarks


def broken(error: soundfile.LibsndfileError, label: str) -> InputError:
    """The error to raise for one of the decoder's."""
    return InputError(f"{label}: broken audio ({error.error_string}); copy or record it again")


def require_whole(sound: soundfile.SoundFile, read: int, label: str) -> None:
    """Compares the samples that were read of a stream with its header.

    Raises:
      InputError: samples are missing.
    """
    # Decoders leave out frames of an MP3 that they cannot decode, and some indexes count themselves.
    if read < len(sound) and sound.format != "MP3":
        raise InputError(containers.cut_short(label, f"its header says {len(sound)} samples, {read} are there"))


def block_size(samples: int) -> int:
    """The number of samples to read at a time: at most ``samples``, a multiple of an MP3 frame's.

    soundfile seeks after every block. A seek into an MP3 frame makes the decoder lose the bits that earlier frames hold
    for it: the next samples are wrong.
    """
    return max(1, samples // _MP3_FRAME) * _MP3_FRAME


def _blocks(sound: soundfile.SoundFile, most: int) -> Iterator[NDArray[np.float32]]:
    """Blocks of samples from the beginning, [n, channels], at least one; they end soon after ``most`` samples."""
    if sound.seekable() and sound.tell():  # GSM 6.10 cannot be sought in; it has one channel, read once
        sound.seek(0)
    size = block_size(_BLOCK // sound.channels)
    read, last = 0, size
    while last == size and read <= most:
        block = sound.read(size, dtype="float32", always_2d=True)
        last = len(block)
        read += last
        yield block


def _checked(pieces: list[NDArray[np.float32]], notes: Iterable[str], label: str) -> Audio:
    """The recording, with remarks about its samples; raises if they are none, or no sound."""
    samples = np.ascontiguousarray(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
    if not len(samples):
        raise InputError(no_samples(label))
    sizes = np.abs(samples)
    require_sound(sizes, label)
    return Audio(samples, (*notes, *mixing.oddities(samples, sizes)))


def require_sound(sizes: NDArray[np.float32], label: str) -> None:
    """Checks the absolute values of samples, at least one.

    Raises:
      InputError: some are NaN, infinite or absurdly large.
    """
    if not sizes.max() < _LOUDEST:  # true for NaN too
        raise InputError(f"{label}: contains NaN, infinite or absurdly large samples; write it again as 16-bit PCM")


def label_of(source: Source) -> str:
    """What messages call a recording without another name: its path."""
    return str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "recording"))


def too_long(label: str, seconds: float, limit: float) -> str:
    """The message for a recording that is longer than the limit."""
    return (
        f"{label}: {seconds:,.0f} s long or more; the limit is {limit:,.0f} s. Cut it, or raise the limit with "
        "--data.max_recording_seconds"
    )


def no_samples(label: str) -> str:
    """The message for a recording without samples."""
    return f"{label}: the recording has no samples; remove it or record it again"
