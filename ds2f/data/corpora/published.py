"""Published corpora that lie on the disk: LibriSpeech, AISHELL-1, Common Voice and VoxForge, in their own layouts.

A corpus is a function of its folder that yields utterances. Recordings stay where they are. All else is the same for
every corpus: durations, the division by speakers where none is published, manifests in JSON lines with NeMo's fields
(``audio_filepath``, ``duration``, ``text``, ``speaker``), and labels from the training texts.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import attrs

from ds2f import text
from ds2f.config import DataConfig
from ds2f.data import audio, division, manifests
from ds2f.data.corpora import layout, own
from ds2f.data.corpora.layout import SPLITS, CorpusSplit, Progress
from ds2f.data.corpora.readers import CORPORA, LeftOut, Spoken
from ds2f.errors import InputError
from ds2f.files import json_text, write_atomically

_HELD_OUT = 0.05  # of the utterances, for validation and for the test, where none are published
_EXAMPLES = 3  # recordings named for every reason to leave some out
_AT_ONCE = 1000  # recordings whose headers are read at a time


class Why(NamedTuple):
    """Why utterances are left out."""

    number: int
    examples: tuple[str, ...]


class PublishedCorpus(NamedTuple):
    """What ``prepare`` has written."""

    name: str
    parts: tuple[CorpusSplit, ...]
    manifests: dict[str, Path]  # by split
    labels_path: Path
    labels: tuple[str, ...]
    characters: Counter[str]  # of the training texts
    left_out: dict[str, Why]


def prepare(
    name: str,
    source: Path,
    data_path: Path,
    *,
    cfg: DataConfig,
    subset: Sequence[str] = (),
    punctuation: bool = False,
    workers: int = 4,
    progress: Progress = layout.silent,
) -> PublishedCorpus:
    """Writes the manifests and labels of a corpus that is unpacked on the disk.

    ``data_path`` gets ``NAME_{train,val,test}_manifest.jsonl`` and ``NAME_labels.json``. The manifests are written
    last: where they exist, they are whole.

    Args:
      name: ``librispeech``, ``aishell1``, ``commonvoice`` or ``voxforge``.
      source: its folder, or the one above.
      data_path: where the manifests are written; made if missing.
      cfg: the limits are read.
      subset: parts of the corpus, as its function in ``readers.py`` says; empty: all that are there.
      punctuation: whether marks and symbols are labels.
      workers: threads that read the recordings' headers.
      progress: called with the number of recordings that were read.

    Raises:
      InputError: the folder holds no such corpus, or no utterance can be used.
    """
    read = CORPORA[name].read
    found = [*read(source, tuple(subset), cfg)]
    left_out = [each for each in found if isinstance(each, LeftOut)]
    kept: list[tuple[Spoken, float]] = []
    for spoken, seconds in _with_durations([each for each in found if isinstance(each, Spoken)], workers, progress):
        if isinstance(seconds, LeftOut):
            left_out.append(seconds)
        else:
            kept.append((spoken, seconds))
    if not kept:
        raise InputError(f"{source}: no utterance of {name} can be used. {_described(_reasons(left_out))}".rstrip())
    if not all(spoken.split for spoken, _ in kept):
        kept = _divided(kept)
    missing = [split for split in SPLITS if not any(spoken.split == split for spoken, _ in kept)]
    if "train" in missing:
        raise InputError(f"{source}: no training utterances of {name} are here. {CORPORA[name].parts}")
    layout.make_folder(data_path)
    texts = [spoken.text for spoken, _ in kept if spoken.split == "train"]
    characters, labels_path = text.characters(texts), data_path / f"{name}_labels.json"
    labels = own.write_labels(labels_path, characters, punctuation=punctuation)
    parts, paths = [], {}
    for split in SPLITS:
        members = [(spoken, seconds) for spoken, seconds in kept if spoken.split == split]
        paths[split] = data_path / f"{name}_{split}_manifest.jsonl"
        paths[split].unlink(missing_ok=True)
        if members:
            lines = (_line(spoken, seconds, data_path) for spoken, seconds in members)
            write_atomically(paths[split], "".join(lines).encode(), fsync=True)
        parts.append(_size(split, members))
    there = {split: path for split, path in paths.items() if split not in missing}
    return PublishedCorpus(name, tuple(parts), there, labels_path, labels, characters, _reasons(left_out))


def _with_durations(
    spoken: Sequence[Spoken], workers: int, progress: Progress
) -> Iterator[tuple[Spoken, float | LeftOut]]:
    """Each utterance with its duration, or with the reason why its recording cannot be used."""
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(spoken), _AT_ONCE):
            batch = spoken[start : start + _AT_ONCE]
            yield from zip(batch, pool.map(_duration, batch), strict=True)
            progress("reading headers", start + len(batch), len(spoken))


def _duration(spoken: Spoken) -> float | LeftOut:
    if not spoken.text:
        return LeftOut("without words", str(spoken.audio))
    try:
        return audio.info(spoken.audio).duration
    except InputError as error:
        missing = not spoken.audio.exists()
        return LeftOut("whose recording is missing" if missing else "whose recording cannot be read", str(error))


def _divided(kept: Sequence[tuple[Spoken, float]]) -> list[tuple[Spoken, float]]:
    """The utterances divided by speakers.

    Raises:
      InputError: there are fewer than three speakers.
    """
    splits = division.by_groups([spoken.speaker for spoken, _ in kept], held_out=_HELD_OUT, what="speakers")
    return [(spoken._replace(split=split), seconds) for (spoken, seconds), split in zip(kept, splits, strict=True)]


def _line(spoken: Spoken, seconds: float, folder: Path) -> str:
    fields = {
        "audio_filepath": manifests.shown_from(folder, spoken.audio),
        "duration": round(seconds, 3),
        "text": spoken.text,
        "speaker": spoken.speaker,
    }
    return json_text(fields, ascii_only=False) + "\n"


def _size(split: str, members: Sequence[tuple[Spoken, float]]) -> CorpusSplit:
    words = [word for spoken, _ in members for word in spoken.text.split()]
    return attrs.evolve(
        CorpusSplit(split=split),
        utterances=len(members),
        speakers=len({spoken.speaker for spoken, _ in members}),
        words=len(words),
        characters=sum(map(len, words)),
        seconds=sum(seconds for _, seconds in members),
    )


def _reasons(left_out: Iterable[LeftOut]) -> dict[str, Why]:
    found: dict[str, Why] = {}
    for each in left_out:
        number, examples = found.get(each.why, Why(0, ()))
        found[each.why] = Why(number + 1, (*examples, each.where)[:_EXAMPLES])
    return found


def _described(reasons: dict[str, Why]) -> str:
    return " ".join(f"{why.number} {name}, such as {why.examples[0]}." for name, why in reasons.items())
