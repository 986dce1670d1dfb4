"""Time of the training step of ds2f by part: forward and backward pass of each stage, gradient norm, optimizer.

``ds2f.runner.spans`` records the step.
"""

from collections import defaultdict
from functools import partial
from statistics import median
from typing import Any

from rich.console import Console

from ds2f.config import Config
from ds2f.runner import program
from ds2f.runner.device.backend import open_backend
from ds2f.runner.spans import BACKWARD, FORWARD, OPTIMIZER, Spans
from launch.bench.comparison import Ours
from launch.bench.machine import model_of, seconds_of
from launch.bench.options import Options
from launch.synthetic_batches import epoch_batches
from launch.tables import terminal_table

NORM, REST = "norm and verdict", "rest"


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Seconds of each part of a training step, per round; the batches are those of ``launch.bench.step``."""
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
    """Seconds by part, in the order of the step; their sum is ``whole``.

    The time between backward pass and optimizer belongs to the gradient norm.
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
        title = f"training step, {result['preset']}, batch {result['batch_size']}: {result['seconds']:.3f} s"
        table = terminal_table(title, ["part"], ["forward", "share", "backward", "share"])
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
