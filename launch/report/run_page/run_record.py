"""The files of a run, as its page reads them. They may be missing, cut off, of another version, or anybody's."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ds2f.errors import InputError
from ds2f.files import RECORD_BYTES, open_regular, read_bounded

LINES_BYTES = 64 << 20  # of metrics.jsonl, transcripts.jsonl and log.txt; of a larger file, the end is read
LARGEST = 1e100  # number that is drawn
TEXT = 2000  # characters of a text that is shown; the rest is left out
_READ = 20_000  # characters of a reference or transcript that are compared
_OF_EVERY_TRAINING = {"metrics.jsonl", "flags.txt", "log.txt"}
_SMALLER = "A run's file is smaller."


class Spoken(NamedTuple):
    """An utterance of ``transcripts.jsonl``."""

    split: str
    audio: str  # path of the recording
    reference: str
    hypothesis: str
    offset: float | None = None  # of a part of the recording, seconds
    duration: float | None = None  # seconds
    speaker: str | None = None


class RunRecord(NamedTuple):
    """What a run's folder tells."""

    folder: Path
    results: dict[str, Any]  # empty: the training has not ended
    flags: dict[str, str]  # of flags.txt, in its order
    train: list[dict[str, Any]]  # lines of metrics.jsonl, by kind
    epochs: list[dict[str, Any]]
    step_times: list[dict[str, Any]]
    log: list[str]  # lines of log.txt
    transcripts: list[Spoken]
    problems: list[str]  # what could not be read

    @property
    def name(self) -> str:
        """The run's name."""
        return text(self.results.get("name")) or self.folder.resolve().name

    @property
    def steps_per_epoch(self) -> float | None:
        """Global batches of an epoch; None before the end of the first one."""
        for line in reversed(self.epochs):
            epoch, iteration = number(line.get("epoch")), number(line.get("iteration"))
            if epoch and iteration and epoch >= 1 and iteration >= 1:
                return iteration / epoch
        return None


def read(folder: Path) -> RunRecord:
    """Reads a run's folder.

    Raises:
      InputError: the folder holds no run.
    """
    if not any((folder / name).is_file() for name in ("metrics.jsonl", "results.json", "config.json")):
        raise InputError(f"{folder} holds no run: give the --run_dir of a training")
    problems: list[str] = []
    lines: dict[str, list[dict[str, Any]]] = {"train": [], "epoch": [], "step_time": []}
    for line in _objects(folder / "metrics.jsonl", problems):
        kind = line.get("kind")
        if isinstance(kind, str) and kind in lines and number(line.get("iteration")) is not None:
            lines[kind].append(line)
    return RunRecord(
        folder,
        results=_results(folder / "results.json", problems),
        flags=dict(_flags(folder / "flags.txt", problems)),
        train=lines["train"],
        epochs=lines["epoch"],
        step_times=lines["step_time"],
        log=_lines(folder / "log.txt", problems),
        transcripts=list(_spoken(_objects(folder / "transcripts.jsonl", problems))),
        problems=problems,
    )


def number(value: Any) -> float | None:
    """A number that can be drawn; None for anything else. Neither sums nor ratios of such numbers overflow."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST or math.isnan(value):
        return None
    return float(value) if abs(value) >= 1 / LARGEST else 0.0


def text(value: Any, most: int = TEXT) -> str:
    """A text of at most ``most`` characters; empty for anything else."""
    if not isinstance(value, str):
        return ""
    value = value.encode("utf-8", "replace").decode()  # lone surrogates cannot be written
    return value if len(value) <= most else f"{value[:most]} …"


def _results(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(read_bounded(path, RECORD_BYTES, remedy=_SMALLER))
    except FileNotFoundError:
        return {}
    except (OSError, InputError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: {error}")
        return {}
    return found if isinstance(found, dict) else {}


def _flags(path: Path, problems: list[str]) -> Iterator[tuple[str, str]]:
    for line in _lines(path, problems):
        name, equals, value = line.strip().removeprefix("--").partition("=")
        if equals and line.startswith("--"):
            yield text(name, 80), text(value)


def _objects(path: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file with one a line; other lines are counted as a problem."""
    broken = 0
    for line in _lines(path, problems):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            broken += bool(line.strip())
            continue
        if isinstance(found, dict):
            yield found
    if broken:
        problems.append(f"{path.name}: {broken} line{'s' * (broken > 1)} cannot be read")


def _lines(path: Path, problems: list[str]) -> list[str]:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - LINES_BYTES))
            content = file.read(LINES_BYTES)
    except FileNotFoundError:
        if path.name in _OF_EVERY_TRAINING:
            problems.append(f"{path.name} is missing")
        return []
    except (OSError, InputError) as error:
        problems.append(f"{path.name}: {error}")
        return []
    lines = content.decode("utf-8", "replace").split("\n")
    if size > LINES_BYTES:
        problems.append(f"{path.name}: larger than {LINES_BYTES >> 20} MiB; its end is shown")
        lines = lines[1:]
    return lines


def _spoken(lines: Iterable[Mapping[str, Any]]) -> Iterator[Spoken]:
    for line in lines:
        texts = {name: line.get(name) for name in ("split", "audio", "reference", "hypothesis")}
        if all(isinstance(each, str) for each in texts.values()):
            split, audio, reference, hypothesis = (text(each, _READ) for each in texts.values())
            yield Spoken(
                split,
                audio,
                reference,
                hypothesis,
                offset=number(line.get("offset")),
                duration=number(line.get("duration")),
                speaker=text(line.get("speaker"), 100) or None,
            )
