"""Checkpoints: a TrainState and its position in the data, to and from a run directory, through orbax.

This is the only room that knows orbax, and jax, which comes with it and is kept on the CPU. A checkpoint stores every
leaf under its path as a numpy array and the position as JSON; orbax writes to a temporary folder and renames it, so
that an interrupted write leaves no checkpoint.
"""

import errno
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported: it must not claim an accelerator

import numpy as np
import orbax.checkpoint as ocp
import torch
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from ds2f import config, tree
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.model import deepspeech2
from ds2f.types import Params, Stats, TrainState

Position = dict[str, Any]
_SCORE = "score"


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, run_dir: Path | str, *, keep: int = 1, read_only: bool = False) -> None:
        """Opens ``run_dir/checkpoints``, which is made when it is missing.

        Args:
          run_dir: the run's folder.
          keep: how many of the newest checkpoints are kept, besides the best one.
          read_only: change nothing; the run may be writing a checkpoint at this moment.
        """
        logging.set_verbosity(logging.ERROR)  # orbax logs every file it touches
        self._manager = ocp.CheckpointManager(
            Path(run_dir).resolve() / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                best_fn=_score,
                best_mode="min",
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep),
                        policies.BestN(get_metric_fn=_score, reverse=True, n=1, keep_checkpoints_without_metrics=False),
                    ]
                ),
                enable_async_checkpointing=False,
                read_only=read_only,
                create=not read_only,
                cleanup_tmp_directories=not read_only,  # what an interrupted or failed write left
            ),
            item_names=("state", "position"),
        )

    def save(self, iteration: int, state: TrainState, position: Position, *, score: float | None = None) -> None:
        """Writes a checkpoint.

        Args:
          iteration: batches seen since the start of the run; names the checkpoint.
          state: the state, on any device.
          position: where in the data the run stands, JSON values.
          score: what the best checkpoint is chosen by, lower is better; ``None`` when it was not validated.

        Raises:
          OSError: when the disk is full or the folder is not writable. The checkpoints before are untouched.
        """
        if iteration in self._manager.all_steps():  # written when the run was interrupted just here
            self._manager.delete(iteration)
        arrays = {path: _to_numpy(leaf) for path, leaf in tree.flatten_with_paths(state).items()}
        try:
            self._manager.save(
                iteration,
                args=ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), position=ocp.args.JsonSave(position)),
                metrics=None if score is None else {_SCORE: score},
                force=True,
            )
            self._manager.wait_until_finished()
        except ValueError as error:  # how tensorstore reports a full disk
            if os.strerror(errno.ENOSPC) not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._manager.directory)) from error

    def find(self, which: str | int = "last") -> int | None:
        """The iteration of the ``best`` or ``last`` checkpoint, or of one given by number; ``None`` without any."""
        self._manager.reload()
        if which == "last":
            return self._manager.latest_step()
        if which == "best":
            best = self._manager.best_step()
            return self._manager.latest_step() if best is None else best
        return int(which) if int(which) in self._manager.all_steps() else None

    def restore(self, iteration: int, like: Any, *, prefix: str = "") -> tuple[Any, Position]:
        """Reads a checkpoint into the structure of ``like``.

        Args:
          iteration: which checkpoint.
          like: a ``TrainState`` (or, with ``prefix``, one of its fields) of the same structure; only structure, shapes
            and dtypes are taken from it.
          prefix: the path below which the wanted leaves lie: ``"params/"``.

        Raises:
          InputError: when the checkpoint's leaves do not have the structure or the shapes of ``like``.
        """
        read = self._manager.restore(
            iteration, args=ocp.args.Composite(state=ocp.args.PyTreeRestore(), position=ocp.args.JsonRestore())
        )
        wanted = tree.flatten_with_paths(like)
        leaves = {path.removeprefix(prefix): leaf for path, leaf in read["state"].items() if path.startswith(prefix)}
        wrong = sorted(
            path
            for path in wanted.keys() | leaves.keys()
            if path not in wanted or path not in leaves or tuple(wanted[path].shape) != tuple(leaves[path].shape)
        )
        if wrong:
            raise InputError(
                f"checkpoint {iteration} in {self._manager.directory} is of another model or optimizer: "
                f"{', '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''} missing, unknown or of another shape. "
                "Use the flags that the run was started with (flags.txt beside it)."
            )
        tensors = {path: torch.from_numpy(np.array(leaves[path])).to(leaf.dtype) for path, leaf in wanted.items()}
        return tree.unflatten_like(like, tensors), read["position"]

    def close(self) -> None:
        """Releases orbax's threads."""
        self._manager.close()


def load_config(run_dir: Path | str) -> Config:
    """Reads ``config.json`` of a run.

    Raises:
      InputError: when there is no run in ``run_dir``.
    """
    path = Path(run_dir) / "config.json"
    try:
        return config.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise InputError(f"{run_dir} holds no run: {path} is missing. Give the --run_dir of a training.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}. Restore it, or train again.") from error


def load_model(run_dir: Path | str, *, which: str | int = "best") -> tuple[Config, Params, Stats]:
    """Loads what evaluation needs from a run directory.

    Args:
      run_dir: the run's folder.
      which: ``"best"`` (by validation error), ``"last"``, or the number of a checkpoint.

    Returns:
      The run's configuration, parameters and batch-norm statistics, on the CPU.

    Raises:
      InputError: when there is no such run or checkpoint.
    """
    cfg = load_config(run_dir)
    params, stats = deepspeech2.init(cfg.model, key=0)
    checkpoints = Checkpoints(run_dir, read_only=True)
    try:
        iteration = checkpoints.find(which)
        if iteration is None:
            raise InputError(f"{run_dir} holds no checkpoint {which!r}: the run has not finished its first epoch.")
        params, _ = checkpoints.restore(iteration, params, prefix="params/")
        stats, _ = checkpoints.restore(iteration, stats, prefix="stats/")
    finally:
        checkpoints.close()
    return cfg, params, stats


def _score(metrics: dict[str, float]) -> float:
    return metrics[_SCORE]


def _to_numpy(leaf: torch.Tensor) -> np.ndarray:
    return leaf.detach().cpu().numpy().copy()  # a copy: the step may reuse the buffer
