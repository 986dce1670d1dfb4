"""Where the time of an epoch goes: waits for data, evaluation, checkpoints; and one step of each epoch, taken apart."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from ds2f.runner.progress import TrainProgress
from ds2f.runner.spans import BACKWARD, COMPUTE, FORWARD, OPTIMIZER, Span, Spans
from ds2f.runner.start_times import mark

MEASURED = 2  # the step of an epoch that is taken apart, from 0: the steps before it fill caches
T = TypeVar("T")
Part = Literal["data", "evaluation", "checkpoint"]


class EpochTimes:
    """Counts the seconds of one rank, for the lines ``epoch`` and ``step_time`` of ``metrics.jsonl``."""

    def __init__(self, wait: Callable[[], None], record: Callable[[str, int, Mapping[str, Any]], None]) -> None:
        """Starts at zero.

        Args:
          wait: waits for the device; called within the measured step only.
          record: takes the line of a measured step: kind, iteration, values.
        """
        self._wait, self._record = wait, record
        self._starting = True  # until the first step has ended
        self._seconds: dict[Part, float] = {"data": 0.0, "evaluation": 0.0, "checkpoint": 0.0}

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Counts the time of a ``with`` block, also of one that an exception ends."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - start

    def awaited(self, batches: Iterable[T]) -> Iterator[T]:
        """Passes the batches on, and counts the time of the waits for them."""
        iterator = iter(batches)
        while True:
            with self.part("data"):
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            if self._starting:
                mark("first batch")
            yield batch

    @contextmanager
    def step(self, spans: Spans | None, progress: TrainProgress) -> Iterator[Spans | None]:
        """Surrounds a step, and takes one step of each epoch apart.

        Args:
          spans: of a step that is traced already; None: of any other.
          progress: before the step; after it, ``Meter.count`` has counted the step.

        Yields:
          The spans that are to record the step; None: nothing records the step.
        """
        if spans is not None or progress.batch != MEASURED:
            yield spans
            self._end_start()
            return
        own = Spans(self._wait)
        start = own.now()
        yield own
        self._record("step_time", progress.iteration, {"step_seconds": own.now() - start, **step_parts(own.found)})

    def _end_start(self) -> None:
        """Marks the end of the first step, the last stage of a start."""
        if self._starting:
            self._starting = False
            self._wait()
            mark("first step")

    def take(self) -> dict[str, float]:
        """The seconds by part since the last call."""
        taken = {f"{name}_seconds": seconds for name, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        return taken


def step_parts(spans: Iterable[Span]) -> dict[str, float]:
    """The seconds of a step by part. An all-reduce counts as far as nothing is computed meanwhile.

    >>> step_parts([Span("conv forward", "compute", 0, 1), Span("all-reduce conv", "all-reduce", 0.5, 3)])
    {'forward_seconds': 1.0, 'backward_seconds': 0.0, 'optimizer_seconds': 0.0, 'all_reduce_seconds': 2.0}
    """
    spans = list(spans)
    computed = [span for span in spans if span.track == COMPUTE]
    return {
        "forward_seconds": _covered(span for span in computed if span.name.endswith(FORWARD)),
        "backward_seconds": _covered(span for span in computed if span.name.endswith(BACKWARD)),
        "optimizer_seconds": _covered(span for span in computed if span.name == OPTIMIZER),
        "all_reduce_seconds": _covered(spans) - _covered(computed),
    }


def _covered(spans: Iterable[Span]) -> float:
    """Seconds within at least one of the spans."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        total += max(0.0, span.end - max(span.start, until))
        until = max(until, span.end)
    return total
