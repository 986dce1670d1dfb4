"""The training loop of one rank: epochs, validation, checkpoints, results. All ranks run the same loop together."""

import itertools
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ds2f import rng, tree
from ds2f.data.loading import Loader
from ds2f.errors import InputError
from ds2f.runner import health
from ds2f.runner.data_record import refusal
from ds2f.runner.distributed import consistency
from ds2f.runner.distributed.signals import Stopped, stop_on_request
from ds2f.runner.evaluator import Evaluation, evaluate
from ds2f.runner.program import Program, run_length
from ds2f.runner.progress import Meter, TrainProgress
from ds2f.runner.rank0_checkpoints import RankZeroCheckpoints
from ds2f.runner.rank0_log import RankZeroLog
from ds2f.runner.splits import Split, micro_batches
from ds2f.runner.summary import Summary
from ds2f.runner.telemetry import Telemetry, duration
from ds2f.runner.trace import StepTrace
from ds2f.types import Batch, Params, Stats


class _StopRequested(Exception):  # noqa: N818  # no error
    """A rank was asked to stop."""


class Trainer:
    """Trains a model with a program, on one rank of a group.

    The algorithm::

        restore: the newest checkpoint's state, another run's weights, or a fresh state
        until the last epoch or step:
            for each remaining global batch of the epoch:
                state, metrics = program.step(state, this rank's micro-batches)
                count the step; log metrics every training.log_every steps
                stop if a rank was asked to stop; write a checkpoint if one is due
            write a checkpoint; validate, if due; log the epoch; add the score to the checkpoint
        evaluate the best model; write results.json
    """

    def __init__(
        self,
        program: Program,
        data: Mapping[str, Split],
        loaders: Mapping[str, Loader],
        *,
        run_dir: Path,
        checkpoints: RankZeroCheckpoints,
        telemetry: Telemetry,
        data_digests: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Takes the parts of a training. Call ``restore`` before ``run``.

        Args:
          program: the training step.
          data: the splits by name, ``train`` first.
          loaders: this rank's loaders, by split.
          run_dir: the run's folder, which only rank 0 reads and writes.
          checkpoints: the run's checkpoints.
          telemetry: this rank's log and telemetry.
          data_digests: digests of the splits, on rank 0, by ``data_record``; a checkpoint of other data is refused.
        """
        self._program, self._data, self._loaders, self._run_dir = program, data, loaders, run_dir
        self._cfg, self._backend, self._group = program.cfg, program.backend, program.group
        self._checkpoints, self._telemetry, self._data_digests = checkpoints, telemetry, dict(data_digests)
        self._rank0_log = RankZeroLog(telemetry, program.group)
        self._summary = Summary(program, run_dir)
        self._batches_per_epoch = loaders["train"].steps
        self._requests: list[int] = []  # received signals that ask to stop
        self._saved_at = self._started = time.monotonic()

    def restore(self) -> None:
        """Sets the first state: the newest checkpoint's state, another run's weights, or a fresh state.

        Raises:
          InputError: when the checkpoint or the other run cannot be used.
        """
        cfg, log = self._cfg, self._rank0_log.log
        for name, split in self._data.items():
            for remark in split.dataset.remarks:
                log(f"{name}: {remark}")
        state, progress, newest = self._program.init(), TrainProgress(), None
        if cfg.checkpointing.load_auto_checkpoint:
            state, progress, newest = self._checkpoints.resume(state)
            self._require_same_data(progress)
            self._telemetry.rewind(progress.iteration, in_epoch=progress.batch > 0)
        if newest is not None:
            log(f"going on from checkpoint {newest}: {progress.epoch} epochs and {progress.batch} batches are done")
        elif cfg.checkpointing.continue_from:
            other = cfg.checkpointing.continue_from
            state, new = self._checkpoints.weights_of(other, state, init=self._program.tx.init)
            labels = f"; the output layer is new for {', '.join(map(repr, new))}" if new else ""
            log(f"starting from the weights of {other}{labels}")
        progress.data = progress.data | self._data_digests
        self._state, self._progress = self._backend.place_state(state), progress
        self._meter = Meter(
            progress,
            frame_seconds=cfg.spect.window_stride,
            name=lambda row: str(self._data["train"].utterances[row].audio),
            log=log,
            gather=self._group.gather,
        )

    def _require_same_data(self, progress: TrainProgress) -> None:
        """Compares the digests of the data with the checkpoint's. ``data_record`` has compared the rows before."""
        digests = self._data_digests
        changed = [name for name in digests if progress.data.get(name, digests[name]) != digests[name]]
        if changed and not self._cfg.data.allow_changes:
            raise InputError(
                refusal(str(self._run_dir), [f"{name}: not the data of the checkpoint" for name in changed])
            )

    def run(self) -> dict[str, Any]:
        """Trains to the end and returns the content of ``results.json``.

        Raises:
          Stopped: on a request to stop, after writing a checkpoint.
          DivergedError: when the training has diverged.
        """
        self._started = time.monotonic() - self._progress.wall_seconds
        self._trace = StepTrace(self._cfg, self._backend, self._group, self._run_dir, log=self._rank0_log.log)
        sizes = {"parameters": tree.size(self._state.params), "steps": self._batches_per_epoch}
        for line in self._summary.greeting(self._data, **sizes):
            self._rank0_log.log(line)
        with stop_on_request() as self._requests:
            try:
                while not self._finished():
                    if not self._progress.unvalidated:
                        self._train_epoch()
                    self._finish_epoch()
                self._trace.close()
                evaluations = self._evaluate_best()
            except _StopRequested:
                raise self._stopped() from None
        results = self._summary.results(
            self._progress, evaluations, steps=int(self._state.step), wall_seconds=time.monotonic() - self._started
        )
        self._rank0_log.flush()
        self._rank0_log.log_unreadable(self._loaders["train"].unreadable.values())
        self._telemetry.results(results)
        self._checkpoints.close()
        for loader in self._loaders.values():
            loader.close()
        return results

    def _stopped(self) -> Stopped:
        """Writes a checkpoint. Returns the exception with the exit status and the command that continues the run."""
        self._save()
        saved = self._checkpoints.close()
        status = 128 + (self._requests[0] if self._requests else signal.SIGINT)
        return Stopped(self._summary.how_to_go_on(self._progress, saved=saved), status)

    def _finished(self) -> bool:
        done = self._progress.epoch >= self._cfg.training.epochs or self._reached_max_steps()
        return done and not self._progress.unvalidated

    def _train_epoch(self) -> None:
        """Runs the rest of the current epoch.

        Raises:
          _StopRequested: on every rank, when a rank was asked to stop.
        """
        progress, cfg, meter = self._progress, self._cfg, self._meter
        description = f"epoch {progress.epoch + 1}/{cfg.training.epochs}"
        with self._telemetry.progress(description, self._batches_per_epoch, progress.batch) as bar:
            meter.restart()
            for batches in self._micro_batches():
                self._group.beat(progress.iteration)
                key = rng.fold_in(cfg.training.seed, "step", progress.epoch, progress.batch)
                with self._trace.step() as spans:
                    self._state, metrics = self._program.step(self._state, batches, key=key, spans=spans)
                meter.count(batches, metrics)
                bar.advance(self._log_metrics() if progress.iteration % cfg.training.log_every == 0 else None)
                self._heed_requests()
                if self._reached_max_steps():
                    break
                if progress.batch < self._batches_per_epoch and self._checkpoint_is_due():
                    self._log_metrics()
                    self._save()
                    meter.resume_clock()
            self._log_metrics()

    def _heed_requests(self) -> None:
        """Raises ``_StopRequested`` on every rank if a rank was asked to stop."""
        if self._group.vote(bool(self._requests)).result():
            self._log_metrics()
            raise _StopRequested

    def _checkpoint_is_due(self) -> bool:
        every, minutes = (
            self._cfg.checkpointing.checkpoint_per_iteration,
            self._cfg.checkpointing.checkpoint_per_minutes,
        )
        if every and self._progress.iteration % every == 0:
            return True
        if not minutes:
            return False
        late = (
            self._group.rank == 0 and time.monotonic() - self._saved_at >= 60 * minutes
        )  # rank 0's clock decides for all
        return self._group.vote(late).result()

    def _micro_batches(self) -> Iterator[list[Batch]]:
        """Iterates over the rest of the epoch: this rank's micro-batches of each step."""
        batches = self._loaders["train"].epoch(self._progress.epoch, start=self._progress.batch)
        size = micro_batches(self._cfg, self._group.size)
        return iter(lambda: list(itertools.islice(batches, size)), [])

    def _reached_max_steps(self) -> bool:
        return 0 < self._cfg.training.max_steps <= self._progress.iteration

    def _log_metrics(self) -> str | None:
        """Reads and logs the metrics of the steps since the last reading. Returns the text of the progress bar."""
        values = self._meter.read()
        if not values:
            return None
        self._rank0_log.flush()
        values["learning_rate"] = self._learning_rate()
        self._telemetry.scalars("train", self._progress.iteration, values)
        health.require_progress(self._progress, values["loss_scale"], self._cfg)
        if health.spiked(self._progress, values["loss"], self._cfg.training.rollback_spike):
            self._roll_back(values["loss"])
        return (
            f"loss {values['loss']:.2f}  lr {values['learning_rate']:.2e}  "
            f"{values['utterances_per_second']:.1f} utt/s  {duration(self._seconds_left())} left"
        )

    def _roll_back(self, loss: float) -> None:
        """Restores the newest checkpoint's state. The data continue with the next batch."""
        state, _, newest = self._checkpoints.resume(tree.to(self._state, "cpu"))
        if newest is not None:
            self._state = self._backend.place_state(state)
            self._rank0_log.log(
                f"step {self._progress.iteration}: the loss rose to {loss:.2f}, more than "
                f"{self._cfg.training.rollback_spike:g} times the recent loss; back to the state of checkpoint "
                f"{newest}, on with the next batch"
            )

    def _learning_rate(self) -> float:
        return float(self._program.schedule(self._state.step))

    def _seconds_left(self) -> float:
        total = run_length(self._cfg, self._batches_per_epoch)
        return (total - self._progress.iteration) * self._progress.training_seconds / max(self._progress.iteration, 1)

    def _evaluate(self, split: str, model: tuple[Params, Stats]) -> Evaluation:
        return evaluate(
            *model,
            self._loaders[split].epoch(),
            self._data[split].references,
            cfg=self._cfg.model,
            policy=self._program.policy,
            backend=self._backend,
            criterion=self._program.criterion,
            group=self._group,
            between=self._heed_requests,
        )

    def _finish_epoch(self) -> None:
        """Writes a checkpoint, validates the model if due, adds the score to the checkpoint, and logs the epoch.

        The checkpoint comes first, so that no error in the validation costs the epoch. A run that goes on from it
        validates before it trains.
        """
        cfg, progress, meter = self._cfg, self._progress, self._meter
        whole = progress.batch >= self._batches_per_epoch
        epochs = progress.epoch + whole
        last = epochs >= cfg.training.epochs or self._reached_max_steps()
        due = "val" in self._data and (last or epochs % cfg.training.validate_every == 0)
        if due and not progress.unvalidated:
            progress.unvalidated = True
            self._save()
        found = self._evaluate("val", self._state.model) if due else None
        progress.unvalidated = False
        if whole:
            progress.epoch, progress.batch = epochs, 0
        values: dict[str, Any] = {"epoch": epochs, "train_loss": meter.loss, "learning_rate": self._learning_rate()}
        score, best = None, False
        if found is not None:
            score = found.counts.wer + 1e-4 * found.counts.cer  # the character error rate only decides between equals
            best = score < progress.best_score
            progress.best_score = min(score, progress.best_score)
            values |= {"val_loss": found.loss, "val_wer": found.counts.wer, "val_cer": found.counts.cer}
        elif "val" not in self._data:
            score = -progress.iteration  # the last epoch is the best; checkpoints within an epoch have no score
        speed, rate = meter.utterances_per_second, values["learning_rate"]
        self._telemetry.scalars(
            "epoch", progress.iteration, values | {"utterances_per_second": speed, "seconds": progress.training_seconds}
        )
        line = self._summary.epoch(progress, loss=meter.loss, found=found, best=best, speed=speed, rate=rate)
        self._rank0_log.log(line if last else f"{line}  {duration(self._seconds_left())} left")
        if score is None or found is None:
            self._save(score)
        else:
            progress.wall_seconds = time.monotonic() - self._started
            self._checkpoints.add_validation(self._state, progress, score=score)

    def _save(self, score: float | None = None) -> None:
        consistency.require_same_params(self._group, {"params": self._state.params, "average": self._state.average})
        self._progress.wall_seconds = time.monotonic() - self._started
        self._checkpoints.save(self._state, self._progress, score=score)
        self._saved_at = time.monotonic()

    def _evaluate_best(self) -> dict[str, Evaluation]:
        """Evaluates the run's best model on every split but ``train``."""
        best = tree.to(self._checkpoints.best_model(tree.to(self._state.model, "cpu")), self._backend.device)
        return {split: self._evaluate(split, best) for split in self._data if split != "train"}
