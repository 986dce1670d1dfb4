"""Parts of recordings: utterances that a manifest gives by offset and duration, as in Kaldi's ``segments``.

A part is a stretch of the samples that ``audio.load`` would return, at the rate of the features. The fast way seeks in
the file and converts a little more than the part, whose edges the resampling would else change. Where the decoder
cannot seek exactly, the recording is decoded from its beginning to the end of the part.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ds2f.data import audio, mixing
from ds2f.data.audio_blocks import Recording
from ds2f.data.manifests import Utterance
from ds2f.data.sound_files import opened
from ds2f.errors import InputError

_BLOCK = 1 << 22  # samples of all channels read at a time
_MARGIN = 0.1  # seconds on either side of a part that are resampled with it; soxr's filter is shorter
_INEXACT = ("MP3",)  # formats whose decoders give other samples after a seek
_ROUNDED = 2  # samples that may be missing at the recording's end, since durations are rounded


def num_samples(duration: float, sample_rate: int) -> int:
    """Samples of a recording or a part of so many seconds, at least one; rounded half up, as resampling rounds."""
    return max(1, int(duration * sample_rate + 0.5))


def load(
    path: Path, start: float | None, samples: int, *, sample_rate: int = 16000, max_seconds: float = audio.MAX_SECONDS
) -> audio.Audio:
    """Reads a part of a recording, or all of it.

    Args:
      path: the recording.
      start: the part's beginning, seconds; None: the whole recording.
      samples: the part's length at ``sample_rate``; of no effect on a whole recording.
      sample_rate: the rate wanted, hertz.
      max_seconds: limit of the part's length.

    Returns:
      The samples of the part, [samples], one channel, and remarks.

    Raises:
      InputError: as ``audio.load``; or the recording ends before the part does.
    """
    if start is None:
        return audio.load(path, sample_rate=sample_rate, max_seconds=max_seconds)
    label, begin = f"{path} (from {start:g} s)", int(start * sample_rate + 0.5)
    if samples > max_seconds * sample_rate:
        raise InputError(audio.too_long(label, samples / sample_rate, max_seconds))
    found = _sought(path, begin, samples, sample_rate, label)
    if found is None:
        found = _decoded(path, begin, samples, sample_rate)
    part, notes = found
    if samples - len(part) > _ROUNDED:
        raise InputError(
            f"{label}: {samples / sample_rate:.2f} s long in the manifest, and {len(part) / sample_rate:.2f} s are "
            "there; copy the recording again or correct the row"
        )
    part = np.pad(part, (0, samples - len(part)))
    sizes = np.abs(part)
    audio.require_sound(sizes, label)
    return audio.Audio(part, (*notes, *mixing.oddities(part, sizes)))


def of(utterance: Utterance, *, sample_rate: int = 16000, max_seconds: float = audio.MAX_SECONDS) -> audio.Audio:
    """Reads the recording of an utterance, or its part of one. Errors as ``load``."""
    samples = num_samples(utterance.duration, sample_rate)
    return load(utterance.audio, utterance.start, samples, sample_rate=sample_rate, max_seconds=max_seconds)


def source(utterance: Utterance, *, sample_rate: int, max_seconds: float = audio.MAX_SECONDS) -> Recording:
    """The recording of an utterance, or its part of one, as a recognizer takes it. Errors as ``load``."""
    if utterance.start is None:
        return Recording(utterance.audio, sample_rate=sample_rate, max_seconds=max_seconds)
    part = of(utterance, sample_rate=sample_rate, max_seconds=max_seconds)
    return Recording(part.samples, rate=sample_rate, sample_rate=sample_rate, name=utterance.name)


def _sought(
    path: Path, begin: int, samples: int, target: int, label: str
) -> tuple[NDArray[np.float32], tuple[str, ...]] | None:
    """The part of a recording's first stream, if a seek is exact; else None."""
    with opened(path, label, whole=False, max_seconds=audio.MAX_SECONDS) as (streams, oddities):
        sound = next(streams)
        if sound.format in _INEXACT or not sound.seekable():
            return None
        rate, length = sound.samplerate, len(sound)
        step = rate // math.gcd(rate, target)  # every so many samples lie exactly on one of the result
        margin = 0 if rate == target else math.ceil(_MARGIN * rate / step)
        first = max(0, begin * rate // target // step - margin) * step
        end = -(-(begin + samples) * rate // target)
        if end - length > -(-_ROUNDED * rate // target):
            return None  # the part reaches into the next stream, or there is none
        mono, remarks = _between(sound, min(first, length), min(end + margin * step, length), label)
    if rate != target:
        mono = audio.resample(mono, rate, target)
        remarks += (f"resampled from {rate} Hz to {target} Hz",)
    offset = begin - first * target // rate
    return mono[offset : offset + samples], (*remarks, *oddities)


def _between(
    sound: soundfile.SoundFile, first: int, end: int, label: str
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """The samples from ``first`` to ``end`` of a stream, as one channel, and remarks."""
    size = audio.block_size(_BLOCK // sound.channels)

    def blocks() -> Iterator[NDArray[np.float32]]:
        sound.seek(first)
        left = end - first
        while left >= 0:
            block = sound.read(min(left, size), dtype="float32", always_2d=True)
            yield block
            left = left - len(block) if len(block) else -1

    try:
        return mixing.mono(blocks, sound.channels)
    except soundfile.LibsndfileError as error:
        raise audio.broken(error, label) from error


def _decoded(path: Path, begin: int, samples: int, target: int) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """The part of any recording, decoded from its beginning."""
    recording, there, pieces = Recording(path, sample_rate=target), 0, []
    for block in recording:
        pieces.append(block[max(0, begin - there) : max(0, begin + samples - there)])
        there += len(block)
        if there >= begin + samples:
            break
    return np.concatenate(pieces), recording.notes
