"""The progress of a run as integers and totals, and the reading of the steps' metrics from the device."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import attrs
import torch

from ds2f.types import Batch, StepMetrics


def _infinite_if_none(value: float | None) -> float:
    """Reads a number that JSON holds as ``null``, since JSON has no infinity."""
    return float("inf") if value is None else value


@attrs.define
class TrainProgress:
    """Counters and totals of a run. With the ``TrainState``, they make up a checkpoint. All fields are JSON values."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # finished global batches of the current epoch
    iteration: int = 0  # global batches since the start of the run
    skipped_steps: int = 0
    utterances: int = 0  # trained on, over all epochs and ranks
    audio_seconds: float = 0.0  # length of their recordings
    training_seconds: float = 0.0  # with data loading, without evaluation and start-up
    wall_seconds: float = 0.0  # up to this checkpoint, with evaluation and earlier checkpoints, without start-up
    unvalidated: bool = False  # whether the validation of the steps so far is outstanding
    best_score: float = attrs.field(default=float("inf"), converter=_infinite_if_none)
    skipped_in_a_row: int = 0  # up to the last reading
    # The current epoch up to the last reading:
    epoch_loss: float = 0.0  # sum over the applied steps
    epoch_steps: int = 0  # number of applied steps
    epoch_utterances: int = 0
    epoch_seconds: float = 0.0
    recent_losses: list[float] = attrs.field(factory=list)  # of the last log lines
    data: dict[str, str] = attrs.field(factory=dict)  # digests of the splits; empty in earlier versions


class _Pending(NamedTuple):
    """A step whose metrics are still on the device."""

    iteration: int
    ids: torch.Tensor  # [B]: this rank's utterances
    metrics: StepMetrics


class _Findings(NamedTuple):
    """What one rank has found since the last reading."""

    infeasible: set[int]  # ids of utterances that are too short for their transcript
    skipped: list[tuple[int, list[int], list[int]]]  # iteration, ids of utterances with a NaN loss, all ids


class Meter:
    """Counts steps without waiting for the device, and reads the metrics of many steps at once.

    All ranks read after the same steps and get the same totals.
    """

    def __init__(
        self,
        progress: TrainProgress,
        *,
        frame_seconds: float,
        name: Callable[[int], str],
        log: Callable[[str], None],
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        """Starts the clock.

        Args:
          progress: updated with every step and every reading.
          frame_seconds: time from one frame to the next, seconds.
          name: returns an utterance's name in the log, by id.
          log: logs skipped steps and infeasible utterances.
          gather: collects a value from every rank.
        """
        self._progress, self._frame_seconds, self._name, self._log = progress, frame_seconds, name, log
        self._gather = gather
        self._pending: list[_Pending] = []
        self._infeasible: set[int] = set()
        self._own = 0.0, 0.0  # utterances and seconds of this rank in the last step
        self._start = self.restart()

    def restart(self) -> float:
        """Begins an epoch or continues a started epoch. Returns the clock's time."""
        progress = self._progress
        if progress.batch == 0:
            progress.epoch_loss, progress.epoch_steps = 0.0, 0
            progress.epoch_utterances, progress.epoch_seconds = 0, 0.0
        return self.resume_clock()

    def resume_clock(self) -> float:
        """Excludes the time since the last step from the training time, for example the time of a checkpoint."""
        self._start = time.monotonic()
        return self._start

    def count(self, micro_batches: Sequence[Batch], metrics: StepMetrics) -> tuple[int, float]:
        """Counts a step that was started. Reads nothing from the device.

        Returns:
          This rank's utterances and their length in seconds, which are counted already; ``add`` takes the sums over
          the ranks in their place. A step after which the ranks part counts this rank's alone.
        """
        self._tick()
        self._progress.batch += 1
        self._progress.iteration += 1
        ids = torch.cat([batch.ids for batch in micro_batches])
        self._pending.append(_Pending(self._progress.iteration, ids, metrics))
        own = len(ids), sum(float(batch.lengths.sum()) for batch in micro_batches) * self._frame_seconds
        self._add(*own)
        self._own = own
        return own

    def add(self, utterances: float, audio_seconds: float) -> None:
        """Adds what all ranks trained on in the last step, in place of this rank's part."""
        own_utterances, own_seconds = self._own
        self._add(utterances - own_utterances, audio_seconds - own_seconds)

    def _add(self, utterances: float, audio_seconds: float) -> None:
        self._progress.epoch_utterances += int(utterances)
        self._progress.utterances += int(utterances)
        self._progress.audio_seconds += audio_seconds

    def _tick(self) -> None:
        now = time.monotonic()
        self._progress.epoch_seconds += now - self._start
        self._progress.training_seconds += now - self._start
        self._start = now

    @property
    def loss(self) -> float:
        """Mean loss of the epoch's steps that were read and applied, natural log."""
        return self._progress.epoch_loss / max(self._progress.epoch_steps, 1)

    @property
    def utterances_per_second(self) -> float:
        """Speed of all ranks together, over the epoch up to the last reading."""
        return self._progress.epoch_utterances / max(self._progress.epoch_seconds, 1e-9)

    def read(self, *, alone: bool = False) -> dict[str, Any]:
        """Reads the metrics of all steps since the last reading. All ranks call it together.

        Args:
          alone: whether the other ranks cannot be asked; the messages are then this rank's alone.

        Returns:
          The metrics of the last step, for the log; empty if no step was taken.
        """
        if not self._pending:
            return {}
        own = _Findings(set(), [])
        for iteration, ids, metrics in self._pending:
            losses = metrics.losses.cpu()
            own.infeasible.update(ids[losses == torch.inf].tolist())
            if not bool(metrics.finite):
                own.skipped.append((iteration, ids[losses.isnan()].tolist(), ids.tolist()))
        found = [own] if alone else [_Findings(*each) for each in self._gather(own)]
        for _, _, metrics in self._pending:  # after the gathering, which may fail
            if bool(metrics.finite):
                self._progress.epoch_loss += float(metrics.loss)
                self._progress.epoch_steps += 1
                self._progress.skipped_in_a_row = 0
            else:
                self._progress.skipped_steps += 1
                self._progress.skipped_in_a_row += 1
        scales = {iteration: float(metrics.loss_scale) for iteration, _, metrics in self._pending}
        last = self._pending[-1].metrics
        self._pending.clear()
        self._tell(found, scales)
        self._tick()  # the reading has waited for the device
        return {
            "loss": float(last.loss),
            "grad_norm": float(last.grad_norm),
            "loss_scale": float(last.loss_scale),
            "utterances_per_second": self.utterances_per_second,
        }

    def _tell(self, ranks: list[_Findings], scales: dict[int, float]) -> None:
        """Logs skipped steps and new infeasible utterances of all ranks."""
        new = set().union(*(found.infeasible for found in ranks)) - self._infeasible
        if new:
            self._infeasible.update(new)
            self._log(
                f"excluded from the loss, too short for the transcript: {', '.join(map(self._name, sorted(new)))}"
            )
        for steps in zip(*(found.skipped for found in ranks), strict=True):
            iteration = steps[0][0]
            broken = [row for _, rows, _ in steps for row in rows]
            named = broken or [row for _, _, rows in steps for row in rows]
            self._log(
                f"step {iteration} skipped: its gradient is not finite (loss scale {scales[iteration]:g}); "
                f"{'a loss is NaN' if broken else 'the losses are finite'}: {', '.join(map(self._name, named))}"
            )
