"""The curves of a run: loss, error rates, learning rate, loss scale, gradient norm, throughput."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch.report.run_page.line_charts import Chart, Point, Series, chart
from launch.report.run_page.run_record import RunRecord, number


class Quantity(NamedTuple):
    """A number of ``metrics.jsonl`` that is drawn."""

    title: str
    unit: str
    fields: tuple[tuple[str, str, str], ...]  # name of the line, kind of the line in the file, field
    log: bool = False
    zero: bool = False


QUANTITIES = (
    Quantity(
        "Loss",
        "natural log",
        (("training", "epoch", "train_loss"), ("validation", "epoch", "val_loss")),
        log=True,
    ),
    Quantity("Word error rate", "%", (("validation", "epoch", "val_wer"),), zero=True),
    Quantity("Character error rate", "%", (("validation", "epoch", "val_cer"),), zero=True),
    Quantity("Loss of single steps", "natural log", (("training", "train", "loss"),), log=True),
    Quantity("Gradient norm", "L2 norm", (("before clipping", "train", "grad_norm"),), log=True),
    Quantity("Learning rate", "rate", (("learning rate", "train", "learning_rate"),), zero=True),
    Quantity("Loss scale", "factor", (("loss scale", "train", "loss_scale"),), log=True),
    Quantity("Throughput", "utterances/s", (("all ranks", "train", "utterances_per_second"),), zero=True),
)


class Axis(NamedTuple):
    """The axis below the curves: epochs, or steps where no epoch has ended."""

    label: str
    steps: float  # per unit

    def __call__(self, line: Mapping[str, Any]) -> float:
        """The place of a line of ``metrics.jsonl``."""
        return (number(line.get("iteration")) or 0.0) / self.steps


def axis(runs: Iterable[RunRecord]) -> Callable[[RunRecord], Axis]:
    """The axis of each of some runs: epochs if each of the runs has one."""
    found = {run.folder: run.steps_per_epoch for run in runs}
    whole = all(found.values())
    return lambda run: Axis("epoch", found[run.folder] or 1.0) if whole else Axis("step", 1.0)


def charts(run: RunRecord, kept: Collection[int]) -> Iterator[Chart]:
    """The charts of a run.

    Args:
      run: the run.
      kept: iterations of the checkpoints that are there.
    """
    below, best = axis([run])(run), best_iteration(run)
    for quantity in QUANTITIES:
        series = []
        for name, kind, field in quantity.fields:
            lines = run.epochs if kind == "epoch" else run.train
            marks = tuple(_marks(lines, field, below, kept, best)) if field.startswith("val_") else ()
            series.append(Series(name, points(lines, field, below), marks))
        drawn = chart(quantity.title, quantity.unit, series, x_label=below.label, log=quantity.log, zero=quantity.zero)
        if drawn is not None:
            yield drawn


def points(lines: Iterable[Mapping[str, Any]], field: str, below: Axis) -> list[Point]:
    """The points of a field; without the lines that lack it, as those of epochs without a validation."""
    return sorted(((below(line), number(line[field])) for line in lines if field in line), key=lambda point: point[0])


def best_iteration(run: RunRecord) -> int | None:
    """The step of the best model; by the field ``best`` or, in older runs, by the deciding error rate."""
    marked = [line for line in run.epochs if line.get("best") is True]
    if marked:
        return int(number(marked[-1]["iteration"]) or 0)
    first = "val_cer" if run.results.get("metric") == "cer" else "val_wer"
    scored = [(rate, line) for line in run.epochs if (rate := number(line.get(first))) is not None]
    return int(min(scored, key=lambda each: each[0])[1]["iteration"]) if scored else None


def _marks(
    lines: Sequence[Mapping[str, Any]], field: str, below: Axis, kept: Collection[int], best: int | None
) -> Iterator[tuple[float, float, str]]:
    for line in lines:
        value = number(line.get(field))
        if value is not None:
            step = line["iteration"]
            yield below(line), value, "best" if step == best else "kept" if step in kept else "point"


def kept_iterations(run_dir: Path, folder: str) -> list[int]:
    """The iterations of the checkpoints that are there; empty if their folder cannot be read."""
    from ds2f.checkpoint import Checkpoints
    from ds2f.errors import InputError

    try:
        checkpoints = Checkpoints(run_dir, folder=folder, read_only=True)
    except (OSError, InputError):
        return []
    try:
        return checkpoints.iterations()
    except (OSError, InputError):
        return []
    finally:
        checkpoints.close()
