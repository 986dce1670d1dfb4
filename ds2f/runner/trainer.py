"""The training loop of one rank: epochs, validation, checkpoints, results. All ranks run it in step."""

import itertools
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ds2f import ctc, optim, rng, tree
from ds2f.config import Config
from ds2f.optim import schedules
from ds2f.runner import health
from ds2f.runner.device.backend import Backend, open_backend
from ds2f.runner.distributed import consistency
from ds2f.runner.distributed.collectives import ALONE, Group
from ds2f.runner.distributed.signals import Stopped, stop_on_request
from ds2f.runner.evaluator import Evaluation, evaluate
from ds2f.runner.progress import Meter, TrainProgress
from ds2f.runner.rank0_checkpoints import RankZeroCheckpoints
from ds2f.runner.rank0_log import RankZeroLog
from ds2f.runner.splits import Split, contents, micro_batches
from ds2f.runner.summary import Summary
from ds2f.runner.telemetry import Telemetry, duration
from ds2f.steps import init_state, objective, train_step
from ds2f.types import Batch, Params, Stats, TrainState


class _Asked(Exception):  # noqa: N818  # no error
    """Some rank was asked to stop."""


class Trainer:
    """Trains one model from one configuration into one run directory, on one rank of a group."""

    def __init__(
        self,
        cfg: Config,
        run_dir: Path,
        telemetry: Telemetry,
        *,
        group: Group = ALONE,
        backend: Backend | None = None,
    ) -> None:
        """Opens the data and makes the first state; nothing is trained yet.

        Args:
          cfg: a resolved configuration, the same on all ranks as far as it decides numbers.
          run_dir: the run's folder, which only rank 0 touches.
          telemetry: this rank's voice.
          group: the ranks.
          backend: this rank's device; None opens the one that ``cfg.device`` names.

        Raises:
          InputError: when something that the configuration names cannot be used, or the ranks do not agree.
        """
        self._telemetry, self._group, self._run_dir = telemetry, group, run_dir
        self._rank0_log = RankZeroLog(telemetry, group)
        self._asked: list[int] = []  # signals that asked to stop
        self._saved_at = self._started = time.monotonic()
        self._backend = backend or open_backend(cfg.device)
        self._cfg = cfg
        self._policy = self._backend.policy(cfg.apex)
        facts = {"the type of fast arithmetic": str(self._policy.compute), **consistency.flags(self._cfg)}
        consistency.require(group, facts, remedy="Give all machines the same flags and the same version.")
        self._summary = Summary(self._cfg, run_dir, self._policy, group.size, self._backend)
        self._criterion = partial(ctc.ctc_loss, impl=cfg.model.ctc)
        self._data = {split: self._open(split) for split in self._splits()}
        consistency.require(group, contents(self._data), remedy="Give all machines the same data.")
        self._batches_per_epoch = self._data["train"].loader.steps
        self._schedule = schedules.from_config(
            cfg.optim,
            steps_per_epoch=self._batches_per_epoch,
            total_steps=self._batches_per_epoch * cfg.training.epochs,
            hidden_size=cfg.model.hidden_size,
        )
        self._tx = optim.from_config(cfg.optim, self._schedule, fused=self._backend.fused_optimizer)
        reduce_moments = {"reduce_moments": group.all_reduce} if cfg.model.sync_batch_norm else {}
        self._loss = objective(
            cfg.model,
            criterion=self._criterion,
            policy=self._policy,
            augmentation=cfg.augmentation,
            **reduce_moments,
        )
        self._checkpoints = RankZeroCheckpoints(run_dir, cfg, group, warn=telemetry.say)
        state, self._position = self._first_state()
        self._state = self._backend.place_state(state)
        self._meter = Meter(
            self._position,
            frame_seconds=cfg.spect.window_stride,
            name=lambda row: str(self._data["train"].utterances[row].audio),
            say=self._rank0_log.say,
            gather=group.gather,
        )

    def run(self) -> dict[str, Any]:
        """Trains to the end and returns what ``results.json`` holds.

        Raises:
          Stopped: on request, when the checkpoint is written.
          DivergedError: when there is no more use in it.
        """
        self._started = time.monotonic() - self._position.wall_seconds
        for line in self._summary.greeting(self._data, parameters=tree.size(self._state.params)):
            self._rank0_log.say(line)
        with stop_on_request() as self._asked:
            try:
                while not self._finished():
                    self._train_epoch()
                    self._finish_epoch()
                evaluations = self._evaluate_best()
            except _Asked:
                self._save()
                kept = self._checkpoints.close()
                status = 128 + (self._asked[0] if self._asked else signal.SIGINT)
                raise Stopped(self._summary.how_to_go_on(self._position, kept=kept), status) from None
        results = self._summary.results(
            self._position, evaluations, steps=int(self._state.step), wall_seconds=time.monotonic() - self._started
        )
        self._rank0_log.relay()
        self._rank0_log.say_left_out(self._data["train"].loader.unreadable.values())
        self._telemetry.results(results)
        self._checkpoints.close()
        for split in self._data.values():
            split.loader.close()
        return results

    def _splits(self) -> list[str]:
        """The sets that are opened: what is trained on, and what is evaluated at the end."""
        val = [] if self._cfg.data.train_on_val else ["val"]
        return ["train", *val] + (["test"] if self._cfg.training.evaluate_test else [])

    def _open(self, name: str) -> Split:
        split = Split.open(
            name,
            self._cfg,
            train=name == "train",
            rank=self._group.rank,
            ranks=self._group.size,
            pin_memory=self._backend.pin_memory,
            start_method=self._backend.start_method,
        )
        for remark in split.dataset.remarks:
            self._rank0_log.say(f"{name}: {remark}")
        return split

    def _first_state(self) -> tuple[TrainState, TrainProgress]:
        cfg, position = self._cfg, TrainProgress()
        state = init_state(cfg, self._tx, key=cfg.training.seed)
        newest = None
        if cfg.checkpointing.load_auto_checkpoint:
            state, position, newest = self._checkpoints.resume(state)
            self._telemetry.rewind(position.iteration, in_epoch=position.batch > 0)
        if newest is not None:
            self._rank0_log.say(
                f"going on from checkpoint {newest}: {position.epoch} epochs and {position.batch} batches are done"
            )
        elif cfg.checkpointing.continue_from:
            state, new = self._checkpoints.weights_of(cfg.checkpointing.continue_from, state, init=self._tx.init)
            labels = f"; the output layer is new for {', '.join(map(repr, new))}" if new else ""
            self._rank0_log.say(f"starting from the weights of {cfg.checkpointing.continue_from}{labels}")
        return state, position

    def _finished(self) -> bool:
        return self._position.epoch >= self._cfg.training.epochs or self._reached_max_steps()

    def _train_epoch(self) -> None:
        """Runs the rest of the current epoch.

        Raises:
          _Asked: when some rank was asked to stop.
        """
        position, cfg, meter = self._position, self._cfg, self._meter
        description = f"epoch {position.epoch + 1}/{cfg.training.epochs}"
        with self._telemetry.progress(description, self._batches_per_epoch, position.batch) as bar:
            meter.restart()
            for batches in self._shares():
                self._group.beat(position.iteration)
                self._backend.clear_overflow()
                self._state, metrics = train_step(
                    self._state,
                    [self._backend.place(batch) for batch in batches],
                    loss=self._loss,
                    tx=self._tx,
                    collectives=self._group,
                    cfg=cfg,
                    key=rng.fold_in(cfg.training.seed, "step", position.epoch, position.batch),
                    donate=True,
                    overflowed=self._backend.overflowed if self._backend.saturates else None,
                )
                meter.count(batches, metrics)
                bar.advance(self._log() if position.iteration % cfg.training.log_every == 0 else None)
                self._heed_requests()
                if self._reached_max_steps():
                    break
                if position.batch < self._batches_per_epoch and self._checkpoint_is_due():
                    self._log()
                    self._save()
                    meter.resume_clock()
            self._log()

    def _heed_requests(self) -> None:
        """Raises ``_Asked`` on every rank when one of them was asked to stop."""
        if self._group.vote(bool(self._asked)).result():
            self._log()
            raise _Asked

    def _checkpoint_is_due(self) -> bool:
        every, minutes = (
            self._cfg.checkpointing.checkpoint_per_iteration,
            self._cfg.checkpointing.checkpoint_per_minutes,
        )
        if every and self._position.iteration % every == 0:
            return True
        if not minutes:
            return False
        late = self._group.rank == 0 and time.monotonic() - self._saved_at >= 60 * minutes  # one clock decides
        return self._group.vote(late).result()

    def _shares(self) -> Iterator[list[Batch]]:
        """This rank's part of each step that the epoch still has: its micro-batches."""
        batches = self._data["train"].loader.epoch(self._position.epoch, start=self._position.batch)
        size = micro_batches(self._cfg, self._group.size)
        return iter(lambda: list(itertools.islice(batches, size)), [])

    def _reached_max_steps(self) -> bool:
        return 0 < self._cfg.training.max_steps <= self._position.iteration

    def _log(self) -> str | None:
        """Reads the metrics of the steps since the last reading, logs them, and returns the bar's text."""
        values = self._meter.read()
        if not values:
            return None
        self._rank0_log.relay()
        values["learning_rate"] = self._learning_rate()
        self._telemetry.scalars("train", self._position.iteration, values)
        health.require_progress(self._position, values["loss_scale"], self._cfg)
        if health.spiked(self._position, values["loss"], self._cfg.training.rollback_spike):
            self._roll_back(values["loss"])
        return (
            f"loss {values['loss']:.2f}  lr {values['learning_rate']:.2e}  "
            f"{values['utterances_per_second']:.1f} utt/s  {duration(self._seconds_left())} left"
        )

    def _roll_back(self, loss: float) -> None:
        """Takes the state of the newest checkpoint and goes on with the data that follow."""
        state, _, newest = self._checkpoints.resume(tree.to(self._state, "cpu"))
        if newest is not None:
            self._state = self._backend.place_state(state)
            self._rank0_log.say(
                f"step {self._position.iteration}: the loss rose to {loss:.2f}, more than "
                f"{self._cfg.training.rollback_spike:g} times what it was of late; back to the state of checkpoint "
                f"{newest}, on with the data that follow"
            )

    def _learning_rate(self) -> float:
        return float(self._schedule(self._state.step))

    def _seconds_left(self) -> float:
        total = self._batches_per_epoch * self._cfg.training.epochs
        if self._cfg.training.max_steps:
            total = min(total, self._cfg.training.max_steps)
        return (total - self._position.iteration) * self._position.training_seconds / max(self._position.iteration, 1)

    def _evaluate(self, split: str, model: tuple[Params, Stats]) -> Evaluation:
        data = self._data[split]
        return evaluate(
            *model,
            data.loader.epoch(),
            data.references,
            cfg=self._cfg.model,
            policy=self._policy,
            backend=self._backend,
            criterion=self._criterion,
            group=self._group,
            between=self._heed_requests,
        )

    def _finish_epoch(self) -> None:
        """Validates when it is due, keeps a checkpoint, and says how the epoch went."""
        cfg, position, meter = self._cfg, self._position, self._meter
        whole = position.batch >= self._batches_per_epoch
        epochs = position.epoch + whole
        last = epochs >= cfg.training.epochs or self._reached_max_steps()
        due = "val" in self._data and (last or epochs % cfg.training.validate_every == 0)
        found = self._evaluate("val", self._state.model) if due else None
        if whole:
            position.epoch, position.batch = epochs, 0
        values: dict[str, Any] = {"epoch": epochs, "train_loss": meter.loss, "learning_rate": self._learning_rate()}
        score, best = None, False
        if found is not None:
            # Word errors decide; among equals, character errors do.
            score = found.counts.wer + 1e-4 * found.counts.cer
            best = score < position.best_score
            position.best_score = min(score, position.best_score)
            values |= {"val_loss": found.loss, "val_wer": found.counts.wer, "val_cer": found.counts.cer}
        elif "val" not in self._data:
            score = -position.iteration  # the last epoch is the best, and what was saved in mid-epoch does not count
        speed, rate = meter.utterances_per_second, values["learning_rate"]
        self._telemetry.scalars(
            "epoch", position.iteration, values | {"utterances_per_second": speed, "seconds": position.training_seconds}
        )
        line = self._summary.epoch(position, loss=meter.loss, found=found, best=best, speed=speed, rate=rate)
        self._rank0_log.say(line if last else f"{line}  {duration(self._seconds_left())} left")
        self._save(score)

    def _save(self, score: float | None = None) -> None:
        consistency.require_same_params(self._group, {"params": self._state.params, "average": self._state.average})
        self._position.wall_seconds = time.monotonic() - self._started
        self._checkpoints.save(self._state, self._position, score=score)
        self._saved_at = time.monotonic()

    def _evaluate_best(self) -> dict[str, Evaluation]:
        """Evaluates the best model of the run on every set but the training set."""
        best = tree.to(self._checkpoints.best_model(tree.to(self._state.model, "cpu")), self._backend.device)
        return {split: self._evaluate(split, best) for split in self._splits()[1:]}
