"""The table of an ablation: the effect of each change to a recipe on the validation set.

Every JSON file of the folder is the ``results.json`` of a run with one more field, ``change``: the change in words, or
``base`` for the base. Files with the same change are runs with different seeds.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from ds2f.errors import InputError
from launch.report.results_io import mean_and_range, read, same
from launch.tables import markdown_table

BASE = "base"
HEADINGS = ("change", "validation WER %", "against the base, points", "words wrong", "epochs", "seeds")


def rows(folder: Path) -> Iterator[str]:
    """The lines of the table: the base, then the changes from the lowest to the highest error rate.

    Rates follow from the counts of errors. Several seeds are shown as mean, lowest and highest value; the difference is
    the difference of the means.

    Args:
      folder: the folder of the results.

    Raises:
      InputError: a file is damaged, the base is missing, or a run was validated on another set than the base.
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        found = read(path, "change", "name", "epochs", "seed", "val.word_errors", "val.words")
        groups[found["change"]].append(found)
    if BASE not in groups:
        raise InputError(f'{folder}: no results with "change" {BASE!r}, the base of the comparison')
    words = groups[BASE][0]["val"]["words"]
    for run in (run for runs in groups.values() for run in runs):
        if run["val"]["words"] != words:
            raise InputError(
                f"{folder}: {run['name']} was validated on {run['val']['words']} words, the base on {words}"
            )
    base = _wer(groups[BASE])
    ordered = sorted(groups.items(), key=lambda group: (group[0] != BASE, _wer(group[1]), group[0]))
    yield from markdown_table(HEADINGS, [_row(change, runs, base) for change, runs in ordered])


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
