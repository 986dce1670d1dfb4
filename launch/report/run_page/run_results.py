"""The result of a run with its 95 % intervals, beside published systems where the test set is AN4's."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ds2f.errors import InputError
from launch.report.run_page.bar_charts import BarChart, Value, bar_chart
from launch.report.run_page.run_record import RunRecord, Spoken, number, text

SPLITS = ("val", "test")
SET_NAMES = {"val": "validation", "test": "test"}
_MOST_UTTERANCES = 100_000  # of a bootstrap; it takes two seconds
_RATES = {"wer": ("word_errors", "words"), "cer": ("char_errors", "chars")}


class RateFound(NamedTuple):
    """An error rate of a set."""

    name: str  # WER or CER
    percent: float
    interval: tuple[float, float] | None  # percent; None without transcripts
    errors: int
    size: int  # words or characters of the reference


class SetResult(NamedTuple):
    """The error rates of a set, the deciding rate first."""

    name: str
    rates: list[RateFound]
    unreadable: int  # recordings that were left out


def set_results(run: RunRecord) -> list[SetResult]:
    """The results of the evaluated sets."""
    order = ("cer", "wer") if run.results.get("metric") == "cer" else ("wer", "cer")
    found = []
    for split in SPLITS:
        row = run.results.get(split)
        if not isinstance(row, dict):
            continue
        intervals = _intervals(split, row, run.transcripts)
        rates = [rate for name in order if (rate := _rate(name, row, intervals.get(name))) is not None]
        if rates:
            found.append(SetResult(split, rates, int(number(row.get("unreadable")) or 0)))
    return found


def _rate(name: str, row: dict[str, Any], interval: tuple[float, float] | None) -> RateFound | None:
    errors, size = (number(row.get(field)) for field in _RATES[name])
    if errors is None or errors < 0 or not size or size < 1:
        return None
    return RateFound(name.upper(), 100 * errors / size, interval, int(errors), int(size))


def _intervals(split: str, row: dict[str, Any], spoken: Iterable[Spoken]) -> dict[str, tuple[float, float]]:
    """The bootstrap intervals of a split; none if its transcripts have other counts than its result."""
    from ds2f.metrics import ErrorCounts, bootstrap, count_errors

    own = [each for each in spoken if each.split == split]
    if not own or len(own) > _MOST_UTTERANCES:
        return {}
    counts = [count_errors(each.reference, each.hypothesis) for each in own]
    total = sum(counts, ErrorCounts())
    if any(number(row.get(name)) != value for name, value in total._asdict().items()):
        return {}
    return bootstrap(counts)._asdict()


def published(results: Path, test: SetResult | None) -> dict[str, Any]:
    """The file of published systems, if the test set is theirs; else empty."""
    from launch.report.results_io import read

    try:
        found = read(results / "published.json", "words", "chars", "systems", "notes")
    except InputError:
        return {}
    sizes = {rate.name: rate.size for rate in test.rates} if test else {}
    return found if sizes == {"WER": found["words"], "CER": found["chars"]} else {}


def systems_chart(run: RunRecord, test: SetResult, known: dict[str, Any]) -> BarChart:
    """The word error rate of the run and of published systems, the lowest first."""
    own = next(rate for rate in test.rates if rate.name == "WER")
    bounds = f" ({own.interval[0]:.2f} to {own.interval[1]:.2f})" if own.interval else ""
    values = [Value(run.name[:40], own.percent, f"{own.percent:.2f} %{bounds}", own.interval, own=True)]
    first = ""
    for system in known["systems"]:
        rate, name = number(system.get("wer")), text(system.get("name"), 60)
        if name.startswith("the same, "):  # as the one before, from which the order below parts it
            name = name.replace("the same", first, 1)
        first = name.partition(",")[0]
        if rate is not None:
            values.append(Value(name, rate, f"{rate:.2f} %"))
    values.sort(key=lambda each: each.value)
    return bar_chart("Word error rate on AN4's test set", "word error rate, %", values, as_points=True)


def status(run: RunRecord) -> str:
    """How the run ended, in a sentence."""
    epochs = run.results.get("epochs", run.epochs[-1].get("epoch") if run.epochs else 0)
    done = f"{int(number(epochs) or 0)} of {run.flags.get('training.epochs', '?')} epochs"
    if run.results:
        return f"Trained to the end: {done}."
    stopped = next(_stops(run.log), "")
    return f"{done}. {stopped}" if stopped else f"No result yet: {done}."


def _stops(log: list[str]) -> Iterator[str]:
    for line in reversed(log):
        message = line[20:]
        if message.startswith("stopped in epoch"):
            yield f"It {text(message.partition('. Go on with')[0], 300)}."
        if message.startswith("epoch "):
            return
