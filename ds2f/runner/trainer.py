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
from ds2f.errors import CheckpointError, InputError, WorkerDied
from ds2f.runner import health
from ds2f.runner.distributed.job_store import PeerLost
from ds2f.runner.distributed.signals import Stopped
from ds2f.runner.epoch_times import EpochTimes
from ds2f.runner.evaluator import Evaluation
from ds2f.runner.first_state import FirstState
from ds2f.runner.program import Program, run_length
from ds2f.runner.progress import Meter
from ds2f.runner.rank0_checkpoints import RankZeroCheckpoints
from ds2f.runner.rank0_log import RankZeroLog
from ds2f.runner.split_evaluator import SplitEvaluator
from ds2f.runner.splits import Split, deciding_rate, micro_batches
from ds2f.runner.stops import StopRequested, Stops
from ds2f.runner.summary import Summary
from ds2f.runner.telemetry import Telemetry, duration
from ds2f.runner.trace import StepTrace
from ds2f.types import Batch


class Trainer:
    """Trains a model with a program, on one rank of a group.

    The algorithm::

        begin: the newest checkpoint's state, another run's weights, or a fresh state, by ``first_state``
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
        """Takes the parts of a training. Call ``begin`` before ``run``.

        Args:
          program: the training step.
          data: the splits by name, ``train`` first.
          loaders: this rank's loaders, by split.
          run_dir: the run's folder, which only rank 0 reads and writes.
          checkpoints: the run's checkpoints.
          telemetry: this rank's log and telemetry.
          data_digests: digests of the splits, on rank 0, by ``data_record``; checkpoints hold them.
        """
        self._program, self._data, self._loaders, self._run_dir = program, data, loaders, run_dir
        self._cfg, self._backend, self._group = program.cfg, program.backend, program.group
        self._checkpoints, self._telemetry, self._data_digests = checkpoints, telemetry, dict(data_digests)
        self._rank0_log = RankZeroLog(telemetry, program.group)
        self._summary = Summary(program, run_dir, deciding_rate(data, program.cfg))
        self._batches_per_epoch = loaders["train"].steps
        self._stops = Stops(program.group, on_host=program.backend.device.type == "cpu")
        self._evaluator = SplitEvaluator(program, data, loaders, self._stops)
        self._times = EpochTimes(program.backend.synchronize, telemetry.scalars)
        self._spiked = False  # whether the loss has risen too far, and the state is to be rolled back

    def begin(self, first: FirstState) -> None:
        """Takes the state and the progress that ``first_state`` found, and logs where they come from."""
        cfg, log, progress = self._cfg, self._rank0_log.log, first.progress
        for name, split in self._data.items():
            for remark in split.dataset.remarks:
                log(f"{name}: {remark}")
        progress.data = progress.data | self._data_digests
        self._state, self._progress = self._backend.place_state(first.state), progress
        if cfg.checkpointing.load_auto_checkpoint:
            self._telemetry.rewind(progress.iteration, in_epoch=progress.batch > 0 and not self._finished())
        if first.message:
            log(first.message)
        self._meter = Meter(
            progress,
            frame_seconds=cfg.spect.window_stride,
            name=lambda row: self._data["train"].utterances[row].name,
            log=log,
            gather=self._group.gather,
        )

    def run(self) -> dict[str, Any]:
        """Trains to the end and returns the content of ``results.json``.

        Raises:
          Stopped: on a request to stop, after writing a checkpoint.
          DivergedError: when the training has diverged.
          CheckpointError: on rank 0, when no checkpoint can be written.
          InputError, WorkerDied, PeerLost, OSError: after writing a checkpoint of the last whole step.
        """
        self._started = time.monotonic() - self._progress.wall_seconds
        self._trace = StepTrace(self._cfg, self._backend, self._group, self._run_dir, log=self._rank0_log.log)
        sizes = {"parameters": tree.size(self._state.params), "steps": self._batches_per_epoch}
        for line in self._summary.greeting(self._data, **sizes):
            self._rank0_log.log(line)
        with self._stops.heeding():
            try:
                evaluations = self._train_and_evaluate()
            except (health.DivergedError, CheckpointError):
                raise  # the agent ends the other ranks
            except (InputError, WorkerDied, PeerLost, OSError) as error:
                self._keep_steps(str(error), error)
                if self._stops.requests and isinstance(error, PeerLost):  # another rank was quicker to stop
                    raise self._stopped() from error
                raise
        steps, seconds = int(self._state.step), time.monotonic() - self._started
        results = self._summary.results(self._progress, self._data, evaluations, steps=steps, wall_seconds=seconds)
        self._rank0_log.flush()
        self._rank0_log.log_unreadable(why for loader in self._loaders.values() for why in loader.unreadable.values())
        self._telemetry.results(results)
        self._checkpoints.close()
        for loader in self._loaders.values():
            loader.close()
        return results

    def _train_and_evaluate(self) -> dict[str, Evaluation]:
        """Runs all epochs and evaluates the best model. After a request to stop, writes a checkpoint."""
        try:
            while not self._finished():
                if not self._progress.unvalidated:
                    self._train_epoch()
                self._finish_epoch()
            self._trace.close()
            return self._evaluate_best()
        except StopRequested as request:
            if request.agreed:
                self._log_metrics()
                self._save()
            else:
                self._keep_steps("it was asked to stop, and waited")
            raise self._stopped() from None

    def _stopped(self) -> Stopped:
        """Returns the exception with the exit status and the command that continues the run."""
        saved = self._checkpoints.close() and self._checkpoints.holds(self._progress)
        status = 128 + (self._stops.requests[0] if self._stops.requests else signal.SIGINT)
        return Stopped(self._summary.how_to_go_on(self._progress, saved=saved), status)

    def _keep_steps(self, reason: str, error: Exception | None = None) -> None:
        """Leaves the other ranks; rank 0 writes a checkpoint of the last whole step, unless there is one.

        Nothing is written after an error before the first step, nor where a lost rank left a device's step half done:
        the device waits for the rank. Nor is a state written that is to be rolled back: the run that goes on from the
        checkpoint before meets the same spike of the loss.
        """
        half_done = isinstance(error, PeerLost) and self._backend.device.type != "cpu"
        nothing_to_keep = half_done or (error is not None and self._progress.iteration == 0)

        def save() -> None:
            if nothing_to_keep:
                return
            if values := self._meter.read(alone=True):  # of steps that were done before the wait
                self._write_metrics(values)
            self._progress.wall_seconds = time.monotonic() - self._started
            to_roll_back = self._spiked and self._checkpoints.has_checkpoint
            if not to_roll_back and self._checkpoints.keep(self._state, self._progress) and error is not None:
                self._rank0_log.log(f"an error ends the run; checkpoint {self._progress.iteration} keeps all its steps")

        self._stops.leave(reason, save)

    def _finished(self) -> bool:
        done = self._progress.epoch >= self._cfg.training.epochs or self._reached_max_steps()
        return done and not self._progress.unvalidated

    def _train_epoch(self) -> None:
        """Runs the rest of the current epoch."""
        progress, cfg, meter = self._progress, self._cfg, self._meter
        description = f"epoch {progress.epoch + 1}/{cfg.training.epochs}"
        with self._telemetry.progress(description, self._batches_per_epoch, progress.batch) as bar:
            meter.restart()
            for batches in self._micro_batches():
                self._group.beat(progress.iteration)
                key = rng.fold_in(cfg.training.seed, "step", progress.epoch, progress.batch)
                with self._trace.step() as traced, self._times.step(traced, progress) as spans:
                    self._state, metrics = self._program.step(self._state, batches, key=key, spans=spans)
                    counts = meter.count(batches, metrics)  # at once: a wait that follows may end the run
                progress.unvalidated = self._reached_max_steps()  # no more steps follow, and _finish_epoch does
                self._checkpoints.require_proof(begin=True)
                meter.add(*self._stops.vote(*counts))
                bar.advance(self._log_metrics() if progress.iteration % cfg.training.log_every == 0 else None)
                self._stops.obey()
                if self._reached_max_steps():
                    break
                if progress.batch < self._batches_per_epoch and self._checkpoints.is_due(progress.iteration):
                    self._log_metrics()
                    self._save()
                    meter.resume_clock()
            self._log_metrics()

    def _micro_batches(self) -> Iterator[list[Batch]]:
        """Iterates over the rest of the epoch: this rank's micro-batches of each step."""
        loaded = self._loaders["train"].epoch(self._progress.epoch, start=self._progress.batch, meanwhile=self._look)
        batches = self._times.awaited(loaded)
        size = micro_batches(self._cfg, self._group.size)
        return iter(lambda: list(itertools.islice(batches, size)), [])

    def _look(self) -> None:
        """Called several times a second during a wait for a training batch; ends it by an exception."""
        self._stops.look()
        self._checkpoints.require_proof(begin=False)

    def _reached_max_steps(self) -> bool:
        return 0 < self._cfg.training.max_steps <= self._progress.iteration

    def _log_metrics(self) -> str | None:
        """Reads and logs the metrics of the steps since the last reading. Returns the text of the progress bar."""
        values = self._meter.read()
        if not values:
            return None
        self._write_metrics(values)
        self._rank0_log.flush()
        health.require_progress(self._progress, values["loss_scale"], self._cfg)
        if self._spiked:
            self._roll_back(values["loss"])
        return (
            f"loss {values['loss']:.2f}  lr {values['learning_rate']:.2e}  "
            f"{values['utterances_per_second']:.1f} utt/s  {duration(self._seconds_left())} left"
        )

    def _write_metrics(self, values: dict[str, Any]) -> None:
        """Writes the line of the last step, with its learning rate, and notes whether the loss has spiked."""
        values["learning_rate"] = self._learning_rate()
        self._telemetry.scalars("train", self._progress.iteration, values)
        self._spiked = health.spiked(self._progress, values["loss"], self._cfg.training.rollback_spike)

    def _roll_back(self, loss: float) -> None:
        """Restores the newest checkpoint's state. The data continue with the next batch."""
        state, _, newest = self._checkpoints.resume(tree.to(self._state, "cpu"))
        self._spiked = False
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

    def _finish_epoch(self) -> None:
        """Writes a checkpoint, validates the model if due, adds the score to the checkpoint, and logs the epoch.

        The checkpoint comes first: an error in the validation costs no epoch, and a run that goes on begins with it.
        """
        cfg, progress, meter = self._cfg, self._progress, self._meter
        whole = progress.batch >= self._batches_per_epoch
        epochs = progress.epoch + whole
        last = epochs >= cfg.training.epochs or self._reached_max_steps()
        due = "val" in self._data and (last or epochs % cfg.training.validate_every == 0)
        progress.unvalidated = due
        if due and not self._checkpoints.holds(progress):
            self._save()
        with self._times.part("evaluation"):
            found = self._evaluator.evaluate("val", self._state.model) if due else None
        progress.unvalidated = False
        if whole:
            progress.epoch, progress.batch = epochs, 0
        values: dict[str, Any] = {"epoch": epochs, "train_loss": meter.loss, "learning_rate": self._learning_rate()}
        score, best = None, False
        if found is not None:
            score = found.counts.score(self._summary.first)
            best = score < progress.best_score
            progress.best_score = min(score, progress.best_score)
            values |= {"val_loss": found.loss, "val_wer": found.counts.wer, "val_cer": found.counts.cer}
            values |= {"val_unreadable": found.unreadable, "best": best}
        elif "val" not in self._data:
            score = -progress.iteration  # the last epoch is the best; checkpoints within an epoch have no score
        speed, rate = meter.utterances_per_second, values["learning_rate"]
        seconds = {"seconds": progress.training_seconds, "training_seconds": progress.epoch_seconds}
        values |= {"utterances_per_second": speed} | seconds | self._times.take()
        self._telemetry.scalars("epoch", progress.iteration, values)
        if found is not None:
            self._evaluator.show(found, progress.iteration, best=best, telemetry=self._telemetry)
        line = self._summary.epoch(progress, loss=meter.loss, found=found, best=best, speed=speed, rate=rate)
        self._rank0_log.log(line if last else f"{line}  {duration(self._seconds_left())} left")
        if score is None or found is None:
            self._save(score)
        else:
            progress.wall_seconds = time.monotonic() - self._started
            with self._times.part("checkpoint"):
                self._checkpoints.add_validation(self._state, progress, score=score)
            self._telemetry.restore()

    def _save(self, score: float | None = None) -> None:
        self._progress.wall_seconds = time.monotonic() - self._started
        with self._times.part("checkpoint"):
            self._checkpoints.save(self._state, self._progress, score=score)
        self._telemetry.restore()

    def _evaluate_best(self) -> dict[str, Evaluation]:
        """Evaluates the run's best model on every split but ``train``."""
        best = tree.to(self._checkpoints.best_model(tree.to(self._state.model, "cpu")), self._backend.device)
        with self._times.part("evaluation"):
            found = self._evaluator.evaluate_all(best)
        self._telemetry.transcripts(self._evaluator.transcript_rows(found))
        return found
