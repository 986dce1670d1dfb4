"""Stored results and transcripts: JSON files with their required fields, and figures of several runs in one cell."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ds2f.errors import InputError
from ds2f.files import read_bounded
from launch.decoding import Transcript

_LIMIT = 256 << 20  # bytes


def read(path: Path, *fields: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.
      *fields: required fields; a dot leads into an object, as in ``test.wer``.

    Raises:
      InputError: the file cannot be read, is no JSON object, or lacks a field.
    """
    found = _load(path)
    for field in fields:
        value = found
        for name in field.split("."):
            if not isinstance(value, dict) or name not in value:
                raise InputError(f"{path}: lacks {field!r}")
            value = value[name]
    return dict(found)


def read_transcripts(path: Path) -> list[Transcript]:
    """Reads a file of ``launch.evaluate --save_output``, a list or, in ``.jsonl``, an object a line.

    Raises:
      InputError: the file cannot be read, or has another format.
    """
    rows = _load(path, lines=path.suffix.lower() == ".jsonl", remedy="; write it with launch.evaluate --save_output")
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: not a list of utterances; write it with launch.evaluate --save_output")
    for number, row in enumerate(rows, start=1):
        texts = {name for name, value in row.items() if isinstance(value, str)} if isinstance(row, dict) else set()
        missing = [name for name in Transcript._fields if name not in texts]
        if missing:
            raise InputError(
                f"{path}: utterance {number} has no text for {', '.join(missing)}; write the file with "
                "launch.evaluate --save_output"
            )
    return [Transcript(*(row[name] for name in Transcript._fields)) for row in rows]


def _load(path: Path, *, lines: bool = False, remedy: str = "") -> Any:
    try:
        content = read_bounded(path, _LIMIT, remedy="A file of results or transcripts is smaller.")
        return [json.loads(line) for line in content.split(b"\n") if line.strip()] if lines else json.loads(content)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}{remedy}") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}{remedy}") from error


def mean_and_range(values: Sequence[float], *, digits: int, of_one: int) -> str:
    """The mean of several runs, with the lowest and the highest value; the value alone for one run.

    >>> mean_and_range([1.0, 2.0], digits=1, of_one=0)
    '1.5 (1 to 2)'
    >>> mean_and_range([1.0], digits=1, of_one=0)
    '1'

    Args:
      values: one value per run.
      digits: decimal places of the mean.
      of_one: decimal places of the value of one run; if fewer, also of lowest and highest value.
    """
    if len(values) == 1:
        return f"{values[0]:.{of_one}f}"
    low, high = (f"{value:.{of_one if of_one < digits else digits}f}" for value in (min(values), max(values)))
    return f"{fmean(values):.{digits}f} ({low} to {high})"


def same(values: Sequence[Any]) -> str:
    """The distinct values of several runs, in their order, as in ``1, 2``."""
    return ", ".join(dict.fromkeys(map(str, values)))
