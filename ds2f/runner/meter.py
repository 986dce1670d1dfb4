"""What training steps came to: metrics that wait on the device until they are read, and the run's running totals."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import attrs
import torch

from ds2f.types import Batch, StepMetrics


@attrs.define
class Position:
    """Where a run stands; with the ``TrainState`` it is the checkpoint. All fields are JSON values."""

    epoch: int = 0  # epochs that are finished
    batch: int = 0  # batches of the next epoch that are finished
    iteration: int = 0  # batches since the start of the run
    skipped_steps: int = 0
    utterances: int = 0  # trained on, every epoch counted
    audio_seconds: float = 0.0
    training_seconds: float = 0.0  # data loading included, evaluation and start-up left out
    best_score: float = float("inf")


class _Pending(NamedTuple):
    iteration: int
    batch: Batch
    metrics: StepMetrics


class Meter:
    """Counts the steps of one epoch into a ``Position`` and reads their metrics every so often."""

    def __init__(
        self, position: Position, *, frame_seconds: float, name: Callable[[int], str], say: Callable[[str], None]
    ) -> None:
        """Starts the clock.

        Args:
          position: updated with every step.
          frame_seconds: between frames.
          name: what an utterance is called, by id.
          say: told of skipped steps and of utterances that do not count.
        """
        self._position, self._frame_seconds, self._name, self._say = position, frame_seconds, name, say
        self._pending: list[_Pending] = []
        self._infeasible: set[int] = set()
        self._start = self.restart()

    def restart(self) -> float:
        """Begins an epoch."""
        self._loss, self._steps, self._utterances, self._seconds = 0.0, 0, 0, 0.0
        return self.resume_clock()

    def resume_clock(self) -> float:
        """Leaves the time since the last step out: it went into something else than training."""
        self._start = time.monotonic()
        return self._start

    def count(self, batch: Batch, metrics: StepMetrics) -> None:
        """Takes note of a step that was started; nothing is read from the device."""
        position = self._position
        self._tick()
        position.batch += 1
        position.iteration += 1
        position.utterances += len(batch.ids)
        position.audio_seconds += float(batch.lengths.sum()) * self._frame_seconds
        self._utterances += len(batch.ids)
        self._pending.append(_Pending(position.iteration, batch, metrics))

    def _tick(self) -> None:
        now = time.monotonic()
        self._seconds += now - self._start
        self._position.training_seconds += now - self._start
        self._start = now

    @property
    def loss(self) -> float:
        """Mean over the steps of the epoch that were read and applied, natural log."""
        return self._loss / max(self._steps, 1)

    @property
    def utterances_per_second(self) -> float:
        """Of the epoch so far."""
        return self._utterances / max(self._seconds, 1e-9)

    def read(self) -> dict[str, Any]:
        """Reads the metrics of all steps since the last reading; returns the last one's, empty without any."""
        for iteration, batch, metrics in self._pending:
            losses = metrics.losses.cpu()
            self._report_infeasible(batch.ids[losses == torch.inf].tolist())
            if bool(metrics.finite):
                self._loss += float(metrics.loss)
                self._steps += 1
            else:
                self._position.skipped_steps += 1
                self._report_skipped(iteration, batch.ids, losses.isnan(), float(metrics.loss_scale))
        if not self._pending:
            return {}
        last = self._pending[-1].metrics
        self._pending.clear()
        self._tick()  # reading waited for the steps that the device had not finished
        return {
            "loss": float(last.loss),
            "grad_norm": float(last.grad_norm),
            "loss_scale": float(last.loss_scale),
            "utterances_per_second": self.utterances_per_second,
        }

    def _report_infeasible(self, ids: list[int]) -> None:
        new = sorted(set(ids) - self._infeasible)
        if new:
            self._infeasible.update(new)
            self._say(f"left out of the loss, too short for the transcript: {', '.join(map(self._name, new))}")

    def _report_skipped(self, iteration: int, ids: torch.Tensor, broken: torch.Tensor, loss_scale: float) -> None:
        named = ids[broken] if broken.any() else ids
        why = "a loss is NaN" if broken.any() else "the losses are finite"
        self._say(
            f"step {iteration} skipped: its gradient is not finite (loss scale {loss_scale:g}); {why}: "
            f"{', '.join(map(self._name, named.tolist()))}"
        )
