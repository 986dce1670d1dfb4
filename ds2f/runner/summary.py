"""The texts of a run: greeting, epoch lines, ``results.json``, and the advice after a request to stop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from ds2f.config import Config
from ds2f.metrics import Rate
from ds2f.optim import schedules
from ds2f.precision import short_name
from ds2f.processes import cpu_count
from ds2f.runner import epoch_table
from ds2f.runner.evaluator import Evaluation, split_results
from ds2f.runner.program import Program, run_length
from ds2f.runner.progress import TrainProgress
from ds2f.runner.splits import Split, global_batch, micro_batches
from ds2f.runner.telemetry import duration


@attrs.frozen
class Summary:
    """Makes the texts of one run."""

    program: Program
    run_dir: Path
    first: Rate = "wer"  # the deciding error rate

    @property
    def cfg(self) -> Config:
        """The configuration."""
        return self.program.cfg

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return self.program.group.size

    @property
    def amp(self) -> str:
        """The optimisation level and the compute dtype, as in ``O2 bf16``."""
        return f"{self.cfg.apex.opt_level} {short_name(self.program.policy.compute)}"

    def greeting(self, data: Mapping[str, Split], *, parameters: int, steps: int) -> list[str]:
        """The first lines of a run's log: model and device, data, manifests, and warnings.

        Warnings: the run ends before the learning rate has reached its peak; half precision is slow here.

        Args:
          data: the splits by name.
          parameters: number of parameters.
          steps: steps per epoch.
        """
        cfg, ranks = self.cfg, self.ranks
        shards = ranks * micro_batches(cfg, ranks)
        utterances, length = len(data["train"].dataset.examples), duration(data["train"].seconds)
        if "val" in data:
            sets = f"{utterances} training utterances ({length}), {len(data['val'].dataset.examples)} for validation"
        else:
            sets = f"{utterances} utterances ({length}), the validation set included; no validation"
        lines = [
            f"{self.run_dir}: {cfg.model.hidden_layers} x {cfg.model.hidden_size} "
            f"{'bidirectional ' if cfg.model.bidirectional else ''}{cfg.model.rnn_type}, "
            f"{parameters / 1e6:.1f} M parameters, {self.amp}, "
            f"{f'{ranks} ranks, each ' if ranks > 1 else ''}{self.program.backend.description}",
            f"{sets}; {steps} steps of {'at most ' if cfg.data.max_frames else ''}{global_batch(cfg, ranks)} per epoch"
            f"{f' in {shards} shards' if shards > 1 else ''}, {cfg.training.epochs} epochs",
        ]
        lines.append("manifests: " + "; ".join(f"{name} {path}" for name, path in manifests_of(data).items()))
        optimizer_steps = {"total_steps": steps * cfg.training.epochs, "steps": run_length(cfg, steps)}
        if warning := schedules.warmup_problem(cfg.optim, **optimizer_steps):
            lines.append(warning)
        if self.program.backend.name == "cpu" and cfg.node_range == (1, 1) and ranks > max(cpu_count(), 1):
            lines.append(
                f"{ranks} processes share {cpu_count()} processors, and gain nothing from it: "
                f"--nproc_per_node={cpu_count()}"
            )
        compute = self.program.policy.compute
        if compute != self.program.backend.fast_dtype == torch.float32:
            lines.append(
                f"{short_name(compute)} is slower than fp32 on this processor, matrix products many times; "
                "--apex.dtype=auto chooses a fast type"
            )
        return lines

    def epoch(
        self, progress: TrainProgress, *, loss: float, found: Evaluation | None, best: bool, speed: float, rate: float
    ) -> str:
        """The log line of an epoch, or of the part of it that was run.

        Args:
          progress: after the epoch.
          loss: mean training loss, natural log.
          found: the validation, if there was any.
          best: whether the model is the best so far, marked by a star.
          speed: utterances per second of all ranks.
          rate: learning rate.
        """
        validation = ""
        if found is not None:
            validation = f"val loss {found.loss:.3f}  {found.counts.rates(self.first)}"
            validation += f" ({found.unreadable} unreadable, left out)" if found.unreadable else ""
        return epoch_table.line(
            f"{progress.epoch}/{self.cfg.training.epochs}",
            progress.batch,
            loss=loss,
            validation=validation,
            best=best,
            speed=speed,
            rate=rate,
        )

    def results(
        self,
        progress: TrainProgress,
        data: Mapping[str, Split],
        evaluations: dict[str, Evaluation],
        *,
        steps: int,
        wall_seconds: float,
    ) -> dict[str, Any]:
        """The content of ``results.json``; launch/README.md defines the fields.

        Args:
          progress: at the end of the run.
          data: the splits by name.
          evaluations: by split.
          steps: steps that changed the model.
          wall_seconds: of the whole run.
        """
        seconds = max(progress.training_seconds, 1e-9)
        found: dict[str, Any] = {
            "name": self.run_dir.name,
            "ranks": self.ranks,
            "device": self.program.backend.description,
            "amp": self.amp,
            "torch": torch.__version__,
            "seed": self.cfg.training.seed,
            "epochs": progress.epoch,
            "steps": steps,
            "skipped_steps": progress.skipped_steps,
            "batch_size": global_batch(self.cfg, self.ranks),
            "metric": self.first,
            "manifests": manifests_of(data),
            "wall_seconds": round(wall_seconds, 1),
            "utterances_per_second": round(progress.utterances / seconds, 3),
            "audio_seconds_per_second": round(progress.audio_seconds / seconds, 3),
        }
        return found | {split: split_results(evaluation) for split, evaluation in evaluations.items()}

    def how_to_go_on(self, progress: TrainProgress, *, saved: bool) -> str:
        """The last message of a run that stopped on request; ``saved``: whether the checkpoint could be written."""
        state = "everything is kept" if saved else "the steps after the last checkpoint are lost"
        return (
            f"stopped in epoch {progress.epoch + 1} after batch {progress.batch}; {state}. "
            f"Go on with: python -m launch.train --flagfile={self.run_dir / 'flags.txt'} --run_dir={self.run_dir} "
            "--checkpointing.load_auto_checkpoint"
        )


def manifests_of(data: Mapping[str, Split]) -> dict[str, str]:
    """The paths of the splits' manifests, by split."""
    return {name: split.manifest for name, split in data.items()}
