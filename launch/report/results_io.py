"""Results that are kept: JSON files, read with what they must hold, and numbers of several runs in one cell."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ds2f.errors import InputError


def read(path: Path, *fields: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.
      *fields: what it must hold; a dot leads inside, as in ``test.wer``.

    Raises:
      InputError: when the file cannot be read, is something else or lacks a field.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    for field in fields:
        value = found
        for name in field.split("."):
            if not isinstance(value, dict) or name not in value:
                raise InputError(f"{path}: lacks {field!r}")
            value = value[name]
    return dict(found)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, a line per row."""
    lines = [f"| {' | '.join(row)} |" for row in (headings, *rows)]
    return [lines[0], "|---" * len(headings) + "|", *lines[1:]]


def mean_and_range(values: Sequence[float], *, digits: int, of_one: int) -> str:
    """The mean of several runs' figures with the lowest and the highest; the figure of one run alone.

    Args:
      values: a figure per run.
      digits: after the point.
      of_one: likewise, for a single figure.
    """
    if len(values) == 1:
        return f"{values[0]:.{of_one}f}"
    low, high = (f"{value:.{of_one if of_one < digits else digits}f}" for value in (min(values), max(values)))
    return f"{fmean(values):.{digits}f} ({low} to {high})"


def same(values: Sequence[Any]) -> str:
    """What several runs have in common, or all that they have, each once, in their order."""
    return ", ".join(dict.fromkeys(map(str, values)))
