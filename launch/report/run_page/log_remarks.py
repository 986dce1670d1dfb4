"""What a run's log remarks on: skipped steps, recordings that could not be read, warnings."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from launch.report.run_page.run_record import text

MOST = 20  # shown messages of a kind
_READ = 2000  # characters of a message that are looked at
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
_KINDS = (
    ("Skipped steps", re.compile(r"step \d+ skipped")),
    ("Recordings that could not be read", re.compile(r"\d+ recordings? excluded, could not be read|.*\bunreadable\b")),
    ("Utterances left out of the loss", re.compile(r"excluded from the loss")),
)
_ROUTINE = re.compile(
    r"epoch \d+/|manifests: |stopped in epoch |going on from checkpoint|.* M parameters, |"
    r"[^;]*; \d+ steps of [^;]* epochs$"
)


class Remarks(NamedTuple):
    """The messages of a kind."""

    kind: str
    total: int
    shown: list[str]


def remarks(log: Iterable[str]) -> list[Remarks]:
    """The messages of a log by kind, without the lines that every run has."""
    found: dict[str, list[str]] = {}
    for message in _messages(log):
        if not _ROUTINE.match(message):
            kind = next((name for name, pattern in _KINDS if pattern.match(message)), "Other messages")
            found.setdefault(kind, []).append(message)
    order = [name for name, _ in _KINDS] + ["Other messages"]
    return [
        Remarks(kind, len(found[kind]), [text(each, 500) for each in found[kind][:MOST]])
        for kind in order
        if kind in found
    ]


def _messages(log: Iterable[str]) -> Iterator[str]:
    """The messages without their times; lines that begin with two spaces continue a message."""
    message = ""
    for line in log:
        if line.startswith("  ") and message:
            if len(message) < _READ:
                message += f"\n{line[:_READ].strip()}"
            continue
        if message:
            yield message
        message = _TIME.sub("", line[:_READ], count=1).strip()
    if message:
        yield message
