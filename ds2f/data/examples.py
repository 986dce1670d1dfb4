"""The utterances of a split that can be used, with their labels."""

import operator
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds2f import features, text
from ds2f.config import Config, DataConfig, SpectConfig
from ds2f.convolutions import output_lengths
from ds2f.data import audio, audio_parts
from ds2f.data.columns import Table
from ds2f.data.manifests import Utterance
from ds2f.data.problems import Problem, Remark

SHOWN = 5  # recordings that a remark names
_CHARACTERS = 50  # characters outside the labels that a remark names
_QUOTED = 200  # characters of a transcript that a message quotes
_STRANGE = {
    "drop_character": "used without their characters outside the labels ({characters})",
    "drop_utterance": "left out for characters outside the labels ({characters})",
}


class Example(NamedTuple):
    """An utterance as the loader needs it."""

    row: int  # of the manifest
    audio: Path
    num_samples: int  # at the rate of the spectrogram, before any augmentation
    labels: tuple[int, ...]
    min_frames: int  # frames of logits that the transcript needs at least
    start: float | None = None  # of a part of the recording, seconds; None: the whole recording


class EncodedSplit(NamedTuple):
    """The utterances that can be used, and what became of the others."""

    examples: Table[Example]
    remarks: tuple[Remark, ...]  # utterances that are left out, altered, or too short for their transcripts
    problems: tuple[Problem, ...]  # of utterances that cannot be used
    utterances: int  # in all


def encode_all(utterances: Iterable[Utterance], cfg: Config, *, train: bool) -> EncodedSplit:
    """Selects the utterances that can be used, and encodes their transcripts: the slow part of ``dataset.build``.

    Args:
      utterances: from ``manifests.read``.
      cfg: a resolved configuration. Read are the sections ``data`` and ``spect``, and the model's labels and stride.
      train: whether to leave out by duration.
    """
    number = 0
    seen: dict[str, list[str]] = defaultdict(list)
    strange: Counter[str] = Counter()
    faults: list[Problem] = []

    def examples() -> Iterable[Example]:
        nonlocal number, strange
        for utterance in utterances:
            number += 1
            recording = utterance.name
            if train and (why := _pruned(utterance.duration, cfg.data)):
                seen[why].append(recording)
                continue
            if problem := _problem(utterance, cfg, train=train):
                faults.append(problem)
                continue
            labels, unknown = _encode(utterance, cfg)
            if unknown:
                strange += unknown
                seen[_STRANGE[cfg.data.unknown_characters]].append(recording)
            if labels is None:
                continue
            example = _example(utterance, labels, cfg.spect)
            if not _fits(example, cfg):
                seen["too short for their transcripts, so that they have no finite loss"].append(recording)
            yield example

    chosen = Table.of(Example, examples())
    characters = ", ".join(f"{character!r} {number}" for character, number in strange.most_common(_CHARACTERS))
    characters += ", ..." if len(strange) > _CHARACTERS else ""
    remarks = tuple(
        Remark(what.format(characters=characters), len(names), tuple(names[:SHOWN])) for what, names in seen.items()
    )
    return EncodedSplit(chosen, remarks, tuple(faults), number)


class References(Mapping[int, str]):
    """The transcripts of examples in the spelling of the labels, by row, decoded when they are asked for."""

    def __init__(self, examples: Table[Example], labels: Sequence[str]) -> None:
        self._examples, self._labels = examples, labels
        self._rows = examples.numbers("row")
        self._order: NDArray[np.intp] | None = None  # of the rows, if they do not ascend
        if len(self._rows) and not (self._rows[1:] > self._rows[:-1]).all():
            self._order = np.argsort(self._rows, kind="stable")

    def __getitem__(self, row: int) -> str:
        place = int(np.searchsorted(self._rows, row, sorter=self._order))
        if self._order is not None and place < len(self._order):
            place = int(self._order[place])
        if place >= len(self._rows) or self._rows[place] != row:
            raise KeyError(row)
        return text.decode(self._examples[place].labels, self._labels)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows.tolist())

    def __len__(self) -> int:
        return len(self._rows)


def _pruned(duration: float, cfg: DataConfig) -> str | None:
    if duration < cfg.min_duration:
        return f"left out, shorter than data.min_duration={cfg.min_duration:g} s"
    if cfg.max_duration and duration > cfg.max_duration:
        return f"left out, longer than data.max_duration={cfg.max_duration:g} s"
    return None


def _problem(utterance: Utterance, cfg: Config, *, train: bool) -> Problem | None:
    """Why an utterance cannot be used, or None."""
    recording, limit = utterance.name, cfg.data.max_recording_seconds
    if utterance.duration > limit:
        others = ", or leave long recordings out, --data.max_duration=SECONDS" if train else ""
        return Problem(recording, audio.too_long("", utterance.duration, limit).removeprefix(": ") + others)
    if cfg.data.unknown_characters != "error":
        return None
    if unknown := text.unknown_characters(utterance.transcript, cfg.model.labels):
        named, quoted = " ".join(map(repr, sorted(unknown)[:_CHARACTERS])), utterance.transcript[:_QUOTED]
        other_case = any(each.swapcase() in cfg.model.labels for each in unknown)
        why = " (the labels tell upper and lower case apart)" if other_case else ""
        return Problem(recording, f"characters outside the labels: {named} in {quoted!r}{why}", unknown)
    return None


def _encode(utterance: Utterance, cfg: Config) -> tuple[list[int] | None, Counter[str]]:
    """The labels of a transcript (None: leave it out), and the counts of its characters outside the labels."""
    policy = cfg.data.unknown_characters
    encoded = text.encode(utterance.transcript, cfg.model.labels, unknown=policy)
    return encoded, Counter() if policy == "error" else text.unknown_characters(utterance.transcript, cfg.model.labels)


def _example(utterance: Utterance, labels: list[int], spect: SpectConfig) -> Example:
    num_samples = audio_parts.num_samples(utterance.duration, spect.sample_rate)
    # Equals ctc.min_frames, whose tensors would take most of the time to read a large corpus.
    needed = len(labels) + sum(map(operator.eq, labels, labels[1:]))
    return Example(utterance.id, utterance.audio, num_samples, tuple(labels), needed, utterance.start)


def _fits(example: Example, cfg: Config) -> bool:
    frames = features.num_frames(example.num_samples, cfg.spect)
    return output_lengths(frames, time_stride=cfg.model.time_stride) >= example.min_frames
