"""Checkpoints: writes a TrainState and the progress in the data to a folder, and reads them back, through orbax.

In a checkpoint's folder, ``state/`` holds every leaf under its path, ``position.json`` the progress, and ``run.json``
the score, the version of the code, the configuration, and every leaf's dtype and shape. ``orbax_io`` imports orbax when
a checkpoint is first written or read. ``writing`` fills a folder, and ``retention`` decides which ones are whole.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from etils import epath
from torch import Tensor

import ds2f
from ds2f import config, tree
from ds2f.checkpoint import integrity, retention, storage, writing
from ds2f.checkpoint.arrays import Form, from_tensor
from ds2f.checkpoint.leaves import another_model, read_leaves, require_finite
from ds2f.checkpoint.orbax_io import ArrayStore
from ds2f.checkpoint.proof import Proof
from ds2f.config import Config, ModelConfig
from ds2f.errors import InputError
from ds2f.files import json_text
from ds2f.model.structure import spec
from ds2f.precision import dtype_name
from ds2f.types import Params, Stats, TrainState

Progress = dict[str, Any]

_LOG = logging.getLogger(__name__)
_POSITION = "position.json"


class Checkpoints:
    """The checkpoints of one run.

    One process writes; others may read the same folder with ``read_only``. ``save`` copies the state, and a thread
    writes the copy while the caller goes on. Every method first waits for a running write.
    """

    def __init__(
        self,
        run_dir: Path | str,
        *,
        folder: str = "",
        keep: int = 2,
        keep_best: int = 1,
        cfg: Config | None = None,
        read_only: bool = False,
        warn: Callable[[str], None] = _LOG.warning,
    ) -> None:
        """Takes the folder, which ``prove`` or the first ``save`` makes if it is missing.

        Args:
          run_dir: the run's folder.
          folder: folder of the checkpoints, any path that orbax takes; empty: ``run_dir/checkpoints``.
          keep: number of the newest checkpoints to keep; at least two are kept, in case the newest is damaged.
          keep_best: number of the checkpoints with the best scores to keep besides.
          cfg: stored in every checkpoint, as information.
          read_only: change nothing; the run may be writing a checkpoint at the same time.
          warn: called with a message for each failed write, on the writing thread, and for each skipped checkpoint.

        Raises:
          InputError: when a bucket cannot be reached.
        """
        self._folder = storage.open_folder(folder or Path(run_dir) / "checkpoints")
        self._cfg, self._warn = cfg, warn
        self._retention = retention.Retention(
            self._folder, keep=max(keep, 2), keep_best=max(keep_best, 1), read_only=read_only, warn=warn
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._under_way: Future[bool] | None = None
        self._proof = Proof(self._folder)
        self._buffers: dict[str, Tensor] = {}
        self._current: epath.Path | None = None  # the checkpoint that was last written or restored

    @property
    def folder(self) -> epath.Path:
        """The folder of the checkpoints, a whole path; it need not exist."""
        return self._folder

    @cached_property
    def _store(self) -> ArrayStore:
        """Made at its first use, by the writing thread, or by a reader after waiting for that thread."""
        return ArrayStore()

    def prove(self, *, wait: bool = True) -> None:
        """Writes a small checkpoint to the folder as ``save`` does, reads it back, and removes it.

        So a file system without room, rights or a call that is needed is found before an epoch is lost to it.

        Args:
          wait: false: only plain files are written at once. Arrays follow in the writing thread, beside the first
            steps; ``require_proof``, called after every step, raises if they fail, and so does every other method.

        Raises:
          CheckpointError: when the checkpoint cannot be written or read; the message has the folder and the reason.
        """
        self.wait()
        self._proof = Proof(self._folder)
        self._proof.of_files(self._warn)
        self._under_way = self._thread.submit(self._proof.of_arrays, lambda: self._store)
        if wait:
            self.wait()

    def require_proof(self, *, begin: bool = True) -> None:
        """Raises the error of a proof that ``prove`` left to the writing thread. ``begin``: it may begin now."""
        if begin:
            self._proof.begin()
        if self._proof.failed:
            self.wait()

    def save(self, iteration: int, state: TrainState, progress: Progress, *, score: float | None = None) -> None:
        """Copies the state and starts to write the copy; waits only for a write that is still running.

        When the file system refuses the write, such as on a full disk, ``warn`` gets the reason. Earlier checkpoints
        stay untouched, the unfinished one is removed, and the next one is tried again.

        Args:
          iteration: batches seen since the start of the run; names the checkpoint.
          state: the state, on any device.
          progress: the progress in the data, JSON values.
          score: the best checkpoint has the lowest score; ``None`` without a validation. (A run without a validation
            set gives later epochs lower scores.)
        """
        self.wait()
        leaves = tree.flatten_with_names(state)
        run = {
            "iteration": iteration,
            "score": score,
            "version": ds2f.__version__,
            "config": None if self._cfg is None else config.to_dict(self._cfg),
            "leaves": {path: [dtype_name(leaf.dtype), list(leaf.shape)] for path, leaf in leaves.items()},
        }
        texts = {_POSITION: json_text(progress), retention.RUN: json_text(run)}
        arrays = {path: from_tensor(self._copy(path, leaf)) for path, leaf in leaves.items() if leaf.numel()}
        self._under_way = self._thread.submit(self._write, iteration, arrays, texts)

    def add_validation(self, progress: Progress, *, score: float) -> bool:
        """Adds a score to the checkpoint that was last written or restored, and the progress after the validation.

        The checkpoint was written before the validation. Until the score is added, the checkpoint has none, and a run
        that goes on from it validates again. The score is written by the thread, like a checkpoint.

        Returns:
          False if the checkpoint was not written, or is gone since; ``save`` may try again, with the score.
        """
        if not self.wait() or self._current is None or integrity.gone(self._current):
            return False
        self._under_way = self._thread.submit(self._add, self._current, {"score": score, "position": progress})
        return True

    def wait(self) -> bool:
        """Waits for a running write, and raises its error unless the file system caused it.

        Returns:
          Whether the checkpoint is whole; false after a failed write, whose reason ``warn`` got. True without a write.
        """
        self._proof.begin()
        under_way, self._under_way = self._under_way, None
        return under_way is None or under_way.result()

    def close(self) -> bool:
        """Waits as ``wait`` does, and releases the threads."""
        try:
            return self.wait()
        finally:
            self._thread.shutdown()
            store = vars(self).pop("_store", None)  # a second call closes nothing
            if store is not None:
                store.close()

    def find(self, which: str | int = "last") -> int | None:
        """The iteration of the ``best`` or ``last`` whole checkpoint, or of one given by number: see ``find_all``.

        Returns:
          The iteration; ``None`` when there is no checkpoint, or none of that number.
        """
        found = self.find_all(which)
        return found[0] if found else None

    def find_all(self, which: str | int = "last") -> list[int]:
        """The iterations of the checkpoints that ``which`` names, all of them whole to the last bit.

        Damaged and unfinished checkpoints in between are passed over. ``warn`` gets the name of each faulty file, and
        once a whole checkpoint is found the faulty ones are removed.

        Args:
          which: ``"last"``, or ``"best"`` (the last, when none has a score); ``"last:5"`` or ``"best:5"`` for five of
            them; or a number.

        Returns:
          Iterations, the newest or the best first; fewer than asked for when there are no more.

        Raises:
          InputError: when every checkpoint that ``which`` names is damaged, with the files' names, or when ``which``
            has another form.
        """
        self.wait()
        return self._retention.find(which)

    def configs(self) -> Iterator[dict[str, Any]]:
        """The configurations in the checkpoints whose ``run.json`` is whole, the newest first."""
        for entry in self._retention.entries():
            stored = self._retention.about(entry.path)
            if stored is not None and isinstance(stored.get("config"), dict):
                yield stored["config"]

    def iterations(self) -> list[int]:
        """The numbers of all checkpoints, whole or not, the newest first."""
        return list(dict.fromkeys(entry.iteration for entry in self._retention.entries()))

    def newest(self) -> int:
        """The iteration of the newest finished checkpoint, -1 without one. Nothing but its name is read."""
        return next((entry.iteration for entry in self._retention.entries() if integrity.finished(entry.path)), -1)

    def restore(self, iteration: int, like: TrainState) -> tuple[TrainState, Progress]:
        """Reads a checkpoint into the structure of ``like``, on the CPU.

        Args:
          iteration: which checkpoint.
          like: gives structure, shapes and dtypes, not values. A narrower stored dtype is widened; all else comes back
            bit for bit.

        Returns:
          The state, and the progress in the data.

        Raises:
          InputError: when the checkpoint is missing or damaged, with the file's name, or when its leaves do not have
            the structure, the shapes and the dtypes of ``like``.
        """
        self.wait()
        path = self._retention.whole(iteration)
        leaves = tree.flatten_with_names(like)
        forms = {name: Form(tuple(leaf.shape), leaf.dtype) for name, leaf in leaves.items()}
        read = read_leaves(self._store, path, forms, prefixes=("",))
        self._current = path
        later = integrity.added(path)
        progress = retention.record(path / _POSITION) if later is None else later["position"]
        return tree.unflatten_like(like, read), progress

    def restore_model(self, iteration: int, cfg: ModelConfig) -> tuple[Params, Stats]:
        """Reads ``TrainState.model`` of a checkpoint: parameters and statistics, or their averages, for ``cfg``.

        Raises:
          InputError: as ``restore``, and when values are not finite. Sizes are compared before memory is allocated.
        """
        self.wait()
        path = self._retention.whole(iteration)
        leaves = retention.about(path)["leaves"]
        if cfg.hidden_layers > len(leaves):  # a structure of so many layers would fill the memory
            raise InputError(another_model(path, [f"rnn_{cfg.hidden_layers - 1}"]))
        start = "average/" if any(name.startswith("average/") for name in leaves) else ""
        parts = dict(zip((f"{start}params/", f"{start}stats/"), spec(cfg), strict=True))
        forms = {
            prefix + name: Form(leaf.shape, torch.float32)
            for prefix, part in parts.items()
            for name, leaf in tree.flatten_with_names(part).items()
        }
        read = read_leaves(self._store, path, forms, prefixes=tuple(parts))
        require_finite(path, read)
        params, stats = (
            tree.unflatten_like(part, {name: read[prefix + name] for name in tree.flatten_with_names(part)})
            for prefix, part in parts.items()
        )
        return params, stats

    def _copy(self, path: str, leaf: Tensor) -> Tensor:
        """Copies a leaf to the host, into the same memory at every save: fresh memory costs more than the copy."""
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != leaf.shape or buffer.dtype != leaf.dtype:
            pinned = leaf.device.type != "cpu"  # a device copies several times faster into pinned memory
            buffer = torch.empty(leaf.shape, dtype=leaf.dtype, device="cpu", pin_memory=pinned)
            self._buffers[path] = buffer
        return buffer.copy_(leaf.detach())

    def _add(self, path: epath.Path, values: dict[str, Any]) -> bool:
        """Adds a validation to a checkpoint, on the writing thread."""
        try:
            storage.twice(lambda: integrity.add(path, values), f"the score of {path}", self._warn)
        except OSError as error:
            self._warn(
                f"the score of {path} was not written: {error.strerror or error}. Training goes on; a run that goes on "
                "from this checkpoint validates it again."
            )
        self._retention.clear(path)
        return True

    def _write(self, iteration: int, arrays: dict[str, np.ndarray], texts: dict[str, str]) -> bool:
        """Writes a checkpoint, on the writing thread. Returns whether it is whole."""
        self._current = None

        def write() -> epath.Path:
            path = self._retention.new(iteration)
            try:
                writing.write(self._store, path, arrays, texts)
            except BaseException:
                self._retention.discard(path)
                raise
            return path

        try:
            path = storage.twice(write, f"checkpoint {iteration}", self._warn)
        except Exception as error:
            if (cause := storage.refusal(error)) is None:
                raise
            self._warn(
                f"checkpoint {iteration} was not written: {cause}. Training goes on, with the checkpoints before it. "
                f"Free space in {self._folder} or repair it; the next checkpoint is tried again."
            )
            return False
        self._current = path
        self._retention.clear(path)
        return True
