"""The trace of some training steps (``--visualization.trace``): every stage of every rank in one file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ds2f.config import Config
from ds2f.files import write_atomically
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import Group
from ds2f.runner.spans import Spans, trace_text

FIRST, COUNT = 3, 3  # steps: the first ones, which fill caches, and the number that is traced


class StepTrace:
    """Traces the fourth to sixth step of a start, and writes them to ``trace.json`` in the run's folder."""

    def __init__(
        self, cfg: Config, backend: Backend, group: Group, run_dir: Path, *, say: Callable[[str], None]
    ) -> None:
        """Waits for the first step; ``say`` is told where the trace is."""
        self._wanted, self._group, self._path, self._say = cfg.visualization.trace, group, run_dir / "trace.json", say
        self._spans = Spans(backend.synchronize)
        self._steps = 0
        self._origin = 0.0

    @contextmanager
    def step(self) -> Iterator[Spans | None]:
        """Surrounds a step of every rank; gives the spans to record it with, None for a step that is not traced."""
        if not self._wanted:
            yield None
            return
        if self._steps == FIRST:
            self._group.gather(None)  # the ranks' clocks differ: all begin together
            self._origin = self._spans.now()
        yield self._spans if self._steps >= FIRST else None
        self._steps += 1
        if self._steps == FIRST + COUNT:
            self._write()
            self._wanted = False

    def _write(self) -> None:
        ranks = self._group.gather(self._spans.events(self._group.rank, origin=self._origin))
        if self._group.rank == 0:
            write_atomically(self._path, trace_text([event for events in ranks for event in events]))
            self._say(f"the trace of {COUNT} steps is in {self._path}: open it in https://ui.perfetto.dev")
