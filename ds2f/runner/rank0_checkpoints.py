"""Checkpoints of a job of several ranks: rank 0 writes and reads them, and broadcasts the state to the other ranks.

The other ranks need neither access to the run's folder nor orbax. All ranks start from the same bits.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from ds2f import optim, rng
from ds2f.adapt import one_directional, with_labels
from ds2f.checkpoint import Checkpoints, load_model, require_finite
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.distributed import consistency
from ds2f.runner.distributed.collectives import Group
from ds2f.runner.progress import TrainProgress
from ds2f.types import Params, Stats, TrainState


class RankZeroCheckpoints:
    """The checkpoints of a run. All ranks call every method, in the same order."""

    def __init__(
        self,
        run_dir: Path,
        cfg: Config,
        group: Group,
        *,
        warn: Callable[[str], None],
        require_lease: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes the run's checkpoints on rank 0. Writes nothing.

        Args:
          run_dir: the run's folder.
          cfg: the run's configuration.
          group: the ranks.
          warn: logs a message about a checkpoint that could not be written, or is damaged and skipped.
          require_lease: called on rank 0 before each write; raises when another job has taken the folder over.

        Raises:
          InputError: on rank 0, when ``checkpointing.folder`` holds the checkpoints of another run.
        """
        self._run_dir, self._cfg, self._group, self._warn = run_dir, cfg, group, warn
        self._require_lease = require_lease
        self._saved_at, self._saved = time.monotonic(), (-1, False)  # the last checkpoint: iteration, unvalidated
        self._score: float | None = None  # of a checkpoint that ``save`` has begun and not written
        self._whole = True  # whether the last checkpoint could be written, as far as it was waited for
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
        """Returns the state of the newest checkpoint, or ``fresh`` if there is no checkpoint.

        Args:
          fresh: the state before the first step, on the CPU.

        Returns:
          The state on the CPU, the progress, and the checkpoint's number (None without a checkpoint); the same on every
          rank.
        """
        state, progress, newest = fresh, TrainProgress(), None
        if self._checkpoints is not None:
            newest = self._checkpoints.find("last")
            if newest is not None:
                state, stored = self._checkpoints.restore(newest, fresh)
                require_finite(f"checkpoint {newest} of {self._run_dir}", (state.params, state.stats))
                progress = TrainProgress(**stored)
                if not self._cfg.apex.dynamic:
                    state = state._replace(loss_scale=fresh.loss_scale)  # the flag may have a new value
        newest, values = self._group.gather((newest, attrs.asdict(progress)))[0]
        state, progress = self._group.broadcast(state), TrainProgress(**values)
        if newest is not None:
            self._saved = progress.iteration, progress.unvalidated
        return state, progress, newest

    def weights_of(self, other: Path | str, fresh: TrainState, *, init: Any) -> tuple[TrainState, tuple[str, ...]]:
        """Returns a fresh state with the best weights of another run; averages start at these weights.

        Args:
          other: the other run's folder; only rank 0 reads it.
          fresh: the state before the first step, on the CPU.
          init: makes the optimizer's state from parameters.

        Returns:
          The state on the CPU, the same on every rank, and the new labels, which ``training.finetune`` allows.

        Raises:
          InputError: on rank 0, when ``other`` holds no run, another model, or a model for other spectrograms.
        """
        params, stats = fresh.params, fresh.stats
        new: tuple[str, ...] = ()
        if self._group.rank == 0:
            source, params, stats = load_model(other)
            self._require_alike(source, other)
            model, key = source.model, rng.fold_in(self._cfg.training.seed, "init")
            if self._cfg.training.finetune:
                model, params = one_directional(model, params, self._cfg.model)
            params, new = with_labels(model, params, self._cfg.model, key=key)
        params, stats = self._group.broadcast((params, stats))
        average = optim.average.init(params, stats) if fresh.average else ()
        return fresh._replace(params=params, stats=stats, opt_state=init(params), average=average), new

    def _require_alike(self, source: Config, other: Path | str) -> None:
        """Refuses other labels and other spectrograms, unless they may differ in fine-tuning."""
        finetune = self._cfg.training.finetune
        if source.model.labels != self._cfg.model.labels and not finetune:
            raise InputError(
                f"--checkpointing.continue_from={other} has other labels: give that run's --data.labels_path, or "
                "--training.finetune for a new output layer."
            )
        was, wanted = attrs.asdict(source.spect), attrs.asdict(self._cfg.spect)
        free = {"mean", "deviation"} | ({"normalize", "full_scale"} if finetune else set())
        changed = [name for name, value in was.items() if name not in free and wanted[name] != value]
        if changed:
            flags = " ".join(f"--spect.{name}={was[name]}" for name in changed)
            also = (
                "" if set(changed) - {"normalize", "full_scale"} else ", or --training.finetune to learn the new ones"
            )
            raise InputError(
                f"--checkpointing.continue_from={other} was trained on other spectrograms: give {flags} as well{also}."
            )

    def prove(self, *, wait: bool) -> None:
        """Proves on rank 0 that checkpoints can be written, as ``Checkpoints.prove`` does; the other ranks wait."""
        if self._checkpoints is not None:
            self._checkpoints.prove(wait=wait)
        self._group.gather(None)

    def require_proof(self, *, begin: bool) -> None:
        """Raises the error of a proof that has failed since ``prove``, on rank 0; ``begin`` after the first step."""
        if self._checkpoints is not None:
            self._checkpoints.require_proof(begin=begin)

    def is_due(self, iteration: int) -> bool:
        """Whether the settings ask for a checkpoint after step ``iteration``. Rank 0's clock decides for all ranks."""
        every, minutes = (
            self._cfg.checkpointing.checkpoint_per_iteration,
            self._cfg.checkpointing.checkpoint_per_minutes,
        )
        if every and iteration % every == 0:
            return True
        if not minutes:
            return False
        late = self._group.rank == 0 and time.monotonic() - self._saved_at >= 60 * minutes
        return self._group.vote(late).result()

    def save(self, state: TrainState, progress: TrainProgress, *, score: float | None = None) -> None:
        """Writes a checkpoint on rank 0; the other ranks do not wait. The lowest ``score`` is the best.

        Raises:
          RuntimeError: on every rank, when two ranks do not hold the same parameters.
        """
        self._score = score
        consistency.require_same_params(self._group, {"params": state.params, "average": state.average})
        self._write(state, progress, score)

    def keep(self, state: TrainState, progress: TrainProgress) -> bool:
        """Writes a checkpoint on rank 0, without asking the other ranks, unless the last one holds this state.

        Returns:
          Whether the state is kept.
        """
        if not self.holds(progress) or not self._wait():
            self._write(state, progress, self._score)
        return self._wait()

    @property
    def has_checkpoint(self) -> bool:
        """Whether a checkpoint was written or restored."""
        return self._saved[0] >= 0

    def holds(self, progress: TrainProgress) -> bool:
        """Whether the last checkpoint, written or restored, is of this progress; the same on every rank."""
        return self._saved == (progress.iteration, progress.unvalidated)

    def _wait(self) -> bool:
        self._whole = (self._checkpoints is None or self._checkpoints.wait()) and self._whole
        return self._whole

    def _write(self, state: TrainState, progress: TrainProgress, score: float | None) -> None:
        if self._checkpoints is not None:
            self._require_lease()
            self._checkpoints.save(progress.iteration, state, attrs.asdict(progress), score=score)
        self._saved_at, self._saved = time.monotonic(), (progress.iteration, progress.unvalidated)
        self._score, self._whole = None, True

    def add_validation(self, state: TrainState, progress: TrainProgress, *, score: float) -> None:
        """Adds a score to the checkpoint that was last written or restored; if it could not be written, tries again."""
        if self._checkpoints is not None:
            self._require_lease()
            if not self._checkpoints.add_validation(attrs.asdict(progress), score=score):
                self._checkpoints.save(progress.iteration, state, attrs.asdict(progress), score=score)

    def best_model(self, like: tuple[Params, Stats]) -> tuple[Params, Stats]:
        """Returns the model with the best score, or the mean of the best ``checkpointing.average_models``.

        Without a validation set, the last epochs have the best scores.

        Args:
          like: the model after the last step, on the CPU, for a run that could write no checkpoint.

        Returns:
          Parameters and statistics on the CPU, the same on every rank.
        """
        if self._checkpoints is not None:
            self._wait()
            if self._checkpoints.iterations():
                _, *best = load_model(self._run_dir, which=f"best:{self._cfg.checkpointing.average_models}")
                like = best[0], best[1]
            else:
                self._warn("no checkpoint could be written, so the results are those of the last step's weights")
        params, stats = self._group.broadcast(like)
        return params, stats

    def close(self) -> bool:
        """Waits for the last checkpoint. Returns whether it was written; always true on ranks other than 0."""
        self._whole = (self._checkpoints is None or self._checkpoints.close()) and self._whole
        return self._whole
