"""A prepared corpus on disk: its layout, its publication in one step, and its later check.

``data_path/NAME_dataset/{train,val,test}/{wav,txt}/ID.{wav,txt}`` hold the recordings (16-bit WAV at 16 kHz) and
transcripts, ``NAME_dataset/corpus.json`` their origin, counts and digest, and
``data_path/NAME_{train,val,test}_manifest.csv`` their names. The manifests are written last: where they exist, the
corpus is whole.
"""

import hashlib
import json
import os
import shutil
import wave
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import numpy as np
from numpy.typing import NDArray

from ds2f.data import manifests
from ds2f.errors import InputError
from ds2f.files import RECORD_BYTES, json_text, naming, read_bounded

SPLITS = ("train", "val", "test")
SAMPLE_RATE = 16000  # hertz

Progress = Callable[[str, int, int], None]  # (activity, number done, total or 0)


def silent(what: str, done: int, total: int) -> None:
    """Reports no progress."""


class Recording(NamedTuple):
    """One utterance of a corpus."""

    split: str
    id: str  # its file's name, without the ending
    speaker: str
    transcript: str
    samples: NDArray[np.int16]  # [N] at SAMPLE_RATE


@attrs.frozen(kw_only=True)
class CorpusSplit:
    """The size of one split."""

    split: str
    utterances: int = 0
    speakers: int = 0
    words: int = 0
    characters: int = 0  # without spaces
    seconds: float = 0.0


@attrs.frozen(kw_only=True)
class Corpus:
    """A prepared corpus."""

    name: str
    folder: Path
    origin: dict[str, Any]  # its source and settings; a corpus of another origin is made again
    parts: tuple[CorpusSplit, ...]
    digest: str  # SHA-256 over every recording and transcript
    verdict: str  # one sentence about what was verified
    reused: bool = False  # found on disk and checked, not made
    labels_path: Path | None = None  # of labels made for the corpus; None: the default labels spell it


