"""Copies of recordings as FLAC, one for each utterance: parts cut out, one channel of 16 bits at 16 kHz.

A copy that is there is whole, since it takes its name at the end: a conversion that was interrupted goes on.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ds2f.config import DataConfig
from ds2f.data import audio, audio_parts
from ds2f.data.corpora.layout import SAMPLE_RATE, Progress, as_pcm
from ds2f.data.manifest_opening import in_threads
from ds2f.data.manifests import Utterance
from ds2f.errors import InputError
from ds2f.files import write_atomically

_STEM = 100  # bytes of a copy's name that are the recording's; file systems have 255 for the whole name


def copies(
    utterances: Sequence[Utterance], folder: Path, *, cfg: DataConfig, workers: int, progress: Progress
) -> list[Utterance | InputError]:
    """Writes the copies that are missing, and returns the utterances with the copies in the recordings' places.

    Args:
      utterances: of whole recordings or of parts.
      folder: takes ``AB/NAME-ABCDEF01.flac``, with digits from the path and the span.
      cfg: the limits are read.
      workers: threads.
      progress: called with the number of utterances that are done.

    Returns:
      For each utterance the copy's, or the reason why its recording cannot be copied.
    """

    def copied(each: Utterance) -> Utterance | InputError:
        path = _place(each, folder)
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, _flac(_samples(each, cfg)))
            return each._replace(audio=path, start=None, duration=audio.info(path).duration)
        except InputError as error:
            return error

    results = in_threads(copied, utterances, workers, lambda done, total: progress("converting", done, total))
    return list(results)


def _place(each: Utterance, folder: Path) -> Path:
    span = "" if each.start is None else f" {each.start:.6f} {each.duration:.6f}"
    digest = hashlib.sha256(f"{each.audio.absolute()}{span}".encode(errors="surrogateescape")).hexdigest()
    stem = each.audio.stem.encode(errors="replace")[:_STEM].decode(errors="ignore")
    return folder / digest[:2] / f"{stem}-{digest[:8]}.flac"


def _samples(each: Utterance, cfg: DataConfig) -> NDArray[np.int16]:
    samples = audio_parts.num_samples(each.duration, SAMPLE_RATE)
    found = audio_parts.load(
        each.audio, each.start, samples, sample_rate=SAMPLE_RATE, max_seconds=cfg.max_recording_seconds
    )
    return as_pcm(found.samples)


def _flac(samples: NDArray[np.int16]) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return content.getvalue()
