"""What training steps came to: metrics that wait on the device until they are read, and the run's running totals."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import attrs
import torch

from ds2f.types import Batch, StepMetrics


@attrs.define
class TrainProgress:
    """Where a run stands; with the ``TrainState`` it is the checkpoint. All fields are JSON values."""

    epoch: int = 0  # epochs that are finished
    batch: int = 0  # batches of the next epoch that are finished
    iteration: int = 0  # batches since the start of the run
    skipped_steps: int = 0
    utterances: int = 0  # trained on, every epoch counted
    audio_seconds: float = 0.0
    training_seconds: float = 0.0  # data loading included, evaluation and start-up left out
    wall_seconds: float = 0.0  # up to this checkpoint, evaluation and earlier checkpoints included, start-up left out
    best_score: float = float("inf")
    skipped_in_a_row: int = 0  # up to the last reading
    # Of the epoch under way, up to the last reading:
    epoch_loss: float = 0.0  # sum over the steps that were applied
    epoch_steps: int = 0  # those steps
    epoch_utterances: int = 0
    epoch_seconds: float = 0.0
    recent_losses: list[float] = attrs.field(factory=list)  # of the last log lines


class _Pending(NamedTuple):
    iteration: int
    ids: torch.Tensor  # [B]: this rank's utterances
    metrics: StepMetrics


class _Share(NamedTuple):
    """What one rank has to tell about the steps that were read."""

    utterances: int
    audio_seconds: float
    infeasible: set[int]
    skipped: list[tuple[int, list[int], list[int]]]  # iteration, ids whose loss is NaN, all ids


class Meter:
    """Counts the steps of an epoch and reads their metrics now and then, on all ranks alike."""

    def __init__(
        self,
        position: TrainProgress,
        *,
        frame_seconds: float,
        name: Callable[[int], str],
        say: Callable[[str], None],
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        """Starts the clock.

        Args:
          position: updated with every step and every reading.
          frame_seconds: between frames.
          name: what an utterance is called, by id.
          say: told of skipped steps and of utterances that do not count.
          gather: collects a value from every rank.
        """
        self._position, self._frame_seconds, self._name, self._say = position, frame_seconds, name, say
        self._gather = gather
        self._pending: list[_Pending] = []
        self._infeasible: set[int] = set()
        self._start = self.restart()

    def restart(self) -> float:
        """Begins an epoch, or goes on in one."""
        position = self._position
        if position.batch == 0:
            position.epoch_loss, position.epoch_steps = 0.0, 0
            position.epoch_utterances, position.epoch_seconds = 0, 0.0
        self._new_utterances, self._new_audio = 0, 0.0
        return self.resume_clock()

    def resume_clock(self) -> float:
        """Leaves the time since the last step out: it went into something else than training."""
        self._start = time.monotonic()
        return self._start

    def count(self, micro_batches: Sequence[Batch], metrics: StepMetrics) -> None:
        """Takes note of a step that was started; nothing is read from the device."""
        self._tick()
        self._position.batch += 1
        self._position.iteration += 1
        self._new_utterances += sum(len(batch.ids) for batch in micro_batches)
        self._new_audio += sum(float(batch.lengths.sum()) for batch in micro_batches) * self._frame_seconds
        ids = torch.cat([batch.ids for batch in micro_batches])
        self._pending.append(_Pending(self._position.iteration, ids, metrics))

    def _tick(self) -> None:
        now = time.monotonic()
        self._position.epoch_seconds += now - self._start
        self._position.training_seconds += now - self._start
        self._start = now

    @property
    def loss(self) -> float:
        """Mean over the steps of the epoch that were read and applied, natural log."""
        return self._position.epoch_loss / max(self._position.epoch_steps, 1)

    @property
    def utterances_per_second(self) -> float:
        """Of all ranks, over the epoch up to the last reading."""
        return self._position.epoch_utterances / max(self._position.epoch_seconds, 1e-9)

    def read(self) -> dict[str, Any]:
        """Reads the metrics of all steps since the last reading; returns the last one's, empty without any."""
        if not self._pending:
            return {}
        share = _Share(self._new_utterances, self._new_audio, set(), [])
        for iteration, ids, metrics in self._pending:
            losses = metrics.losses.cpu()
            share.infeasible.update(ids[losses == torch.inf].tolist())
            if bool(metrics.finite):
                self._position.epoch_loss += float(metrics.loss)
                self._position.epoch_steps += 1
                self._position.skipped_in_a_row = 0
            else:
                self._position.skipped_steps += 1
                self._position.skipped_in_a_row += 1
                share.skipped.append((iteration, ids[losses.isnan()].tolist(), ids.tolist()))
        scales = {iteration: float(metrics.loss_scale) for iteration, _, metrics in self._pending}
        last = self._pending[-1].metrics
        self._pending.clear()
        self._new_utterances, self._new_audio = 0, 0.0
        self._take(self._gather(share), scales)
        self._tick()  # reading waited for the steps that the device had not finished
        return {
            "loss": float(last.loss),
            "grad_norm": float(last.grad_norm),
            "loss_scale": float(last.loss_scale),
            "utterances_per_second": self.utterances_per_second,
        }

    def _take(self, shares: list[_Share], scales: dict[int, float]) -> None:
        """Adds up what all ranks tell, and reports what needs a person's attention."""
        utterances = sum(share.utterances for share in shares)
        self._position.epoch_utterances += utterances
        self._position.utterances += utterances
        self._position.audio_seconds += sum(share.audio_seconds for share in shares)
        new = set().union(*(share.infeasible for share in shares)) - self._infeasible
        if new:
            self._infeasible.update(new)
            self._say(f"left out of the loss, too short for the transcript: {', '.join(map(self._name, sorted(new)))}")
        for steps in zip(*(share.skipped for share in shares), strict=True):
            iteration = steps[0][0]
            broken = [row for _, rows, _ in steps for row in rows]
            named = broken or [row for _, _, rows in steps for row in rows]
            self._say(
                f"step {iteration} skipped: its gradient is not finite (loss scale {scales[iteration]:g}); "
                f"{'a loss is NaN' if broken else 'the losses are finite'}: {', '.join(map(self._name, named))}"
            )
