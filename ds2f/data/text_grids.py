"""Praat's text grids beside recordings: one tier of intervals gives the parts of a recording and their texts.

Read are both forms of Praat's text files, in UTF-8, UTF-16 or Latin-1. Praat defines a text file as a row of free
standing numbers, texts in double quotes and flags in angle brackets; all else is comment
(fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html). Intervals without a text are pauses, and left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ds2f.data.manifest_rows import TEXT, Row
from ds2f.errors import InputError
from ds2f.files import read_bounded

SUFFIX = ".textgrid"
_TOKEN = re.compile(r'"((?:[^"]|"")*)"|<(\w+)>|(?:(?<=\s)|^)([-+]?[0-9.][0-9.eE+-]*)(?=\s|$)')
_TIERS = (
    *TEXT,
    "texts",
    "transcripts",
    "utterances",
    "sentences",
    "phrases",
    "segments",
    "ort",
    "ortho",
    "orthography",
)
_MOST_TIERS = 1000


class Interval(NamedTuple):
    """A part of a recording with its text."""

    start: float  # seconds
    end: float
    text: str


def rows_of_grid(grid: Path, recording: Path, limit: int) -> list[Row]:
    """The rows of the intervals that have a text, in a text grid's tier of utterances.

    That is the only tier of intervals; or, among several, the only one with a text or the name of a transcript.

    Args:
      grid: the text grid.
      recording: the recording beside it.
      limit: of the grid's size, bytes.

    Raises:
      InputError: the file is too large or no text grid, or it has several tiers that could be meant.
    """
    tiers = read_tiers(grid, limit)
    spoken = {name: found for name, found in tiers.items() if any(interval.text.strip() for interval in found)}
    named = [name for name in spoken if name.strip().lower() in _TIERS]
    chosen = named if len(named) == 1 else [*spoken]
    if len(chosen) > 1:
        names = ", ".join(map(repr, list(spoken)[:10]))
        raise InputError(f"{grid}: several tiers have texts: {names}; call the one of utterances 'text'")
    if not chosen:
        raise InputError(f"{grid}: no tier of intervals has a text; add it or remove the grid")
    return [
        Row(f"{grid} at {each.start:g} s", recording, each.text, each.start, each.end - each.start)
        for each in spoken[chosen[0]]
        if each.text.strip()
    ]


def read_tiers(grid: Path, limit: int) -> dict[str, list[Interval]]:
    """The tiers of intervals of a text grid by their names; tiers of points are passed over.

    Raises:
      InputError: the file is too large, or no text grid.
    """
    try:
        content = read_bounded(grid, limit, remedy="Raise it with --data.max_manifest_bytes.")
    except OSError as error:
        raise InputError(f"{grid}: {error.strerror}; check the path") from error
    tokens = _tokens(_decoded(content))
    tiers: dict[str, list[Interval]] = {}
    try:
        if [next(tokens), next(tokens)] != ["ooTextFile", "TextGrid"]:
            raise ValueError("it does not begin with ooTextFile and TextGrid")
        _, _ = _number(tokens), _number(tokens)
        exists, size = next(tokens), int(_number(tokens))
        if exists != "<exists>" or not 0 < size <= _MOST_TIERS:
            raise ValueError(f"it has {size} tiers")
        for _ in range(size):
            kind, name = next(tokens), str(next(tokens))
            _, _, intervals = _number(tokens), _number(tokens), int(_number(tokens))
            if kind == "IntervalTier":
                tiers[name] = [_interval(tokens) for _ in range(intervals)]
            else:  # points: a time and a mark each
                for _ in range(intervals):
                    _number(tokens), next(tokens)
    except StopIteration as error:
        raise InputError(f"{grid}: a text grid that is cut short; save it again") from error
    except (ValueError, OverflowError) as error:
        raise InputError(f"{grid}: no text grid of Praat's: {error}; save it as a text file") from error
    return tiers


def _interval(tokens: Iterator[str | float]) -> Interval:
    start, end, said = _number(tokens), _number(tokens), next(tokens)
    if not (isinstance(said, str) and 0 <= start <= end < float("inf")):
        raise ValueError(f"the interval from {start:g} to {end:g} s has no text or no length")
    return Interval(start, end, " ".join(said.split()))


def _number(tokens: Iterator[str | float]) -> float:
    found = next(tokens)
    if isinstance(found, str):
        raise ValueError(f"{found[:40]!r} is where a number should be")
    return found


def _tokens(content: str) -> Iterator[str | float]:
    for match in _TOKEN.finditer(content):
        text, flag, number = match.groups()
        yield text.replace('""', '"') if text is not None else f"<{flag}>" if flag else float(number)


def _decoded(content: bytes) -> str:
    if content[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # Praat's other form
