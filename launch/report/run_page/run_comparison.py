"""Writes the page that compares runs: curves over each other, flags that differ, error rates over seeds."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from ds2f.errors import InputError
from launch.report.run_page import curves, html_page, run_results
from launch.report.run_page.line_charts import Chart, Series, chart
from launch.report.run_page.run_record import RunRecord, read

FILE = "comparison.html"
MOST_RUNS = 24
_OF_EACH_RUN = {"run_dir", "training.seed", "checkpointing.load_auto_checkpoint"}  # do not make another group


class Difference(NamedTuple):
    """A flag, and the runs by its value."""

    flag: str
    values: list[tuple[str, list[str]]]  # value, names of runs
    everywhere: bool  # whether all runs have the flag; runs of other versions lack some


class Group(NamedTuple):
    """Runs whose flags are the same but for the seed."""

    names: list[str]
    seeds: list[str]
    rates: list[tuple[str, str]]  # heading such as "test WER", mean with interval


def write(folders: Sequence[Path], *, output: Path | None = None) -> Path:
    """Writes the page, by default ``comparison.html`` in the working directory. Errors as of ``run_report.write``."""
    if len(folders) > MOST_RUNS:
        raise InputError(f"{len(folders)} runs; at most {MOST_RUNS} are compared on a page")
    for folder in folders:
        if sum(each.resolve() == folder.resolve() for each in folders) > 1:
            raise InputError(f"{folder} is given twice; name each run once")
    output = output or Path(FILE)
    html_page.write(output, page([read(folder) for folder in folders]))
    return output


def page(runs: Sequence[RunRecord]) -> str:
    """The page as text."""
    names = _names(runs)
    return html_page.render(
        "comparison.html",
        names=names,
        runs=list(zip(names, runs, [run_results.set_results(run) for run in runs], strict=True)),
        charts=list(_charts(runs, names)),
        differences=list(_differences(runs, names)),
        groups=list(_groups(runs, names)),
        status=run_results.status,
    )


def _names(runs: Sequence[RunRecord]) -> list[str]:
    """A name for each run; the folder where two runs have the same name."""
    names = [run.name[:60] for run in runs]
    return [str(run.folder)[-60:] if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def _charts(runs: Sequence[RunRecord], names: Sequence[str]) -> Iterator[Chart]:
    below = curves.axis(runs)
    for quantity in curves.QUANTITIES:
        for part, kind, field in quantity.fields:
            series = [
                Series(name, curves.points(run.epochs if kind == "epoch" else run.train, field, below(run)))
                for name, run in zip(names, runs, strict=True)
            ]
            title = f"{quantity.title}, {part}" if len(quantity.fields) > 1 else quantity.title
            label = below(runs[0]).label
            drawn = chart(title, quantity.unit, series, x_label=label, log=quantity.log, zero=quantity.zero)
            if drawn is not None:
                yield drawn


def _differences(runs: Sequence[RunRecord], names: Sequence[str]) -> Iterator[Difference]:
    for flag in dict.fromkeys(flag for run in runs for flag in run.flags):
        by_value: dict[str, list[str]] = defaultdict(list)
        for run, name in zip(runs, names, strict=True):
            by_value[run.flags.get(flag, "(no such flag)")].append(name)
        if len(by_value) > 1 and flag != "run_dir":
            yield Difference(flag, list(by_value.items()), all(flag in run.flags for run in runs))


def _groups(runs: Sequence[RunRecord], names: Sequence[str]) -> Iterator[Group]:
    """Groups of at least two seeds that have results; of several runs with a seed, the first one counts."""
    members: dict[tuple[tuple[str, str], ...], dict[str, int]] = defaultdict(dict)
    for index, run in enumerate(runs):
        others = tuple(sorted((flag, run.flags[flag]) for flag in run.flags if flag not in _OF_EACH_RUN))
        members[others].setdefault(run.flags.get("training.seed", "?"), index)
    for indices in (list(each.values()) for each in members.values() if len(each) > 1):
        values: dict[str, list[float]] = defaultdict(list)
        for index in indices:
            for found in run_results.set_results(runs[index]):
                for rate in found.rates:
                    values[f"{run_results.SET_NAMES[found.name]} {rate.name}"].append(rate.percent)
        rates = [(name, mean_with_interval(each)) for name, each in values.items() if len(each) == len(indices)]
        if rates:
            yield Group(
                [names[index] for index in indices],
                [runs[index].flags.get("training.seed", "?") for index in indices],
                rates,
            )


def mean_with_interval(values: Sequence[float]) -> str:
    """The mean of several runs, and the 95 % interval of it by Student's t distribution.

    >>> mean_with_interval([9.0, 10.0, 11.0])
    '10.00 % (7.52 to 12.48)'
    """
    from scipy import stats

    mean = fmean(values)
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return f"{mean:.2f} % ({mean - reach:.2f} to {mean + reach:.2f})"
