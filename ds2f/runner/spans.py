"""Spans of time: where a training step spends its time, by stage and by rank.

One instrument serves training (``--visualization.trace``), the benchmark and the scaling estimate. It wraps the three
arguments of a step that do work: the loss (forward and backward pass of every stage), the optimizer and the
collectives. Each span is also a ``record_function`` range, so that torch's profiler shows the same names.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from ds2f import tree
from ds2f.objective import Objective
from ds2f.optim import GradientTransformation
from ds2f.types import Collectives, Handle, Stage

COMPUTE, COMMUNICATION = "compute", "all-reduce"  # the tracks of a rank
FORWARD, BACKWARD, OPTIMIZER, ALL_REDUCE = " forward", " backward", "optimizer", "all-reduce "


class Span(NamedTuple):
    """A stretch of time on one rank."""

    name: str
    track: str
    start: float  # seconds, of the clock ``time.perf_counter``
    end: float
    bytes: int = 0  # that an all-reduce sums

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


class Spans:
    """The spans of one rank, in the order of their ends."""

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        """Starts empty.

        Args:
          wait: waits for the device. It is called at both ends of every span, so that work counts where it is started:
            on an accelerator a traced step is slower than others.
        """
        self._wait = wait
        self._passages: dict[str, list[float]] = {}  # by stage
        self.stage = ""  # whose backward pass came last
        self.found: list[Span] = []

    def now(self) -> float:
        """The time in seconds, once the device has finished its work."""
        self._wait()
        return time.perf_counter()

    @contextmanager
    def span(self, name: str, track: str = COMPUTE) -> Iterator[None]:
        """Records the time that the block takes."""
        with record_function(name):
            start = self.now()
            yield
            self.found.append(Span(name, track, start, self.now()))

    def passage(self, stage: str) -> None:
        """Records that gradients pass a border of a stage: its backward pass is the time between first and last."""
        self._passages.setdefault(stage, []).append(self.now())
        self.stage = stage

    def end_step(self) -> None:
        """Turns the passages of a step into spans of the stages' backward passes."""
        for stage, times in self._passages.items():
            self.found.append(Span(f"{stage}{BACKWARD}", COMPUTE, min(times), max(times)))
        self._passages.clear()

    def clear(self) -> None:
        """Forgets all spans."""
        self.found.clear()
        self._passages.clear()

    def on(self, track: str) -> list[Span]:
        """The spans of one track, by their start."""
        return sorted((span for span in self.found if span.track == track), key=lambda span: span.start)

    def first(self, name: str) -> Span:
        """The first span of a name."""
        return min((span for span in self.found if span.name == name), key=lambda span: span.start)

    def seconds(self) -> dict[str, float]:
        """Total seconds by name, in the order of the first start; recomputation runs a forward pass twice."""
        totals: dict[str, float] = {}
        for span in sorted(self.found, key=lambda span: span.start):
            totals[span.name] = totals.get(span.name, 0.0) + span.seconds
        return totals

    def events(self, rank: int, *, origin: float) -> list[dict[str, Any]]:
        """The spans in Chrome's trace format, microseconds since ``origin``: a process per rank, a thread per track."""
        return [
            {
                "name": span.name,
                "ph": "X",
                "pid": rank,
                "tid": span.track,
                "ts": round(1e6 * (span.start - origin), 1),
                "dur": round(1e6 * span.seconds, 1),
                **({"args": {"bytes": span.bytes}} if span.bytes else {}),
            }
            for span in sorted(self.found, key=lambda span: span.start)
        ]


def trace_text(events: Sequence[dict[str, Any]]) -> str:
    """A file for Perfetto or chrome://tracing, an event a line."""
    return "[\n" + ",\n".join(json.dumps(event) for event in events) + "\n]\n"


class _Passage(torch.autograd.Function):
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


def traced_loss(loss: Objective, spans: Spans) -> Objective:
    """The same loss; the forward and the backward pass of every stage are recorded."""

    def stages(*args: Any, **kwargs: Any) -> list[Stage]:
        return [Stage(stage.name, _traced_stage(stage, spans)) for stage in loss.stages(*args, **kwargs)]

    return Objective(stages)


def _traced_stage(stage: Stage, spans: Spans) -> Callable[[Any, Any], tuple[Any, Any]]:
    def bordered(values: Any) -> Any:
        """A stage's backward pass begins with its outputs' gradients and ends with the gradients of its inputs."""
        return tree.map(lambda x: _Passage.apply(x, lambda: spans.passage(stage.name)), values)

    def fn(params: Any, x: Any) -> tuple[Any, Any]:
        with spans.span(f"{stage.name}{FORWARD}"):
            y, auxiliary = stage.fn(bordered(params), bordered(x))
        return bordered(y), auxiliary

    return fn


def traced_optimizer(tx: GradientTransformation, spans: Spans) -> GradientTransformation:
    """The same optimizer; its updates are recorded."""

    def traced(fn: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with spans.span(OPTIMIZER):
                return fn(*args, **kwargs)

        return wrapped

    return GradientTransformation(tx.init, traced(tx.update), traced(tx.step) if tx.step else None)


class TracedCollectives:
    """The same collectives; every asynchronous all-reduce is recorded from its start to the end of its wait."""

    def __init__(self, collectives: Collectives, spans: Spans) -> None:
        """Takes the collectives that do the work."""
        self._collectives, self._spans = collectives, spans
        self.rank, self.size = collectives.rank, collectives.size

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over the ranks, at once."""
        return self._collectives.all_reduce(values)

    def all_finite(self, flag: Tensor) -> Tensor:
        """Whether the flag is true on every rank."""
        return self._collectives.all_finite(flag)

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        """Starts an all-reduce in place."""
        start, size = time.perf_counter(), buffer.numel() * buffer.element_size()
        name = f"{ALL_REDUCE}{self._spans.stage}"
        return _TracedHandle(self._collectives.all_reduce_async(buffer), name, start, size, self._spans)


class _TracedHandle(NamedTuple):
    handle: Handle
    name: str  # of the stage whose gradients are summed
    start: float
    size: int
    spans: Spans

    def wait(self) -> None:
        """Waits for the all-reduce."""
        self.handle.wait()
        self.spans.found.append(Span(self.name, COMMUNICATION, self.start, time.perf_counter(), self.size))
