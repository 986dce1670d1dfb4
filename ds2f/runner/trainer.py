"""The training loop of one rank: epochs, validation, checkpoints, results. All ranks run it in step."""

import itertools
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch

from ds2f import ctc, optim, precision, rng, tree
from ds2f.config import Config
from ds2f.optim import schedules
from ds2f.runner import agreement
from ds2f.runner.backend import Backend, open_backend
from ds2f.runner.collectives import ALONE, Group
from ds2f.runner.evaluator import Evaluation, as_results, evaluate
from ds2f.runner.keeper import Keeper
from ds2f.runner.meter import Meter, Position
from ds2f.runner.signals import Stopped, stop_on_interrupt
from ds2f.runner.splits import Split, global_batch, micro_batches
from ds2f.runner.telemetry import Telemetry, duration
from ds2f.steps import init_state, objective, train_step
from ds2f.types import Batch, TrainState


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
        self._backend = backend or open_backend(cfg.device)
        engine = self._backend.engine if cfg.training.engine == "auto" else cfg.training.engine
        self._cfg = attrs.evolve(cfg, training=attrs.evolve(cfg.training, engine=engine))
        self._policy = precision.policy(cfg.apex.opt_level, self._backend.dtype(cfg.apex.dtype))
        facts = {"the type of fast arithmetic": str(self._policy.compute), **agreement.flags(self._cfg)}
        agreement.require(group, facts, remedy="Give all machines the same flags and the same version.")
        self._criterion = partial(ctc.ctc_loss, impl=cfg.model.ctc)
        self._data = {split: self._open(split) for split in self._splits()}
        agreement.require(group, agreement.contents(self._data), remedy="Give all machines the same data.")
        self._batches_per_epoch = self._data["train"].loader.steps
        self._schedule = schedules.from_config(
            cfg.optim,
            steps_per_epoch=self._batches_per_epoch,
            total_steps=self._batches_per_epoch * cfg.training.epochs,
            hidden_size=cfg.model.hidden_size,
        )
        self._tx = optim.from_config(cfg.optim, self._schedule, fused=self._backend.fused_optimizer)
        reduce_moments = {"reduce_moments": group.all_reduce} if cfg.model.sync_batch_norm else {}
        self._loss = objective(cfg.model, criterion=self._criterion, policy=self._policy, **reduce_moments)
        self._keeper = Keeper(run_dir, cfg, group)
        state, self._position = self._first_state()
        self._state = self._backend.place_state(state)
        self._meter = Meter(
            self._position,
            frame_seconds=cfg.spect.window_stride,
            name=lambda row: str(self._data["train"].utterances[row].audio),
            say=telemetry.say if group.rank == 0 else lambda _: None,
            gather=group.gather,
        )

    def run(self) -> dict[str, Any]:
        """Trains to the end and returns what ``results.json`` holds.

        Raises:
          Stopped: after Ctrl-C, when the checkpoint is written.
        """
        started = time.monotonic()
        self._greet()
        with stop_on_interrupt() as interrupted:
            while self._position.epoch < self._cfg.training.epochs and not self._reached_max_steps():
                finished = self._train_epoch(interrupted)
                if finished is None:
                    self._save()
                    raise Stopped(self._how_to_go_on())
                if finished:
                    self._position.epoch, self._position.batch = self._position.epoch + 1, 0
                self._finish_epoch()
        self._keeper.close()
        results = self._finish(time.monotonic() - started)
        for split in self._data.values():
            split.loader.close()
        return results

    def _splits(self) -> list[str]:
        return ["train", "val"] + (["test"] if self._cfg.training.evaluate_test else [])

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
        if self._group.rank == 0:
            for remark in split.dataset.remarks:
                self._telemetry.say(f"{name}: {remark}")
        return split

    def _first_state(self) -> tuple[TrainState, Position]:
        cfg, position = self._cfg, Position()
        state = init_state(cfg, self._tx, key=cfg.training.seed)
        newest = None
        if cfg.checkpointing.load_auto_checkpoint:
            state, position, newest = self._keeper.resume(state)
        if newest is not None:
            self._say(f"going on from checkpoint {newest}: epoch {position.epoch + 1}, batch {position.batch + 1}")
        elif cfg.checkpointing.continue_from:
            state = self._keeper.weights_of(cfg.checkpointing.continue_from, state, init=self._tx.init)
            self._say(f"starting from the weights of {cfg.checkpointing.continue_from}")
        return state, position

    def _say(self, message: str) -> None:
        """Says once what all ranks know."""
        if self._group.rank == 0:
            self._telemetry.say(message)

    def _greet(self) -> None:
        cfg, data, ranks = self._cfg, self._data["train"], self._group.size
        parameters = tree.size(self._state.params)
        self._say(
            f"{self._run_dir}: {cfg.model.hidden_layers} x {cfg.model.hidden_size} "
            f"{'bidirectional ' if cfg.model.bidirectional else ''}{cfg.model.rnn_type}, "
            f"{parameters / 1e6:.1f} M parameters, {self._amp()}, "
            f"{f'{ranks} ranks, each ' if ranks > 1 else ''}{self._backend.description}"
        )
        parts = ranks * micro_batches(cfg, ranks)
        self._say(
            f"{len(data.dataset.examples)} training utterances ({duration(data.seconds)}), "
            f"{len(self._data['val'].dataset.examples)} for validation; "
            f"{self._batches_per_epoch} steps of {global_batch(cfg, ranks)} an epoch"
            f"{f' in {parts} shares' if parts > 1 else ''}, {cfg.training.epochs} epochs"
        )

    def _train_epoch(self, interrupted: list[bool]) -> bool | None:
        """Runs the rest of the current epoch.

        Returns:
          Whether it came to the epoch's end; None when some rank was asked to stop.
        """
        position, cfg, meter = self._position, self._cfg, self._meter
        description = f"epoch {position.epoch + 1}/{cfg.training.epochs}"
        stop = False
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
                stop = self._group.vote(bool(interrupted)).result()
                if stop or self._reached_max_steps():
                    break
                every = cfg.checkpointing.checkpoint_per_iteration
                if every and position.iteration % every == 0:
                    self._log()
                    self._save()
                    meter.resume_clock()
            self._log()
        return None if stop else position.batch >= self._batches_per_epoch

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
        self._relay()
        values["learning_rate"] = self._learning_rate()
        self._telemetry.scalars("train", self._position.iteration, values)
        return (
            f"loss {values['loss']:.2f}  lr {values['learning_rate']:.2e}  "
            f"{values['utterances_per_second']:.1f} utt/s  {duration(self._seconds_left())} left"
        )

    def _relay(self) -> None:
        """Says what the other ranks had to say; what several said, once."""
        lines = [line for said in self._group.gather(self._telemetry.take()) for line in said]
        for line in dict.fromkeys(lines):
            self._say(line)

    def _learning_rate(self) -> float:
        return float(self._schedule(self._state.step))

    def _seconds_left(self) -> float:
        total = self._batches_per_epoch * self._cfg.training.epochs
        if self._cfg.training.max_steps:
            total = min(total, self._cfg.training.max_steps)
        return (total - self._position.iteration) * self._position.training_seconds / max(self._position.iteration, 1)

    def _evaluate(self, split: str) -> Evaluation:
        data = self._data[split]
        return evaluate(
            self._state.params,
            self._state.stats,
            data.loader.epoch(),
            data.references,
            cfg=self._cfg.model,
            policy=self._policy,
            backend=self._backend,
            criterion=self._criterion,
            group=self._group,
        )

    def _finish_epoch(self) -> None:
        """Validates when it is due, keeps a checkpoint, and says how the epoch went."""
        position = self._position
        loss = self._meter.loss
        line = f"epoch {position.epoch}/{self._cfg.training.epochs}"
        line += f" and {position.batch} steps  loss {loss:.3f}" if position.batch else f"  loss {loss:.3f}"
        values: dict[str, Any] = {"epoch": position.epoch, "train_loss": loss, "learning_rate": self._learning_rate()}
        last = position.epoch >= self._cfg.training.epochs or self._reached_max_steps()
        score = None
        if last or position.epoch % self._cfg.training.validate_every == 0:
            found = self._evaluate("val")
            # Word errors decide; among equals, character errors do.
            score = found.counts.wer + 1e-4 * found.counts.cer
            values |= {"val_loss": found.loss, "val_wer": found.counts.wer, "val_cer": found.counts.cer}
            line += f"  val loss {found.loss:.3f}  WER {found.counts.wer:.2f} %  CER {found.counts.cer:.2f} %"
            if score < position.best_score:
                position.best_score = score
                line += " *"
        speed = self._meter.utterances_per_second
        values |= {"utterances_per_second": speed, "seconds": position.training_seconds}
        self._telemetry.scalars("epoch", position.iteration, values)
        left = "" if last else f"  {duration(self._seconds_left())} left"
        self._say(f"{line}  {speed:.1f} utt/s  lr {values['learning_rate']:.2e}{left}")
        self._save(score)

    def _save(self, score: float | None = None) -> None:
        agreement.require_same_params(self._group, self._state.params)
        self._keeper.save(self._state, self._position, score=score)

    def _how_to_go_on(self) -> str:
        return (
            f"stopped in epoch {self._position.epoch + 1} after batch {self._position.batch}; everything is kept. "
            f"Go on with: python -m launch.train --flagfile={self._run_dir / 'flags.txt'} --run_dir={self._run_dir} "
            "--checkpointing.load_auto_checkpoint"
        )

    def _amp(self) -> str:
        names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
        return f"{self._cfg.apex.opt_level} {names[self._policy.compute]}"

    def _finish(self, wall_seconds: float) -> dict[str, Any]:
        """Evaluates the best model of the run and writes the results."""
        position, cfg = self._position, self._cfg
        params, stats = self._keeper.best_model(tree.to((self._state.params, self._state.stats), "cpu"))
        self._state = self._backend.place_state(self._state._replace(params=params, stats=stats))
        seconds = max(position.training_seconds, 1e-9)
        results: dict[str, Any] = {
            "name": self._run_dir.name,
            "ranks": self._group.size,
            "device": self._backend.description,
            "amp": self._amp(),
            "torch": torch.__version__,
            "seed": cfg.training.seed,
            "epochs": position.epoch,
            "steps": int(self._state.step),
            "skipped_steps": position.skipped_steps,
            "batch_size": global_batch(cfg, self._group.size),
            "wall_seconds": round(wall_seconds, 1),
            "utterances_per_second": round(position.utterances / seconds, 3),
            "audio_seconds_per_second": round(position.audio_seconds / seconds, 3),
        }
        for split in self._splits()[1:]:
            results[split] = as_results(self._evaluate(split).counts)
        self._relay()
        self._telemetry.results(results)
        return results
