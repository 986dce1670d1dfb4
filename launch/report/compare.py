"""Two groups of runs, several seeds each: do they differ, and by how much at most?"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from rich.table import Table
from scipy import stats

from ds2f.errors import InputError
from launch.report.kept import read


class Difference(NamedTuple):
    """By how much one mean exceeds another, with a 95 % confidence interval."""

    mean: float
    low: float
    high: float


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The mean of ``first`` minus that of ``second``; Welch's interval, which does not take their spreads for equal.

    Args:
      first: at least two figures.
      second: likewise.
    """
    mean = fmean(first) - fmean(second)
    if stdev(first) == stdev(second) == 0:  # nothing to estimate a spread from
        return Difference(mean, mean, mean)
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high))


def show(first: str, second: str, *, split: str) -> Table:
    """The table that compares the error rates of two groups of runs.

    Args:
      first: a pattern of run folders, such as ``runs/eight-*``; only its last part may hold wildcards.
      second: likewise.
      split: ``val`` or ``test``.

    Raises:
      InputError: when a pattern finds fewer than two finished runs, or they were evaluated on different sets.
    """
    groups = {pattern: _finished(pattern, split) for pattern in (first, second)}
    if len({(run["words"], run["chars"]) for runs in groups.values() for run in runs}) > 1:
        raise InputError(f"{first} and {second}: not all of these runs were evaluated on the same {split} set")
    table = Table("runs", "seeds", f"{split} WER %", f"{split} CER %", box=None, header_style="bold")
    figures = []
    for pattern, runs in groups.items():
        word_rates = [100 * run["word_errors"] / run["words"] for run in runs]
        char_rates = [100 * run["char_errors"] / run["chars"] for run in runs]
        figures.append((word_rates, char_rates))
        table.add_row(pattern, str(len(runs)), _spread(word_rates), _spread(char_rates))
    gaps = [difference(*pair) for pair in zip(*figures, strict=True)]
    table.add_row(
        "difference, 95 % interval", "", *(f"{gap.mean:+.2f} ({gap.low:+.2f} to {gap.high:+.2f})" for gap in gaps)
    )
    return table


def _finished(pattern: str, split: str) -> list[dict[str, int]]:
    paths = [found / "results.json" for found in sorted(Path(pattern).parent.glob(Path(pattern).name))]
    counts = ("word_errors", "words", "char_errors", "chars")
    runs = [read(path, *(f"{split}.{name}" for name in counts))[split] for path in paths if path.exists()]
    if len(runs) < 2:
        raise InputError(
            f"{pattern}: {len(runs)} of the {len(paths)} folders found hold a results.json; two are needed to see a "
            "spread. Quote the pattern, so that the shell leaves it alone."
        )
    return runs


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.2f} +- {stdev(values):.2f}"
