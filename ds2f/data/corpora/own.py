"""Recordings of one's own: divided into training, validation and test set, parts cut out, labels from the texts."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import attrs

from ds2f import text
from ds2f.config import BLANK, DataConfig
from ds2f.data import audio, division, manifests
from ds2f.data.corpora import layout
from ds2f.data.corpora.layout import SAMPLE_RATE, SPLITS, CorpusSplit, Progress
from ds2f.data.manifest_tables import table_of_texts
from ds2f.data.manifests import Utterance
from ds2f.errors import InputError
from ds2f.files import json_text, write_atomically

LABELS, _CUT = "labels.json", "cut"


class OwnCorpus(NamedTuple):
    """What ``prepare`` has written."""

    parts: tuple[CorpusSplit, ...]
    characters: Counter[str]  # of the texts, in the spelling of the labels
    labels: tuple[str, ...]
    cut: int  # utterances that were parts of recordings


def prepare(
    source: Path,
    folder: Path,
    *,
    cfg: DataConfig,
    held_out: float = 0.1,
    speaker: re.Pattern[str] | None = None,
    punctuation: bool = False,
    seed: int = 0,
    progress: Progress = layout.silent,
) -> OwnCorpus:
    """Writes ``train.csv``, ``val.csv``, ``test.csv`` and ``labels.json`` for recordings in any form of manifest.

    Recordings stay where they are; the tables name them. Parts of recordings are cut out, into ``folder/cut``. The
    division depends on the names and the seed alone, and keeps the utterances of a speaker together, or of a recording.

    Args:
      source: a manifest, or a folder.
      folder: a new folder, or one without these files.
      cfg: the limits are read.
      held_out: fraction of the utterances for validation, and again for the test; at most 1,000 utterances each.
      speaker: finds the speaker in a recording's path, by its only group; None: every recording is a speaker's.
      punctuation: whether marks and symbols are labels.
      seed: another seed gives another division.
      progress: called with the number of recordings that were cut.

    Raises:
      InputError: the recordings cannot be used or divided, or the folder holds such files.
    """
    written = [*(folder / f"{split}.csv" for split in SPLITS), folder / LABELS, folder / _CUT]
    if there := [path for path in written if path.exists()]:
        raise InputError(f"{there[0]} is there already: remove it, or name another folder with --output")
    utterances = manifests.read(source, cfg=cfg)
    sets = divide(utterances, held_out=held_out, speaker=speaker, seed=seed)
    found = text.characters([utterance.transcript for utterance in utterances])
    layout.make_folder(folder)
    paths = _cut(utterances, folder / _CUT, cfg, progress)
    labels = write_labels(folder / LABELS, found, punctuation=punctuation)
    parts = []
    for split, members in sets.items():
        rows = [(manifests.shown_from(folder, paths[each.id]), each.transcript) for each in members]
        write_atomically(folder / f"{split}.csv", table_of_texts(rows).encode(errors="surrogateescape"), fsync=True)
        parts.append(_size(split, members, speaker))
    return OwnCorpus(tuple(parts), found, labels, sum(paths[each.id] != each.audio for each in utterances))


def write_labels(path: Path, characters: Iterable[str], *, punctuation: bool = False) -> tuple[str, ...]:
    """Writes and returns labels: the blank and the characters, sorted; without punctuation unless asked for."""
    labels = (BLANK, *sorted(each for each in characters if punctuation or not text.is_punctuation(each)))
    write_atomically(path, json_text(labels, ascii_only=False) + "\n", fsync=True)
    return labels


def divide(
    utterances: Sequence[Utterance], *, held_out: float, speaker: re.Pattern[str] | None, seed: int
) -> dict[str, list[Utterance]]:
    """Divides utterances into ``train``, ``val`` and ``test``, in their order, whole speakers or recordings each.

    Raises:
      InputError: there are fewer than three speakers or recordings, or a path without a speaker.
    """
    groups = [_group(utterance.audio, speaker) for utterance in utterances]
    splits = division.by_groups(
        groups, held_out=held_out, what="speakers" if speaker else "recordings", salt=f"{seed} "
    )
    return {
        split: [utterance for utterance, own in zip(utterances, splits, strict=True) if own == split]
        for split in SPLITS
    }


def _group(path: Path, speaker: re.Pattern[str] | None) -> str:
    return str(path) if speaker is None else division.speaker_in(path, speaker)


def _cut(utterances: Sequence[Utterance], folder: Path, cfg: DataConfig, progress: Progress) -> dict[int, Path]:
    """The recordings of utterances by id; parts of recordings are written to files of their own."""
    paths = {each.id: each.audio for each in utterances}
    parts = [(each.start, each) for each in utterances if each.start is not None]
    load = partial(audio.load, sample_rate=SAMPLE_RATE, max_seconds=cfg.max_recording_seconds)
    done = 0
    for path, members in itertools.groupby(
        sorted(parts, key=lambda part: str(part[1].audio)), lambda part: part[1].audio
    ):
        samples = layout.as_pcm(load(path).samples)
        for beginning, each in members:
            name = f"{path.stem}-{each.id}"
            start, end = (round(SAMPLE_RATE * seconds) for seconds in (beginning, beginning + each.duration))
            layout.write_pair(folder, name, each.transcript, samples[start:end])
            paths[each.id] = folder / "wav" / f"{name}.wav"
            progress("cutting", done := done + 1, len(parts))
    return paths


def _size(split: str, members: Sequence[Utterance], speaker: re.Pattern[str] | None) -> CorpusSplit:
    words = [word for utterance in members for word in utterance.transcript.split()]
    return attrs.evolve(
        CorpusSplit(split=split),
        utterances=len(members),
        speakers=len({_group(utterance.audio, speaker) for utterance in members}) if speaker else 0,
        words=len(words),
        characters=sum(map(len, words)),
        seconds=sum(utterance.duration for utterance in members),
    )
