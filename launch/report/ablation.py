"""A table of what each ingredient of a recipe is worth, on validation.

Every JSON file of a folder is ``results.json`` of a run with one field more, ``change``: what was changed against the
base, or ``base`` in the base's own files. Files with the same change are runs of other seeds.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from ds2f.errors import InputError
from launch.report.results_io import mean_and_range, read, same, table

BASE = "base"
HEADINGS = ("change", "validation WER %", "against the base, points", "words wrong", "epochs", "seeds")


def rows(folder: Path) -> Iterator[str]:
    """The lines of the table: the base, then the changes from the lowest to the highest error rate.

    Rates are made of the counts of errors. Of several seeds there stand the mean and the lowest and highest figure;
    the difference is that of the means.

    Args:
      folder: of the results.

    Raises:
      InputError: when a file is damaged, there is no base, or a run was validated on another set than the base.
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        found = read(path, "change", "name", "epochs", "seed", "val.word_errors", "val.words")
        groups[found["change"]].append(found)
    if BASE not in groups:
        raise InputError(f'{folder}: no results whose "change" is {BASE!r}, which the others are compared with')
    words = groups[BASE][0]["val"]["words"]
    for run in (run for runs in groups.values() for run in runs):
        if run["val"]["words"] != words:
            raise InputError(
                f"{folder}: {run['name']} was validated on {run['val']['words']} words, the base on {words}"
            )
    base = _wer(groups[BASE])
    ordered = sorted(groups.items(), key=lambda group: (group[0] != BASE, _wer(group[1]), group[0]))
    yield from table(HEADINGS, [_row(change, runs, base) for change, runs in ordered])


def _row(change: str, runs: list[dict[str, Any]], base: float) -> list[str]:
    return [
        change,
        mean_and_range([_wer([run]) for run in runs], digits=2, of_one=2),
        "" if change == BASE else f"{_wer(runs) - base:+.2f}",
        mean_and_range([run["val"]["word_errors"] for run in runs], digits=1, of_one=0),
        same([run["epochs"] for run in runs]),
        same([run["seed"] for run in runs]),
    ]


def _wer(runs: list[dict[str, Any]]) -> float:
    return fmean(100 * run["val"]["word_errors"] / run["val"]["words"] for run in runs)
