"""Where the time of a run went: data, passes, all-reduce, optimizer, evaluation, checkpoints."""

from collections.abc import Iterable, Mapping
from typing import Any

from ds2f.runner.telemetry import duration
from launch.report.run_page.bar_charts import BarChart, Value, bar_chart
from launch.report.run_page.run_record import RunRecord, number

# Fields of the lines of the kind ``step_time``, and what they are called.
STEP_PARTS = {
    "forward_seconds": "forward pass",
    "backward_seconds": "backward pass",
    "all_reduce_seconds": "gradient all-reduce",
    "optimizer_seconds": "optimizer",
}


def parts(run: RunRecord) -> dict[str, float]:
    """The seconds of each part, without the parts that took none; empty if the run did not record them.

    The steps' seconds are divided as in the steps that were measured, one in each epoch. What overlaps, as all-reduce
    and backward pass on a device, is counted in proportion.
    """
    training = _total(run.epochs, "training_seconds")
    if not training or any("training_seconds" not in line for line in run.epochs):
        return _of_older_run(run)
    data = min(_total(run.epochs, "data_seconds"), training)
    found = {"waiting for data": data}
    shares = _step_shares(run.step_times)
    for name, share in shares.items():
        found[name] = share * (training - data)
    found["rest of the steps" if shares else "steps"] = (1 - sum(shares.values())) * (training - data)
    found["evaluation"] = _total(run.epochs, "evaluation_seconds")
    found["checkpoints"] = _total(run.epochs, "checkpoint_seconds")
    wall = number(run.results.get("wall_seconds")) or 0.0
    found["all else"] = wall - sum(found.values())
    return {name: seconds for name, seconds in found.items() if seconds > 5e-4 * training}


def time_chart(run: RunRecord) -> BarChart | None:
    """The chart of ``parts``; None without any."""
    found = parts(run)
    if not found:
        return None
    total = sum(found.values())
    unit, size = ("h", 3600) if total >= 10_000 else ("min", 60) if total >= 200 else ("s", 1)
    values = [
        Value(
            name,
            seconds / size,
            f"{f'{seconds:.2f} s' if seconds < 10 else duration(seconds)} ({100 * seconds / total:.1f} %)",
        )
        for name, seconds in found.items()
    ]
    return bar_chart("Time of the run", f"time, {unit}", values)


def _of_older_run(run: RunRecord) -> dict[str, float]:
    seconds = number(run.epochs[-1].get("seconds")) if run.epochs else None  # since the start of the run
    wall = number(run.results.get("wall_seconds"))
    if not seconds or seconds < 0 or not wall or wall < seconds:
        return {}
    return {"training, with data loading": seconds, "evaluation, checkpoints and all else": wall - seconds}


def _step_shares(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The share of a step that each part takes; together at most 1."""
    whole = _total(lines, "step_seconds")
    sums = {name: _total(lines, field) for field, name in STEP_PARTS.items()}
    whole = max(whole, sum(sums.values()))
    return {name: seconds / whole for name, seconds in sums.items()} if whole else {}


def _total(lines: Iterable[Mapping[str, Any]], field: str) -> float:
    return sum(max(number(line.get(field)) or 0.0, 0.0) for line in lines)
