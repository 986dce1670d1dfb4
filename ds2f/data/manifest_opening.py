"""The utterances of whole manifests, with the recordings opened by several threads: for commands on manifests."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from ds2f import text
from ds2f.config import DataConfig
from ds2f.data import audio, division, manifest_listing, manifests
from ds2f.data.corpora.layout import Progress, silent
from ds2f.data.manifest_rows import Row
from ds2f.data.manifests import Utterance
from ds2f.data.problems import Checked, Problem
from ds2f.errors import InputError

_TOUCHING = 0.05  # seconds by which parts may overlap, since their ends are rounded
_AT_ONCE = 1000  # rows that are given to the threads at a time

T = TypeVar("T")
R = TypeVar("R")


class OpenedManifest(NamedTuple):
    """A manifest's utterances, with their rows."""

    path: Path
    rows: list[Row]  # those of the utterances
    utterances: list[Utterance]
    checked: Checked  # every row that cannot be used
    repeated: int  # rows that were dropped as repetitions
    remarks: tuple[str, ...]


def open_manifest(
    path: Path,
    *,
    cfg: DataConfig,
    workers: int = 4,
    trust: bool = False,
    decode: bool = False,
    progress: Progress = silent,
) -> OpenedManifest:
    """Reads a manifest in any form; its rows may name parts of recordings.

    Args:
      path: the manifest, or the folder.
      cfg: the limits are read.
      workers: threads.
      trust: whether durations in the manifest are believed; otherwise every recording is opened.
      decode: whether recordings are decoded to their ends, too.
      progress: called with the number of rows that are done.

    Raises:
      InputError: the manifest is missing, empty, too large or malformed as a whole.
    """
    found = manifest_listing.listing(path, cfg.max_manifest_bytes)
    if not found.rows and not found.problems:
        raise InputError(f"{path}: the manifest names no recordings. {' '.join(found.remarks)}".rstrip())
    rows, repeated = manifest_listing.distinct(found.rows)
    faults = list(found.problems)
    lengths: dict[Path, float | InputError] = {}
    damaged = _damaged(rows, cfg, workers, progress) if decode else {}

    def opened(row: Row) -> Utterance | Problem:
        try:
            if reason := damaged.get(row.audio):
                return Problem(row.where, reason)
            if trust and row.seconds is not None:
                transcript = manifests.transcript_of(row, cfg.max_text_bytes)
                return Utterance(0, row.audio, transcript, row.seconds, row.start or None, row.speaker, row.lang)
            return manifests.opened(row, 0, lengths, cfg=cfg, believe=trust)
        except InputError as error:
            return Problem.of(row.where, error)

    kept: list[Row] = []
    utterances: list[Utterance] = []
    for row, result in zip(rows, in_threads(opened, rows, workers, _named(progress, path.name)), strict=True):
        if isinstance(result, Problem):
            faults.append(result)
        else:
            kept.append(row)
            utterances.append(result._replace(id=len(utterances)))
    checked = Checked("", str(path), len(rows) + len(found.problems), faults)
    return OpenedManifest(path, kept, utterances, checked, repeated, tuple(found.remarks))


def in_threads(
    function: Callable[[T], R], items: Sequence[T], workers: int, progress: Callable[[int, int], None]
) -> Iterator[R]:
    """Yields the results of a function in the order of its arguments, computed by several threads.

    Args:
      function: of one item.
      items: its arguments.
      workers: threads.
      progress: called with the number of results and of items.
    """
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(items), _AT_ONCE):
            batch = items[start : start + _AT_ONCE]
            yield from pool.map(function, batch)
            progress(start + len(batch), len(items))


def _named(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)


def _damaged(rows: Iterable[Row], cfg: DataConfig, workers: int, progress: Progress) -> dict[Path, str]:
    """The recordings that cannot be decoded to their ends, with the reasons; each is decoded once."""

    def reason(path: Path) -> str:
        try:
            audio.load(path, max_seconds=cfg.max_recording_seconds)
        except InputError as error:
            return str(error)
        return ""

    paths = list(dict.fromkeys(row.audio for row in rows))
    reasons = in_threads(reason, paths, workers, _named(progress, "decoding"))
    return {path: found for path, found in zip(paths, reasons, strict=True) if found}


def with_speakers(opened: OpenedManifest, pattern: re.Pattern[str]) -> OpenedManifest:
    """The manifest with the speakers that a regular expression finds in the paths, by its only group.

    Raises:
      InputError: it finds none in a path.
    """
    named = [each._replace(speaker=division.speaker_in(each.audio, pattern)) for each in opened.utterances]
    return opened._replace(utterances=named)


def with_shared_recordings(opened: Sequence[OpenedManifest]) -> list[OpenedManifest]:
    """The manifests, with a problem for each row that overlaps a row of another manifest in the same recording.

    A set in which a model is tested on recordings of its training is wrong.
    """
    spans: dict[Path, list[tuple[float, float, int, int]]] = defaultdict(list)  # start, end, manifest, row
    for index, each in enumerate(opened):
        for place, said in enumerate(each.utterances):
            start = said.start or 0.0
            spans[said.audio.absolute()].append((start, start + said.duration, index, place))
    shared: dict[int, list[Problem]] = defaultdict(list)
    for path, found in spans.items():
        ends: dict[int, float] = {}  # of the rows of each manifest so far
        for start, end, index, place in sorted(found):
            others = [other for other, last in ends.items() if other != index and start < last - _TOUCHING]
            if others:
                reason = f"{path}: is in {opened[others[0]].path}, too; remove it from one of them"
                shared[index].append(Problem(opened[index].rows[place].where, reason))
            ends[index] = max(end, ends.get(index, 0.0))
    return [_with_problems(each, shared[index]) for index, each in enumerate(opened)]


def with_strange_characters(opened: OpenedManifest, labels: Sequence[str]) -> OpenedManifest:
    """The manifest, with a problem for each transcript that has characters outside the labels."""
    found = []
    for row, each in zip(opened.rows, opened.utterances, strict=True):
        if strange := text.unknown_characters(each.transcript, labels):
            found.append(Problem(row.where, f"characters outside the labels: {' '.join(map(repr, strange))}", strange))
    return _with_problems(opened, found)


def _with_problems(opened: OpenedManifest, found: Sequence[Problem]) -> OpenedManifest:
    return opened._replace(checked=opened.checked._replace(problems=[*opened.checked.problems, *found]))


def shared_speakers(opened: Sequence[OpenedManifest]) -> Counter[str]:
    """The speakers that several of the manifests have, with the numbers of their utterances."""
    sets = [{utterance.speaker for utterance in each.utterances} - {""} for each in opened]
    shared = {
        name for index, names in enumerate(sets) for name in names if any(name in other for other in sets[:index])
    }
    return Counter(said.speaker for each in opened for said in each.utterances if said.speaker in shared)
