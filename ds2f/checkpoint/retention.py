"""Retention: which checkpoints of a run are whole, which is the best, and which are removed.

Each checkpoint is a folder named by its iteration. A checkpoint without ``digests.json`` is unfinished, a checkpoint
that differs from it is damaged (see ``integrity``), and neither is ever restored. An iteration that is written again
gets a folder of its own, ``12.1`` beside ``12``, so that nothing whole is removed before the next checkpoint is whole.

The algorithm::

    clear(written), after each write:
        newest = the first ``keep`` whole checkpoints, from the highest iteration down;
        best = the first ``keep_best`` whole checkpoints, from the lowest score up, the older of equals first;
        remove every checkpoint except newest, best and written.
    find("best:N" or "last:N"), before a restore:
        candidates = checkpoints with a score, from the lowest up; for "last", from the highest iteration down
        found = the first N whole candidates of different iterations; for "best", if there are none, the last one
        if found is empty and a candidate is damaged: raise, with the names of the damaged files
        warn of every faulty candidate that was met, and remove it if found is not empty
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from etils import epath

from ds2f.checkpoint import integrity
from ds2f.errors import InputError
from ds2f.files import RECORD_BYTES, read_bounded

RUN = "run.json"  # a checkpoint's own description; the best checkpoint has the lowest "score", here or added later
_REMEDY = "Copy the checkpoint again from the run that wrote it."
_NAME = re.compile(r"(\d+)(?:\.(\d+))?")
_WHICH = re.compile(r"(best|last)(?::([1-9]\d*))?|\d+")


class StoredCheckpoint(NamedTuple):
    """A checkpoint's folder; a later attempt at an iteration sorts after an earlier one."""

    iteration: int
    attempt: int
    path: epath.Path


