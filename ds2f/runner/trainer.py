"""The training loop of one process: epochs, validation, checkpoints, results."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import torch

from ds2f import ctc, optim, precision, rng, tree
from ds2f.checkpoint import Checkpoints, load_model
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.optim import schedules
from ds2f.runner.backend import Backend, open_backend
from ds2f.runner.evaluator import Evaluation, as_results, evaluate
from ds2f.runner.meter import Meter, Position
from ds2f.runner.splits import Split
from ds2f.runner.telemetry import Telemetry, duration
from ds2f.steps import init_state, objective, train_step
from ds2f.types import TrainState


class Stopped(KeyboardInterrupt):
    """The user asked the run to stop, and it did so cleanly; the message says how to go on."""


class Trainer:
    """Trains one model from one configuration into one run directory."""

    def __init__(self, cfg: Config, run_dir: Path, telemetry: Telemetry) -> None:
        """Opens the device and the data and makes the first state; nothing is trained yet."""
        self._telemetry = telemetry
        self._run_dir = run_dir
        self._backend: Backend = open_backend(cfg.device)
        engine = self._backend.engine if cfg.training.engine == "auto" else cfg.training.engine
        self._cfg = attrs.evolve(cfg, training=attrs.evolve(cfg.training, engine=engine))
        self._policy = precision.policy(cfg.apex.opt_level, self._backend.dtype(cfg.apex.dtype))
        self._criterion = partial(ctc.ctc_loss, impl=cfg.model.ctc)
        self._data = {split: self._open(split) for split in self._splits()}
        self._batches_per_epoch = self._data["train"].loader.steps
        self._schedule = schedules.from_config(
            cfg.optim,
            steps_per_epoch=self._batches_per_epoch,
            total_steps=self._batches_per_epoch * cfg.training.epochs,
            hidden_size=cfg.model.hidden_size,
        )
        self._tx = optim.from_config(cfg.optim, self._schedule, fused=self._backend.fused_optimizer)
        self._loss = objective(cfg.model, criterion=self._criterion, policy=self._policy)
        self._position = Position()
        self._checkpoints = Checkpoints(run_dir, keep=cfg.checkpointing.save_n_recent_models)
        self._state = self._backend.place_state(self._first_state())
        self._meter = Meter(
            self._position,
            frame_seconds=cfg.spect.window_stride,
            name=lambda row: str(self._data["train"].utterances[row].audio),
            say=telemetry.say,
        )

    def run(self) -> dict[str, Any]:
        """Trains to the end and returns what ``results.json`` holds.

        Raises:
          Stopped: after Ctrl-C, when the checkpoint is written.
        """
        started = time.monotonic()
        self._greet()
        with _stop_on_interrupt() as interrupted:
            while self._position.epoch < self._cfg.training.epochs and not self._reached_max_steps():
                finished = self._train_epoch(interrupted)
                if interrupted:
                    self._save()
                    raise Stopped(self._how_to_go_on())
                if finished:
                    self._position.epoch, self._position.batch = self._position.epoch + 1, 0
                self._finish_epoch()
        self._checkpoints.close()
        results = self._finish(time.monotonic() - started)
        for split in self._data.values():
            split.loader.close()
        return results

    def _splits(self) -> list[str]:
        return ["train", "val"] + (["test"] if self._cfg.training.evaluate_test else [])

    def _open(self, name: str) -> Split:
        split = Split.open(name, self._cfg, train=name == "train", pin_memory=self._backend.name == "cuda")
        for remark in split.dataset.remarks:
            self._telemetry.say(f"{name}: {remark}")
        return split

    def _first_state(self) -> TrainState:
        cfg = self._cfg
        state = init_state(cfg, self._tx, key=cfg.training.seed)
        newest = self._checkpoints.find("last") if cfg.checkpointing.load_auto_checkpoint else None
        if newest is not None:
            state, position = self._checkpoints.restore(newest, state)
            self._position = Position(**position)
            self._telemetry.say(
                f"going on from checkpoint {newest}: epoch {self._position.epoch + 1}, batch {self._position.batch + 1}"
            )
        elif cfg.checkpointing.continue_from:
            source, params, stats = load_model(cfg.checkpointing.continue_from)
            if source.model.labels != cfg.model.labels or source.model != attrs.evolve(
                cfg.model, dropout=source.model.dropout, kernel=source.model.kernel, ctc=source.model.ctc
            ):
                raise InputError(
                    f"--checkpointing.continue_from={cfg.checkpointing.continue_from} is another model; "
                    f"take the --model flags from {cfg.checkpointing.continue_from}/flags.txt"
                )
            state = state._replace(params=params, stats=stats, opt_state=self._tx.init(params))
            self._telemetry.say(f"starting from the weights of {cfg.checkpointing.continue_from}")
        return state

    def _greet(self) -> None:
        cfg, data = self._cfg, self._data["train"]
        parameters = tree.size(self._state.params)
        self._telemetry.say(
            f"{self._run_dir}: {cfg.model.hidden_layers} x {cfg.model.hidden_size} "
            f"{'bidirectional ' if cfg.model.bidirectional else ''}{cfg.model.rnn_type}, "
            f"{parameters / 1e6:.1f} M parameters, {self._amp()}, {self._backend.description}"
        )
        self._telemetry.say(
            f"{len(data.dataset.examples)} training utterances ({duration(data.seconds)}), "
            f"{len(self._data['val'].dataset.examples)} for validation; "
            f"{self._batches_per_epoch} steps of {self._global_batch()} an epoch, {cfg.training.epochs} epochs"
        )
        if cfg.nproc_per_node > 1:
            self._telemetry.say(
                f"one process takes the batches of all {cfg.nproc_per_node} cards: others do not run yet"
            )

    def _train_epoch(self, interrupted: list[bool]) -> bool:
        """Runs the rest of the current epoch; returns whether it came to the epoch's end."""
        position, cfg, meter = self._position, self._cfg, self._meter
        description = f"epoch {position.epoch + 1}/{cfg.training.epochs}"
        batches = self._data["train"].loader.epoch(position.epoch, start=position.batch)
        with self._telemetry.progress(description, self._batches_per_epoch, position.batch) as bar:
            meter.restart()
            for batch in batches:
                self._state, metrics = train_step(
                    self._state,
                    self._backend.place(batch),
                    loss=self._loss,
                    tx=self._tx,
                    cfg=cfg,
                    key=rng.fold_in(cfg.training.seed, "step", position.epoch, position.batch),
                    donate=True,
                )
                meter.count(batch, metrics)
                bar.advance(self._log() if position.iteration % cfg.training.log_every == 0 else None)
                if interrupted or self._reached_max_steps():
                    break
                every = cfg.checkpointing.checkpoint_per_iteration
                if every and position.iteration % every == 0:
                    self._log()
                    self._save()
                    meter.resume_clock()
            self._log()
        return position.batch >= self._batches_per_epoch

    def _reached_max_steps(self) -> bool:
        return 0 < self._cfg.training.max_steps <= self._position.iteration

    def _log(self) -> str | None:
        """Reads the metrics of the steps since the last reading, logs them, and returns the bar's text."""
        values = self._meter.read()
        if not values:
            return None
        values["learning_rate"] = self._learning_rate()
        self._telemetry.scalars("train", self._position.iteration, values)
        return (
            f"loss {values['loss']:.2f}  lr {values['learning_rate']:.2e}  "
            f"{values['utterances_per_second']:.1f} utt/s  {duration(self._seconds_left())} left"
        )

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
        self._telemetry.say(f"{line}  {speed:.1f} utt/s  lr {values['learning_rate']:.2e}{left}")
        self._save(score)

    def _save(self, score: float | None = None) -> None:
        self._checkpoints.save(self._position.iteration, self._state, attrs.asdict(self._position), score=score)

    def _how_to_go_on(self) -> str:
        return (
            f"stopped in epoch {self._position.epoch + 1} after batch {self._position.batch}; everything is kept. "
            f"Go on with: python -m launch.train --flagfile={self._run_dir / 'flags.txt'} --run_dir={self._run_dir} "
            "--checkpointing.load_auto_checkpoint"
        )

    def _amp(self) -> str:
        names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
        return f"{self._cfg.apex.opt_level} {names[self._policy.compute]}"

    def _global_batch(self) -> int:
        return self._cfg.data.batch_size * self._cfg.nproc_per_node

    def _finish(self, wall_seconds: float) -> dict[str, Any]:
        """Evaluates the best model of the run and writes the results."""
        position, cfg = self._position, self._cfg
        _, params, stats = load_model(self._run_dir, which="best")
        self._state = self._backend.place_state(self._state._replace(params=params, stats=stats))
        seconds = max(position.training_seconds, 1e-9)
        results: dict[str, Any] = {
            "name": self._run_dir.name,
            "ranks": 1,
            "device": self._backend.description,
            "amp": self._amp(),
            "torch": torch.__version__,
            "seed": cfg.training.seed,
            "epochs": position.epoch,
            "steps": int(self._state.step),
            "skipped_steps": position.skipped_steps,
            "batch_size": self._global_batch(),
            "wall_seconds": round(wall_seconds, 1),
            "utterances_per_second": round(position.utterances / seconds, 3),
            "audio_seconds_per_second": round(position.audio_seconds / seconds, 3),
        }
        for split in self._splits()[1:]:
            results[split] = as_results(self._evaluate(split).counts)
        self._telemetry.results(results)
        return results


@contextmanager
def _stop_on_interrupt() -> Iterator[list[bool]]:
    """Collects Ctrl-C in a list, which becomes true; a second Ctrl-C interrupts at once."""
    asked: list[bool] = []

    def handler(_: int, __: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt("stopped at once: what was done since the last checkpoint is lost")
        asked.append(True)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
