"""What rank 0 keeps for all: it alone writes and reads checkpoints, and hands what it read to the other ranks.

So the other ranks need neither access to the run's folder nor orbax, and all of them start from the same bits.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from ds2f import optim, rng
from ds2f.checkpoint import Checkpoints, load_model
from ds2f.config import Config
from ds2f.convert import with_labels
from ds2f.errors import InputError
from ds2f.runner.distributed.collectives import Group
from ds2f.runner.progress import TrainProgress
from ds2f.types import Params, Stats, TrainState


class RankZeroCheckpoints:
    """The checkpoints of a run, for every rank of it. All ranks call every method, in the same order."""

    def __init__(self, run_dir: Path, cfg: Config, group: Group, *, warn: Callable[[str], None]) -> None:
        """Opens the run's checkpoints on rank 0.

        Args:
          run_dir: the run's folder.
          cfg: the run's configuration.
          group: the ranks.
          warn: told of checkpoints that could not be written, and of damaged ones that are passed over.
        """
        self._run_dir, self._cfg, self._group, self._warn = run_dir, cfg, group, warn
        self._checkpoints = None
        if group.rank == 0:
            self._checkpoints = Checkpoints(
                run_dir,
                keep=cfg.checkpointing.save_n_recent_models,
                keep_best=cfg.checkpointing.average_models,
                folder=cfg.checkpointing.folder,
                cfg=cfg,
                warn=warn,
            )
            others = cfg.checkpointing.folder and not cfg.checkpointing.load_auto_checkpoint
            if others and self._checkpoints.find_all("last"):
                self._checkpoints.close()
                raise InputError(
                    f"--checkpointing.folder={cfg.checkpointing.folder} holds the checkpoints of a run. Go on with it: "
                    "--checkpointing.load_auto_checkpoint and its --run_dir. Otherwise give another folder."
                )

    def resume(self, fresh: TrainState) -> tuple[TrainState, TrainProgress, int | None]:
        """The state of the newest checkpoint on every rank, or ``fresh`` where there is none.

        Args:
          fresh: the state before the first step, on the CPU.

        Returns:
          The state, the position, and the number of the checkpoint that they are from.
        """
        state, position, newest = fresh, TrainProgress(), None
        if self._checkpoints is not None:
            newest = self._checkpoints.find("last")
            if newest is not None:
                state, stored = self._checkpoints.restore(newest, fresh)
                position = TrainProgress(**stored)
                if not self._cfg.apex.dynamic:
                    state = state._replace(loss_scale=fresh.loss_scale)  # what the flag says now
        newest, values = self._group.gather((newest, attrs.asdict(position)))[0]
        return self._group.broadcast(state), TrainProgress(**values), newest

    def weights_of(self, other: Path | str, fresh: TrainState, *, init: Any) -> tuple[TrainState, tuple[str, ...]]:
        """The best weights of another run on every rank, with a new optimizer state and averages that start there.

        Args:
          other: the other run's folder; only rank 0 reads it.
          fresh: the state before the first step, on the CPU.
          init: makes the optimizer's state of parameters.

        Returns:
          The state, and the labels that the other run did not have, which ``training.finetune`` allows.

        Raises:
          InputError: when there is no such run, or it holds another model or one for other spectrograms.
        """
        params, stats = fresh.params, fresh.stats
        new: tuple[str, ...] = ()
        if self._group.rank == 0:
            source, params, stats = load_model(other)
            if source.model.labels != self._cfg.model.labels and not self._cfg.training.finetune:
                raise InputError(
                    f"--checkpointing.continue_from={other} has other labels: give --data.labels_path as that run "
                    "had it, or --training.finetune for a new output layer."
                )
            was, wanted = attrs.asdict(source.spect), attrs.asdict(self._cfg.spect)
            if was != wanted:
                flags = " ".join(f"--spect.{name}={value}" for name, value in was.items() if wanted[name] != value)
                raise InputError(
                    f"--checkpointing.continue_from={other} has learnt from other spectrograms: give {flags} as well."
                )
            key = rng.fold_in(self._cfg.training.seed, "init")
            params, new = with_labels(source.model, params, self._cfg.model, key=key)
        params, stats = self._group.broadcast((params, stats))
        average = optim.average.init(params, stats) if fresh.average else ()
        return fresh._replace(params=params, stats=stats, opt_state=init(params), average=average), new

    def save(self, state: TrainState, position: TrainProgress, *, score: float | None = None) -> None:
        """Writes a checkpoint on rank 0; the others go on."""
        if self._checkpoints is not None:
            self._checkpoints.save(position.iteration, state, attrs.asdict(position), score=score)

    def best_model(self, like: tuple[Params, Stats]) -> tuple[Params, Stats]:
        """The model with the best score (the last epoch's, without a validation set), or the mean of the best
        ``checkpointing.average_models``.

        Args:
          like: the model after the last step, on the CPU; it is the best where no checkpoint could be written.

        Returns:
          The same on every rank.
        """
        if self._checkpoints is not None:
            self._checkpoints.wait()
            if self._checkpoints.iterations():
                _, *best = load_model(self._run_dir, which=f"best:{self._cfg.checkpointing.average_models}")
                like = best[0], best[1]
            else:
                self._warn("no checkpoint could be written, so the results are those of the last step's weights")
        params, stats = self._group.broadcast(like)
        return params, stats

    def close(self) -> bool:
        """Waits for the last checkpoint and returns whether it was written; rank 0 knows, the others say yes."""
        return self._checkpoints is None or self._checkpoints.close()