class Retention:
    """A folder of checkpoints."""

    def __init__(
        self, folder: epath.Path, *, keep: int, keep_best: int, read_only: bool, warn: Callable[[str], None]
    ) -> None:
        """Takes a folder, which need not exist yet.

        Args:
          folder: the folder of the checkpoints.
          keep: number of the newest whole checkpoints to keep.
          keep_best: number of the whole checkpoints with the best scores to keep besides.
          read_only: change nothing.
          warn: called with a message for each checkpoint that is passed over.
        """
        self._folder, self._keep, self._keep_best = folder, keep, keep_best
        self._read_only, self._warn = read_only, warn
        self._sound: set[epath.Path] = set()  # checkpoints that this process has written or found whole
        self._unreadable: set[epath.Path] = set()  # checkpoints that this process could not read

    def entries(self) -> list[StoredCheckpoint]:
        """All checkpoints, whole or not, the newest first."""
        try:
            named = [(path, _NAME.fullmatch(path.name)) for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(
            (StoredCheckpoint(int(name[1]), int(name[2] or 0), path) for path, name in named if name), reverse=True
        )

    def new(self, iteration: int) -> epath.Path:
        """The path of a new folder for a checkpoint of ``iteration``."""
        taken = [entry.attempt for entry in self.entries() if entry.iteration == iteration]
        return self._folder / (f"{iteration}.{max(taken) + 1}" if taken else f"{iteration}")

    def find(self, which: str | int) -> list[int]:
        """The iterations of the checkpoints that ``which`` names; see ``Checkpoints.find_all``."""
        word, count = _parse(which)
        faults: dict[StoredCheckpoint, str] = {}
        entries = [entry for entry in self.entries() if word in ("best", "last", str(entry.iteration))]
        found = self._whole(self._ranked(entries, faults), count, faults) if word == "best" else []
        found = found or self._whole(entries, 1 if word == "best" else count, faults)
        damaged = [fault for entry, fault in faults.items() if integrity.finished(entry.path)]
        if damaged and not found:
            raise InputError(
                f"no whole checkpoint ({which}) in {self._folder}: {'; '.join(damaged)}. Restore the files from a "
                "copy, choose another checkpoint, or start over in another --run_dir."
            )
        for entry, fault in faults.items():
            self._warn(f"checkpoint {entry.iteration} is passed over: {fault}")
            if found:
                self.discard(entry.path)
        return [entry.iteration for entry in found]

    def whole(self, iteration: int) -> epath.Path:
        """The folder of a checkpoint, after comparing every bit with what was written.

        Raises:
          InputError: when the checkpoint is missing or damaged; the message names the file.
        """
        entries = [entry for entry in self.entries() if entry.iteration == iteration]
        faults: dict[StoredCheckpoint, str] = {}
        found = self._whole(entries, 1, faults)
        if not found:
            causes = "; ".join(faults.values()) or f"{self._folder / str(iteration)}: missing"
            raise InputError(f"checkpoint {iteration} cannot be read: {causes}. Choose another one.")
        return found[0].path

    def about(self, path: epath.Path) -> dict[str, Any] | None:
        """Reads a checkpoint's ``run.json``; None if it is damaged or cannot be read."""
        with suppress(InputError):
            return about(path) if self._fault(path, only=[RUN]) is None else None
        return None

    def clear(self, written: epath.Path) -> None:
        """Removes the checkpoints that need not be kept, now that ``written`` is whole.

        This process has found every kept checkpoint whole, so that no damaged one takes the place of a whole one.
        """
        self._sound.add(written)
        faults: dict[StoredCheckpoint, str] = {}
        try:
            entries = self.entries()
        except OSError as error:
            self._warn(f"old checkpoints in {self._folder} cannot be removed: {error.strerror or error}")
            return
        newest = self._whole(entries, self._keep, faults, trust=True)
        best = self._whole(self._ranked(entries, faults), self._keep_best, faults, trust=True)
        kept = {written, *(entry.path for entry in newest + best)}
        for entry in entries:
            if entry.path not in kept:
                self.discard(entry.path)

    def discard(self, path: epath.Path) -> None:
        """Removes a checkpoint, its ``digests.json`` first; ``warn`` gets the reason when that fails.

        A checkpoint that could not be read stays: the disk or the network may work again later.
        """
        if self._read_only or path in self._unreadable:
            return
        try:
            (path / integrity.FILE).unlink(missing_ok=True)
            path.rmtree(missing_ok=True)
        except OSError as error:
            self._warn(f"{path} cannot be removed: {error.strerror or error}")

    def _ranked(
        self, entries: Iterable[StoredCheckpoint], faults: dict[StoredCheckpoint, str]
    ) -> list[StoredCheckpoint]:
        """The checkpoints with a score, the best first; among equals the oldest, as in training."""
        scores = {}
        for entry in entries:
            fault = self._fault(entry.path, only=[RUN])  # the score's file may be damaged, too
            if fault is not None:
                faults[entry] = fault
            elif (score := self._score(entry.path)) is not None:
                scores[entry] = score
        return sorted(scores, key=lambda entry: (scores[entry], entry.iteration, -entry.attempt))

    def _score(self, path: epath.Path) -> float | None:
        """A checkpoint's score: of the validation that followed it, or the one that it was written with."""
        try:
            values = integrity.added(path) or {}
        except OSError:
            self._unreadable.add(path)
            values = {}
        score = values.get("score", about(path).get("score"))
        return score if isinstance(score, int | float) else None

    def _whole(
        self,
        entries: Sequence[StoredCheckpoint],
        count: int,
        faults: dict[StoredCheckpoint, str],
        *,
        trust: bool = False,
    ) -> list[StoredCheckpoint]:
        """The first ``count`` whole checkpoints of different iterations; adds the faults of others to ``faults``.

        Args:
          entries: checkpoints in the order of preference.
          count: the number wanted.
          faults: checkpoints known as faulty, with the fault.
          trust: skip the comparison of checkpoints that this process has found whole before.
        """
        found: dict[int, StoredCheckpoint] = {}
        for entry in entries:
            if len(found) == count:
                break
            if entry.iteration in found or entry in faults:
                continue
            fault = None if trust and entry.path in self._sound else self._fault(entry.path)
            if fault is None:
                self._sound.add(entry.path)
                found[entry.iteration] = entry
            else:
                faults[entry] = fault
        return list(found.values())

    def _fault(self, path: epath.Path, only: Sequence[str] | None = None) -> str | None:
        """The fault of a checkpoint, or of some of its files; None: whole."""
        try:
            fault = integrity.fault(path, only=only)
        except OSError as error:
            self._unreadable.add(path)
            return f"{error.filename or path}: {error.strerror or error}"
        self._unreadable.discard(path)
        return fault


def about(path: epath.Path) -> dict[str, Any]:
    """Reads a checkpoint's ``run.json``: ``iteration``, ``score``, ``version``, ``config``, ``leaves``.

    Raises:
      InputError: when the file holds something else.
    """
    stored = record(path / RUN)
    score = stored.get("score")
    if not isinstance(stored.get("leaves"), dict) or not isinstance(score, int | float | None):
        raise InputError(f"{path / RUN}: not the description of a checkpoint. {_REMEDY}")
    return stored


def record(path: epath.Path) -> dict[str, Any]:
    """Reads a JSON object that a checkpoint holds.

    Raises:
      InputError: when the file is too large, or holds something else.
    """
    try:
        stored = json.loads(read_bounded(path, RECORD_BYTES, remedy=_REMEDY))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not JSON: {error}. {_REMEDY}") from error
    if not isinstance(stored, dict):
        raise InputError(f"{path}: not a JSON object. {_REMEDY}")
    return stored


def _parse(which: str | int) -> tuple[str, int]:
    """``best`` or ``last``, or a number without leading zeros, and the number of checkpoints."""
    match = _WHICH.fullmatch(str(which))
    if match is None:
        raise InputError(
            f"checkpoint {which!r}: choose best, last, best:N or last:N (the mean of that many), or a number"
        )
    return match[1] or str(int(match[0])), int(match[2] or 1)
