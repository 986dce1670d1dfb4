"""Writes a trace of three training steps (``--visualization.trace``), with the spans of all ranks in one file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ds2f.config import Config
from ds2f.files import write_atomically
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import Group
from ds2f.runner.spans import Spans, trace_text

FIRST, COUNT = 3, 3  # steps: untraced (they fill caches), and traced


class StepTrace:
    """Traces the fourth to sixth step after a start, and writes ``trace.json`` to the run's folder."""

    def __init__(
        self, cfg: Config, backend: Backend, group: Group, run_dir: Path, *, log: Callable[[str], None]
    ) -> None:
        """Prepares the trace; does nothing without ``visualization.trace``.

        Args:
          cfg: the configuration.
          backend: this rank's device.
          group: the ranks.
          run_dir: the run's folder, which only rank 0 writes.
          log: logs the path of the trace.
        """
        self._wanted, self._group, self._path, self._log = cfg.visualization.trace, group, run_dir / "trace.json", log
        self._spans = Spans(backend.synchronize)
        self._steps = 0
        self._origin = 0.0

    @contextmanager
    def step(self) -> Iterator[Spans | None]:
        """Surrounds a step on every rank. Yields the spans that record the step, or None for an untraced step."""
        if not self._wanted:
            yield None
            return
        if self._steps == FIRST:
            self._group.gather(None)  # clocks of machines differ, so all ranks set time zero together
            self._origin = self._spans.now()
        yield self._spans if self._steps >= FIRST else None
        self._steps += 1
        if self._steps == FIRST + COUNT:
            self._write()
            self._wanted = False

    def close(self) -> None:
        """Logs why there is no trace, if the run ended before the steps to trace."""
        if self._wanted and self._group.rank == 0:
            self._log(
                f"no trace was written: it takes {FIRST + COUNT} steps after a start, and this start took {self._steps}"
            )
        self._wanted = False

    def _write(self) -> None:
        ranks = self._group.gather(self._spans.events(self._group.rank, origin=self._origin))
        if self._group.rank == 0:
            try:
                write_atomically(self._path, trace_text([event for events in ranks for event in events]))
            except OSError as error:
                self._log(f"{self._path} cannot be written: {error.strerror or error}. Training goes on.")
                return
            self._log(f"the trace of {COUNT} steps is in {self._path}: open it in https://ui.perfetto.dev")
