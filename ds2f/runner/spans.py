"""Spans: the time of every stage, all-reduce and optimizer update of a training step, on one rank.

Training (``--visualization.trace``), the benchmark and the scaling estimate measure with these spans. They wrap three
arguments of the step: the loss (forward and backward pass of every stage), the optimizer and the collectives. A span
of a ``with`` block is also a ``record_function`` range, so that torch's profiler shows the same names.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from ds2f import tree
from ds2f.files import json_text
from ds2f.objective import Objective
from ds2f.optim import GradientTransformation
from ds2f.types import Collectives, Handle, Stage

COMPUTE, COMMUNICATION = "compute", "all-reduce"  # tracks: spans of different tracks overlap
FORWARD, BACKWARD, OPTIMIZER, ALL_REDUCE = " forward", " backward", "optimizer", "all-reduce "


class Span(NamedTuple):
    """An interval of time on one rank."""

    name: str
    track: str
    start: float  # seconds of ``time.perf_counter``
    end: float
    bytes: int = 0  # size of an all-reduce's buffer

    @property
    def seconds(self) -> float:
        """Length of the interval."""
        return self.end - self.start


class Spans:
    """Records the spans of one rank, in the order in which they end."""

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        """Starts empty.

        Args:
          wait: waits for the device. Called at both ends of every span, so that a span contains the work that it
            starts. On an accelerator, a recorded step is therefore slower.
        """
        self._wait = wait
        self._passages: dict[str, list[float]] = {}  # times at which gradients passed, by stage
        self.stage = ""  # the stage whose backward pass ran last
        self.found: list[Span] = []

    def now(self) -> float:
        """Waits for the device and returns the time in seconds."""
        self._wait()
        return time.perf_counter()

    @contextmanager
    def span(self, name: str, track: str = COMPUTE) -> Iterator[None]:
        """Records the time of a ``with`` block."""
        with record_function(name):
            start = self.now()
            yield
            self.found.append(Span(name, track, start, self.now()))

    def passage(self, stage: str) -> None:
        """Records that a gradient enters or leaves the stage's backward pass."""
        self._passages.setdefault(stage, []).append(self.now())
        self.stage = stage

    def end_step(self) -> None:
        """Makes a span of each stage's backward pass: from the first gradient's passage to the last one's."""
        for stage, times in self._passages.items():
            self.found.append(Span(f"{stage}{BACKWARD}", COMPUTE, min(times), max(times)))
        self._passages.clear()

    def clear(self) -> None:
        """Removes all spans."""
        self.found.clear()
        self._passages.clear()

    def on(self, track: str) -> list[Span]:
        """The spans of one track, in the order of their start."""
        return sorted((span for span in self.found if span.track == track), key=lambda span: span.start)

    def first(self, name: str) -> Span:
        """The earliest span with this name."""
        return min((span for span in self.found if span.name == name), key=lambda span: span.start)

    def seconds(self) -> dict[str, float]:
        """Total seconds by name, in the order of the first start. Recomputation adds a second forward pass."""
        totals: dict[str, float] = {}
        for span in sorted(self.found, key=lambda span: span.start):
            totals[span.name] = totals.get(span.name, 0.0) + span.seconds
        return totals

    def events(self, rank: int, *, origin: float) -> list[dict[str, Any]]:
        """The spans as events of Chrome's trace format: a process per rank, a thread per track.

        Spans of one track that overlap, as all-reduces do, get a thread each: viewers drop overlapping events of one
        thread.

        Args:
          rank: this rank.
          origin: time zero of the trace, in seconds of ``now``; the events count microseconds from it.
        """
        free_at: dict[str, list[float]] = {}  # by track, the end of the last span of each of its threads
        events = []
        for span in sorted(self.found, key=lambda span: (span.start, -span.end)):
            ends = free_at.setdefault(span.track, [])
            lane = next((lane for lane, end in enumerate(ends) if end <= span.start), len(ends))
            ends[lane : lane + 1] = [span.end]
            events.append(
                {
                    "name": span.name,
                    "ph": "X",
                    "pid": rank,
                    "tid": f"{span.track} {lane + 1}" if lane else span.track,
                    "ts": 1e6 * (span.start - origin),
                    "dur": 1e6 * span.seconds,
                    **({"args": {"bytes": span.bytes}} if span.bytes else {}),
                }
            )
        return events


def trace_text(events: Sequence[dict[str, Any]]) -> str:
    """The text of a trace file for Perfetto or chrome://tracing, with one event per line."""
    return "[\n" + ",\n".join(json_text(event) for event in events) + "\n]\n"


class _Passage(torch.autograd.Function):
    """The identity, which calls a function in the backward pass."""

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
    """Returns the same loss, which records the forward and the backward pass of every stage."""

    def stages(*args: Any, **kwargs: Any) -> list[Stage]:
        return [Stage(stage.name, _traced_stage(stage, spans)) for stage in loss.stages(*args, **kwargs)]

    return Objective(stages)


def _traced_stage(stage: Stage, spans: Spans) -> Callable[[Any, Any], tuple[Any, Any]]:
    def bordered(values: Any) -> Any:
        """Puts a ``_Passage`` on every tensor: a backward pass starts at outputs and ends at inputs and parameters."""
        return tree.map(lambda x: _Passage.apply(x, lambda: spans.passage(stage.name)), values)

    def fn(params: Any, x: Any) -> tuple[Any, Any]:
        with spans.span(f"{stage.name}{FORWARD}"):
            y, auxiliary = stage.fn(bordered(params), bordered(x))
        return bordered(y), auxiliary

    return fn


def traced_optimizer(tx: GradientTransformation, spans: Spans) -> GradientTransformation:
    """Returns the same optimizer, which records its updates."""

    def traced(fn: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with spans.span(OPTIMIZER):
                return fn(*args, **kwargs)

        return wrapped

    return GradientTransformation(tx.init, traced(tx.update), traced(tx.step) if tx.step else None)


class TracedCollectives:
    """The same collectives, recording each asynchronous all-reduce from its start to the end of ``wait``."""

    def __init__(self, collectives: Collectives, spans: Spans) -> None:
        """Takes the collectives to record."""
        self._collectives, self._spans = collectives, spans
        self._stage = ""  # whose gradients were reduced last
        self.rank, self.size = collectives.rank, collectives.size

    def all_reduce(self, values: Tensor) -> Tensor:
        """Returns the sum over the ranks."""
        return self._collectives.all_reduce(values)

    def all_finite(self, flag: Tensor) -> Tensor:
        """Returns whether the flag is true on every rank."""
        return self._collectives.all_finite(flag)

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        """Starts an all-reduce in place."""
        start, size = time.perf_counter(), buffer.numel() * buffer.element_size()
        stage = self._spans.stage
        # A stage's gradients travel in one buffer; loss and batch-norm statistics follow the last stage's.
        name = f"{ALL_REDUCE}{stage if stage != self._stage else 'statistics'}"
        self._stage = stage
        return _TracedHandle(self._collectives.all_reduce_async(buffer), name, start, size, self._spans)


class _TracedHandle(NamedTuple):
    handle: Handle
    name: str  # of the span
    start: float
    size: int
    spans: Spans

    def wait(self) -> None:
        """Waits for the all-reduce."""
        self.handle.wait()
        self.spans.found.append(Span(self.name, COMMUNICATION, self.start, time.perf_counter(), self.size))
