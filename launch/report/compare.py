"""The difference of two groups of runs, several seeds each, with a confidence interval."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy import stats

from ds2f.errors import InputError
from launch.report.results_io import read
from launch.tables import markdown_table


class Difference(NamedTuple):
    """The difference of two means with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def difference(first: Sequence[float], second: Sequence[float], *, paired: bool) -> Difference:
    """The mean of ``first`` minus the mean of ``second``.

    >>> difference([2.0, 4.0], [1.0, 3.0], paired=True)
    Difference(mean=1.0, low=1.0, high=1.0)

    Args:
      first: at least two values.
      second: at least two values.
      paired: whether values at the same place belong together, as those of the same seed. Paired: the interval of
        Student's t-test on the differences. Otherwise: the interval of Welch's t-test, for unequal variances.
    """
    mean = fmean(first) - fmean(second)
    spreads = [[a - b for a, b in zip(first, second, strict=True)]] if paired else [first, second]
    if not any(map(stdev, spreads)):  # scipy returns NaN
        return Difference(mean, mean, mean)
    test = stats.ttest_rel(first, second) if paired else stats.ttest_ind(first, second, equal_var=False)
    interval = test.confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high))


def rows(first: str, second: str, *, split: str) -> list[str]:
    """The lines of a Markdown table with the error rates of two groups of runs.

    Groups with the same seeds are compared seed by seed.

    Args:
      first: a pattern of run folders, such as ``runs/eight-*``; only its last component may contain wildcards.
      second: the pattern of the other group.
      split: ``val`` or ``test``.

    Raises:
      InputError: a pattern matches fewer than two finished runs, or the runs were evaluated on different sets.
    """
    groups = [_finished(pattern, split) for pattern in (first, second)]
    if len({(run[split]["words"], run[split]["chars"]) for runs in groups for run in runs}) > 1:
        raise InputError(f"{first} and {second}: not all of these runs were evaluated on the same {split} set")
    seeds = [[run["seed"] for run in runs] for runs in groups]
    paired = seeds[0] == seeds[1] and len(set(seeds[0])) == len(seeds[0])
    rates = [[_rates(runs, split, unit) for unit in ("word", "char")] for runs in groups]
    gaps = [difference(*of_unit, paired=paired) for of_unit in zip(*rates, strict=True)]
    return markdown_table(
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
            f"{pattern}: {len(runs)} of the {len(paths)} folders found hold a results.json; a confidence "
            "interval needs two. Quote the pattern, so that the shell does not expand it."
        )
    return sorted(runs, key=lambda run: run["seed"])


def _rates(runs: list[dict[str, Any]], split: str, unit: str) -> list[float]:
    return [100 * run[split][f"{unit}_errors"] / run[split][f"{unit}s"] for run in runs]


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.2f} +- {stdev(values):.2f}"


def _interval(gap: Difference) -> str:
    return f"{gap.mean:+.2f} ({gap.low:+.2f} to {gap.high:+.2f})"
