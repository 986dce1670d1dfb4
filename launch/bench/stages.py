"""Time of our training step by part: forward and backward pass of each stage, then the gradient's norm, the optimizer.

The step is the program's own, recorded by ``ds2f.runner.spans``.
"""

from collections import defaultdict
from functools import partial
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from ds2f.config import Config
from ds2f.runner import program
from ds2f.runner.device.backend import open_backend
from ds2f.runner.spans import BACKWARD, FORWARD, OPTIMIZER, Spans
from launch.bench.machine import model_of, seconds_of
from launch.bench.options import Options
from launch.bench.ours import Ours
from launch.synthetic_batches import epoch_batches

NORM, REST = "norm and verdict", "rest"


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Seconds of each part of a step, per round, on the batches that the steps side by side are timed on."""
    backend = open_backend(cfg.device)
    cfg = program.resolve_kernel(cfg, backend)
    spans = Spans(backend.synchronize)
    ours = Ours(cfg, backend, spans=spans)
    batches = [backend.place(batch) for batch in epoch_batches(cfg, options.rounds)]
    for _ in range(options.warmup):
        ours.step(batches[0])
    found: dict[str, list[float]] = defaultdict(list)
    for batch in batches:
        spans.clear()
        whole = seconds_of(partial(ours.step, batch), backend)
        for name, seconds in _parts(spans, whole).items():
            found[name].append(seconds)
    total = sum(map(sum, found.values()))
    return {
        **model_of(cfg),
        "rounds": options.rounds,
        "seconds": total / options.rounds,
        "parts": {
            name: {"seconds": seconds, "median": median(seconds), "share": sum(seconds) / total}
            for name, seconds in found.items()
        },
    }


def _parts(spans: Spans, whole: float) -> dict[str, float]:
    """Seconds by part, in the order of the step; they add up to ``whole``.

    The norm lies between the end of the backward pass and the optimizer.
    """
    seconds = spans.seconds()
    found = {name: seconds[name] for name in seconds if name.endswith((FORWARD, BACKWARD))}
    end = max(span.end for span in spans.found if span.name.endswith(BACKWARD))
    found[NORM] = spans.first(OPTIMIZER).start - end
    found[OPTIMIZER] = seconds[OPTIMIZER]
    return found | {REST: whole - sum(found.values())}


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a table per case."""
    for result in results:
        table = Table(
            "part",
            title=f"our step, {result['preset']}, batch {result['batch_size']}: {result['seconds']:.3f} s",
            title_justify="left",
        )
        for heading in ("forward", "share", "backward", "share"):
            table.add_column(heading, justify="right")
        parts = result["parts"]
        for name in [name.removesuffix(FORWARD) for name in parts if name.endswith(FORWARD)]:
            table.add_row(name, *_cells(parts, f"{name}{FORWARD}"), *_cells(parts, f"{name}{BACKWARD}"))
        table.add_section()
        for name in (NORM, OPTIMIZER, REST):
            table.add_row(name, *_cells(parts, name))
        console.print(table)


def _cells(parts: dict[str, Any], name: str) -> tuple[str, str]:
    if name not in parts:
        return "", ""
    return f"{parts[name]['median']:.3f} s", f"{100 * parts[name]['share']:.1f} %"
