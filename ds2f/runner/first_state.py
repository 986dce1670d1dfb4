"""The state from which a training begins: the newest checkpoint's, another run's weights, or a fresh one.

Everything that can be wrong with it is found here, before anything is written in the run's folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ds2f.errors import InputError
from ds2f.runner.data_record import refusal
from ds2f.runner.program import Program
from ds2f.runner.progress import TrainProgress
from ds2f.runner.rank0_checkpoints import RankZeroCheckpoints
from ds2f.types import TrainState


class FirstState(NamedTuple):
    """The state before the next step."""

    state: TrainState  # on the CPU, the same on every rank
    progress: TrainProgress
    message: str  # for the log: where the state comes from; empty for a fresh state

    @property
    def is_fresh(self) -> bool:
        """Whether no checkpoint was read."""
        return not self.message


def first_state(
    program: Program, checkpoints: RankZeroCheckpoints, *, run_dir: Path, data_digests: Mapping[str, str]
) -> FirstState:
    """Returns the state from which a training begins. Writes nothing. All ranks call this function.

    Args:
      program: the training step.
      checkpoints: the run's checkpoints.
      run_dir: the run's folder, for messages.
      data_digests: digests of the splits, on rank 0, by ``data_record``.

    Raises:
      InputError: on rank 0, when the checkpoint or the other run cannot be used, or the checkpoint is of other data.
    """
    cfg, fresh = program.cfg, program.init()
    if cfg.checkpointing.load_auto_checkpoint:
        state, progress, newest = checkpoints.resume(fresh)
        changed = [name for name in data_digests if progress.data.get(name, data_digests[name]) != data_digests[name]]
        if changed and not cfg.data.allow_changes:
            raise InputError(refusal(str(run_dir), [f"{name}: not the data of the checkpoint" for name in changed]))
        if newest is not None:
            done = f"{progress.epoch} epochs and {progress.batch} batches are done"
            return FirstState(state, progress, f"going on from checkpoint {newest}: {done}")
    other = cfg.checkpointing.continue_from
    if other:
        state, new = checkpoints.weights_of(other, fresh, init=program.tx.init)
        labels = f"; the output layer is new for {', '.join(map(repr, new))}" if new else ""
        return FirstState(state, TrainProgress(), f"starting from the weights of {other}{labels}")
    return FirstState(fresh, TrainProgress(), "")
