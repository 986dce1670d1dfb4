"""Where our step's time goes: forward and backward pass of each stage, then the gradient's norm, the optimizer.

The step is the one that trains. Its stages and its optimizer are wrapped in functions that note the time: on the way
back, tensors pass through an identity whose derivative does so.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ds2f import optim, tree
from ds2f.config import Config
from ds2f.runner.device.backend import Backend, open_backend
from ds2f.steps import Objective
from ds2f.types import Stage
from launch.bench.machine import model_of, seconds_of
from launch.bench.options import Options
from launch.bench.ours import Ours, resolved
from launch.synthetic_batches import epoch_batches

FORWARD, BACKWARD = " forward", " backward"
NORM, OPTIMIZER, REST = "norm and verdict", "optimizer", "rest"


class Marks:
    """What a step spent where, and when gradients came through its stages."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.seconds: dict[str, float] = defaultdict(float)
        self.passed: dict[str, list[float]] = defaultdict(list)
        self.optimizer_began = 0.0

    def now(self) -> float:
        """The time, once the device has done what was asked for so far."""
        self._backend.synchronize()
        return time.perf_counter()

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Adds what is done inside to ``name``: recomputation runs a forward pass twice."""
        began = self.now()
        yield
        self.seconds[name] += self.now() - began

    def clear(self) -> None:
        """Forgets everything, before a step."""
        self.seconds.clear()
        self.passed.clear()


class _Noted(torch.autograd.Function):
    """The identity; calls a function when a gradient comes through."""

    @staticmethod
    def forward(x: Tensor, _: Callable[[], None]) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Callable[[], None]], output: Tensor) -> None:
        del output
        ctx.note = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.note()
        return grads[0], None


def noted_loss(loss: Objective, marks: Marks) -> Objective:
    """A loss whose stages are timed, forward and backward."""

    def stages(*args: Any, **kwargs: Any) -> list[Stage]:
        return [Stage(stage.name, _noted_stage(stage, marks)) for stage in loss.stages(*args, **kwargs)]

    return Objective(stages)


def _noted_stage(stage: Stage, marks: Marks) -> Callable[[Any, Any], tuple[Any, Any]]:
    def noted(values: Any) -> Any:
        """A stage's backward pass begins with its outputs' gradients and ends with those of what it reads."""
        return tree.map(lambda x: _Noted.apply(x, lambda: marks.passed[stage.name].append(marks.now())), values)

    def fn(params: Any, x: Any) -> tuple[Any, Any]:
        with marks.span(f"{stage.name}{FORWARD}"):
            y, auxiliary = stage.fn(noted(params), noted(x))
        return noted(y), auxiliary

    return fn


def noted_optimizer(tx: optim.GradientTransformation, marks: Marks) -> optim.GradientTransformation:
    """An optimizer that notes when it begins and ends."""

    def noted(fn: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            marks.optimizer_began = marks.now()
            with marks.span(OPTIMIZER):
                return fn(*args, **kwargs)

        return wrapped

    return optim.GradientTransformation(tx.init, noted(tx.update), noted(tx.step) if tx.step else None)


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Seconds of each part of a step, per round, on the batches that the steps side by side are timed on."""
    backend = open_backend(cfg.device)
    cfg = resolved(cfg, backend)
    marks = Marks(backend)
    program = Ours(
        cfg,
        backend,
        around_loss=lambda loss: noted_loss(loss, marks),
        around_optimizer=lambda tx: noted_optimizer(tx, marks),
    )
    batches = [backend.place(batch) for batch in epoch_batches(cfg, options.rounds)]
    for _ in range(options.warmup):
        program.step(batches[0])
    found: dict[str, list[float]] = defaultdict(list)
    for batch in batches:
        marks.clear()
        whole = seconds_of(partial(program.step, batch), backend)
        for name, seconds in _parts(marks, whole).items():
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


def _parts(marks: Marks, whole: float) -> dict[str, float]:
    """Seconds by part, in the order of the step; they add up to ``whole``."""
    found: dict[str, float] = {name: seconds for name, seconds in marks.seconds.items() if name != OPTIMIZER}
    found |= {f"{name}{BACKWARD}": max(times) - min(times) for name, times in marks.passed.items()}
    found[NORM] = marks.optimizer_began - max(max(times) for times in marks.passed.values())
    found[OPTIMIZER] = marks.seconds[OPTIMIZER]
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