def publish(
    recordings: Iterable[Recording], data_path: Path, *, name: str, origin: dict[str, Any], verdict: str
) -> Corpus:
    """Writes a corpus; an unfinished corpus never looks complete.

    The files go to a temporary folder, which is renamed at the end. Before that, an earlier corpus of the same name
    loses its manifests. The next call removes the files of a run that was killed.

    Args:
      recordings: of all splits, in any order; taken one by one, so that a generator can make them.
      data_path: the folder for manifests and recordings; made if missing.
      name: the corpus's name, as in the manifests' names.
      origin: source and settings, by which ``existing`` recognises the corpus; JSON values.
      verdict: the result of the verification, for the user.

    Raises:
      InputError: ``data_path`` cannot be a folder to write in, or two recordings share an id.
    """
    final, partial, old = (data_path / f"{prefix}{name}_dataset" for prefix in ("", ".partial_", ".old_"))
    make_folder(data_path)
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        parts = _write_recordings(recordings, partial)
        digest = _digest(partial)
        facts = {
            "origin": origin,
            "verdict": verdict,
            "digest": digest,
            "parts": [attrs.asdict(part) for part in parts],
        }
        (partial / "corpus.json").write_text(json_text(facts, indent=1) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for split in SPLITS:
        _manifest(data_path, name, split).unlink(missing_ok=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    for split in SPLITS:
        manifests.write(_manifest(data_path, name, split), _rows(final / split))
    return Corpus(name=name, folder=data_path, origin=origin, parts=parts, digest=digest, verdict=verdict)


def make_folder(data_path: Path) -> None:
    """Makes the folder of the corpora.

    Raises:
      InputError: something else has that name, or the permission is missing.
    """
    try:
        data_path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"--data_path={data_path}: {error.strerror}; name a folder that can be written") from error
    if not os.access(data_path, os.W_OK | os.X_OK):
        raise InputError(f"--data_path={data_path}: no permission to write there; name another folder")


def existing(data_path: Path, *, name: str, origin: dict[str, Any]) -> Corpus | None:
    """The corpus that is already in ``data_path``: of that origin, with all manifests and every byte as written.

    Returns:
      None when it is missing, unfinished, damaged or of another origin, so that it must be made.
    """
    folder = data_path / f"{name}_dataset"
    try:
        facts = json.loads(read_bounded(folder / "corpus.json", RECORD_BYTES, remedy=""))
        parts = tuple(CorpusSplit(**part) for part in facts["parts"])
        found = {split: _manifest(data_path, name, split).read_text(encoding="utf-8") for split in SPLITS}
        wanted = {split: manifests.text(_rows(folder / split), folder=data_path) for split in SPLITS}
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    if facts.get("origin") != origin or found != wanted or facts.get("digest") != _digest(folder):
        return None
    return Corpus(
        name=name,
        folder=data_path,
        origin=origin,
        parts=parts,
        digest=facts["digest"],
        verdict=facts["verdict"],
        reused=True,
    )


def _manifest(data_path: Path, name: str, split: str) -> Path:
    return data_path / f"{name}_{split}_manifest.csv"


def _rows(folder: Path) -> Iterator[tuple[Path, Path]]:
    for sound in sorted((folder / "wav").iterdir()):
        yield sound, folder / "txt" / f"{sound.stem}.txt"


def _write_recordings(recordings: Iterable[Recording], folder: Path) -> tuple[CorpusSplit, ...]:
    parts = {split: CorpusSplit(split=split) for split in SPLITS}
    speakers: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for kind in ("wav", "txt"):
            (folder / split / kind).mkdir(parents=True)
    for recording in recordings:
        write_pair(folder / recording.split, recording.id, recording.transcript, recording.samples)
        speakers[recording.split].add(recording.speaker)
        parts[recording.split] = _grown(parts[recording.split], recording)
    return tuple(attrs.evolve(parts[split], speakers=len(speakers[split])) for split in SPLITS)


def write_pair(
    folder: Path, id: str, transcript: str, samples: NDArray[np.int16], *, sample_rate: int = SAMPLE_RATE
) -> None:
    """Writes ``wav/ID.wav``, 16-bit, and ``txt/ID.txt`` to a folder, which can then serve as a manifest.

    Raises:
      InputError: the folder has a recording of this name.
    """
    sound, text = folder / "wav" / f"{id}.wav", folder / "txt" / f"{id}.txt"
    if sound.exists():
        raise InputError(f"{id}: two recordings of this name in {folder.name}; ids must differ")
    for path in (sound, text):
        path.parent.mkdir(parents=True, exist_ok=True)
    # Python's files tell the cause of an error, such as a full disk; libsndfile does not.
    with naming(sound), sound.open("wb") as file, wave.open(file, "wb") as writer:
        writer.setparams((1, 2, sample_rate, len(samples), "NONE", "not compressed"))
        writer.writeframes(samples.astype("<i2").tobytes())
    with naming(text):
        text.write_text(transcript + "\n", encoding="utf-8")


def as_pcm(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples of -1 to 1 as 16-bit integers: exact for samples of a 16-bit file; louder ones are clipped."""
    return np.clip(np.rint(samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)


def _grown(part: CorpusSplit, recording: Recording) -> CorpusSplit:
    words = recording.transcript.split()
    return attrs.evolve(
        part,
        utterances=part.utterances + 1,
        words=part.words + len(words),
        characters=part.characters + sum(map(len, words)),
        seconds=part.seconds + len(recording.samples) / SAMPLE_RATE,
    )


def _digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all recordings and transcripts."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for kind in ("wav", "txt"):
            for file in sorted((folder / split / kind).iterdir()):
                content = file.read_bytes()
                digest.update(f"{split}/{kind}/{file.name}:{len(content)}\n".encode())
                digest.update(content)
    return digest.hexdigest()
