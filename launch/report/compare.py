"""Two groups of runs, several seeds each: do they differ, and by how much at most?"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy import stats

from ds2f.errors import InputError
from launch.report.results_io import read, table


class Difference(NamedTuple):
    """By how much one mean exceeds another, with a 95 % confidence interval."""

    mean: float
    low: float
    high: float


def difference(first: Sequence[float], second: Sequence[float], *, paired: bool) -> Difference:
    """The mean of ``first`` minus that of ``second``.

    Args:
      first: at least two figures.
      second: likewise.
      paired: whether the figures belong together one by one, as those of the same seed do, whose spread cancels: then
        the interval is Student's for the mean of their differences, else Welch's, which does not take the spreads of
        the two for equal.
    """
    mean = fmean(first) - fmean(second)
    spreads = [[a - b for a, b in zip(first, second, strict=True)]] if paired else [first, second]
    if not any(map(stdev, spreads)):  # nothing to estimate a spread from
        return Difference(mean, mean, mean)
    test = stats.ttest_rel(first, second) if paired else stats.ttest_ind(first, second, equal_var=False)
    interval = test.confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high))


def rows(first: str, second: str, *, split: str) -> list[str]:
    """The lines of the table, in Markdown, that compares the error rates of two groups of runs.

    Runs of the same seeds are compared seed by seed.

    Args:
      first: a pattern of run folders, such as ``runs/eight-*``; only its last part may hold wildcards.
      second: likewise.
      split: ``val`` or ``test``.

    Raises:
      InputError: when a pattern finds fewer than two finished runs, or they were evaluated on different sets.
    """
    groups = [_finished(pattern, split) for pattern in (first, second)]
    if len({(run[split]["words"], run[split]["chars"]) for runs in groups for run in runs}) > 1:
        raise InputError(f"{first} and {second}: not all of these runs were evaluated on the same {split} set")
    seeds = [[run["seed"] for run in runs] for runs in groups]
    paired = seeds[0] == seeds[1] and len(set(seeds[0])) == len(seeds[0])
    rates = [[_rates(runs, split, unit) for unit in ("word", "char")] for runs in groups]
    gaps = [difference(*of_unit, paired=paired) for of_unit in zip(*rates, strict=True)]
    return table(
        ("runs", "seeds", f"{split} WER %", f"{split} CER %"),
        [
            [first, ", ".join(map(str, seeds[0])), *map(_spread, rates[0])],
            [second, ", ".join(map(str, seeds[1])), *map(_spread, rates[1])],
            [f"difference {'by seed' if paired else 'of the means'}, 95 % interval", "", *map(_interval, gaps)],
        ],
    )


def _finished(pattern: str, split: str) -> list[dict[str, Any]]:
    paths = [found / "results.json" for found in Path(pattern).parent.glob(Path(pattern).name)]
    counts = ("word_errors", "words", "char_errors", "chars")
    runs = [read(path, "seed", *(f"{split}.{name}" for name in counts)) for path in paths if path.exists()]
    if len(runs) < 2:
        raise InputError(
            f"{pattern}: {len(runs)} of the {len(paths)} folders found hold a results.json; two are needed to see a "
            "spread. Quote the pattern, so that the shell leaves it alone."
        )
    return sorted(runs, key=lambda run: run["seed"])


def _rates(runs: list[dict[str, Any]], split: str, unit: str) -> list[float]:
    return [100 * run[split][f"{unit}_errors"] / run[split][f"{unit}s"] for run in runs]


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.2f} +- {stdev(values):.2f}"


def _interval(gap: Difference) -> str:
    return f"{gap.mean:+.2f} ({gap.low:+.2f} to {gap.high:+.2f})"
