"""Batches from a dataset: planned in the training process, loaded by loader processes.

An epoch on one rank::

    frames = spectrogram frames of every utterance, with the speed and tempo of this epoch
    for members in sampling.plan_epoch(frames, slots, seed, epoch):        # global batches, the same on every rank
        weight = 1 / number of utterances in members whose transcript fits into their frames
        for i in the shards of this rank, of ranks * micro_batches:
            shard = Shard(epoch, every (ranks * micro_batches)-th of members from the i-th on, weight)
            yield collate.load(dataset, shard)                             # in a loader process, some batches ahead

Random numbers depend on (seed, epoch, utterance, use), so the loader processes and their number change no batch.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import data as torch_data

from ds2f.data import collate, loader_processes, padding, sampling
from ds2f.data.batch_memory import BatchMemory
from ds2f.data.collate import Loaded, Shard
from ds2f.data.dataset import Dataset
from ds2f.errors import InputError
from ds2f.types import Batch

_PREFETCH = 4  # batches that each loader process loads ahead
_BUFFERS = _PREFETCH + 2  # of a loader process; the training has a batch, and still the one before
_log = logging.getLogger(__name__)


class Loader:
    """Loads the epochs of a dataset, or one rank's shards of them.

    The loader processes start at once and live until ``close``. Make the loader before a device or jax starts threads:
    a forked process would inherit their locks without the threads.

    Attributes:
      steps: global batches in an epoch, the same number in every epoch.
      notes: remarks from loading (resampled, silent, cache not writable), each with its recordings.
      unreadable: recordings that were left out on this rank, with the reasons. Every epoch tries them again.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        num_workers: int = 0,
        rank: int = 0,
        ranks: int = 1,
        micro_batches: int = 1,
        pin_memory: bool = False,
        start_method: str = "fork",
        max_unreadable: int | None = None,
    ) -> None:
        """Starts the loader processes.

        Args:
          dataset: what to load.
          batch_size: utterances in a global batch, of all ranks and micro-batches together; fewer where
            ``data.max_frames`` says so.
          num_workers: loader processes; 0 loads each batch in this process, when it is needed.
          rank: which shard of every global batch is loaded here.
          ranks: how many ranks there are.
          micro_batches: number of consecutive batches into which this rank's shard is divided.
          pin_memory: put batches into page-locked memory, from which copies to a device do not wait.
          start_method: ``fork``, or ``spawn``, which some devices need.
          max_unreadable: how many recordings may be left out because they cannot be read. None:
            ``data.max_unreadable`` in training, no recording in evaluation.
        """
        self.dataset = dataset
        self.batch_size = batch_size
        places = slots(dataset, batch_size)
        self.steps = len(places)
        self.notes: dict[str, set[Path]] = {}
        self.unreadable: dict[Path, str] = {}
        self._max_unreadable = dataset.data.max_unreadable if dataset.train else max_unreadable or 0
        mine = [rank + ranks * index for index in range(micro_batches)]
        self._shards = _Schedule(mine, ranks * micro_batches)
        self._running: Generator[Batch, None, None] | None = None
        self._loads_ahead = dataset.train and num_workers > 0
        self._ahead: tuple[int, Iterator[Loaded | InputError]] | None = None  # the next epoch, not yet asked for
        self._watch = loader_processes.Watch(timeout=dataset.data.loader_timeout)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than processors
            self._loader: torch_data.DataLoader[Loaded | InputError] | None = torch_data.DataLoader(
                _Shards(dataset, _memory(dataset, places, num_workers, ranks * micro_batches, start_method)),
                batch_size=None,
                sampler=self._shards,
                num_workers=num_workers,
                collate_fn=_as_it_is,
                pin_memory=pin_memory,
                multiprocessing_context=start_method if num_workers else None,
                generator=torch.Generator(),  # torch would draw unused seeds from the global generator
                prefetch_factor=_PREFETCH if num_workers else None,
                persistent_workers=num_workers > 0,
                worker_init_fn=self._watch.begin,
            )
            with self._watch.starting(num_workers):
                iter(self._loader)

    def epoch(self, epoch: int = 0, *, start: int = 0, meanwhile: Callable[[], None] | None = None) -> Iterator[Batch]:
        """Begins to load an epoch; ends an epoch that is still loading.

        After the last batch of a training epoch, the loader processes go on with the first batches of the next epoch,
        so that these are ready after the evaluation.

        Args:
          epoch: counted from 0; it decides batches and augmentation in training, and nothing in evaluation.
          start: global batches to skip at the beginning, to resume in the middle of an epoch.
          meanwhile: called several times a second while a loader process is waited for; what it raises ends the wait.

        Returns:
          An iterator over this rank's batches on the CPU, ``micro_batches`` per step. A batch is empty (B = 0) when the
          global batch has fewer utterances than shards.

        Raises:
          InputError: from the iterator, when more recordings than ``max_unreadable`` cannot be read; the message names
            them.
          WorkerDied: from the iterator, when a loader process has died, or no batch came for ``data.loader_timeout``.
        """
        if self._loader is None:
            raise RuntimeError("the loader is closed")
        self._end_epoch()
        if start or self._ahead is None or self._ahead[0] != epoch:
            self._ahead = None
            self._schedule(epoch, start)
        self._running = self._batches(epoch, meanwhile)
        return self._running

    def close(self) -> None:
        """Ends a running epoch and stops the loader processes."""
        self._end_epoch()
        self._watch.release()
        self._loader = self._ahead = None  # torch's workers end with these last references
        self._watch.stop()

    def _end_epoch(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _schedule(self, epoch: int, start: int = 0) -> None:
        self._shards.put(plan(self.dataset, epoch=epoch, batch_size=self.batch_size), start)

    def _begin(self) -> Iterator[Loaded | InputError]:
        """Starts the scheduled shards, unless the loader processes have them already."""
        ahead, self._ahead = self._ahead, None
        return ahead[1] if ahead else iter(self._loader or ())

    def _batches(self, epoch: int, meanwhile: Callable[[], None] | None) -> Generator[Batch, None, None]:
        taken = 0

        def awaited() -> str:
            return self._describe(taken)

        try:
            self._watch.wait(awaited, meanwhile)
            # Only the loop holds torch's iterator: an error's traceback would keep a variable, and with it the workers.
            for item in self._begin():
                self._watch.rest()
                if isinstance(item, InputError):
                    raise item
                self._take_note(item)
                yield item.batch
                taken += 1
                self._watch.wait(awaited, meanwhile)
            if self._loads_ahead:
                self._schedule(epoch + 1)
                self._ahead = (epoch + 1, self._begin())
        except (RuntimeError, OSError, EOFError) as error:  # the errors of torch and Python after a process died
            self._watch.explain(error)
            raise
        finally:
            self._watch.rest()

    def _describe(self, taken: int) -> str:
        """The recordings of the batch that follows so many others."""
        members = self._shards[taken].members if taken < len(self._shards) else ()
        names = [str(self.dataset.examples[index].audio) for index in members]
        return (
            " to ".join([f"a batch of {len(names)}: {names[0]}", *names[1:][-1:]]) if names else "the end of the epoch"
        )

    def _take_note(self, loaded: Loaded) -> None:
        """Logs new remarks, and raises when too many recordings cannot be read."""
        for recording, note in loaded.notes:
            if note not in self.notes:
                _log.warning("%s: %s", recording, note)
            self.notes.setdefault(note, set()).add(recording)
        limit = self._max_unreadable
        for recording, why in loaded.unreadable:
            if not (limit or self.dataset.train):
                raise InputError(why)
            if recording not in self.unreadable:
                self.unreadable[recording] = why
                _log.warning("left out (%d of at most %d): %s", len(self.unreadable), limit, why)
        if len(self.unreadable) > limit:
            headline = (
                f"{len(self.unreadable)} recordings cannot be read, which is more than data.max_unreadable={limit}:"
            )
            raise InputError("\n  ".join([headline, *self.unreadable.values()]))


def slots(dataset: Dataset, batch_size: int) -> list[sampling.Slot]:
    """The slots of an epoch's global batches of at most ``batch_size`` utterances.

    They depend on the data and the settings, not on the number of ranks: ``data.max_frames`` limits each shard as if
    every device took ``data.batch_size`` utterances.
    """
    max_frames, devices = dataset.data.max_frames, -(-batch_size // dataset.data.batch_size)
    longest = dataset.longest() if max_frames else np.zeros(len(dataset.examples), dtype=np.int64)
    return sampling.slots(longest, batch_size=batch_size, devices=devices, max_frames=max_frames, shapes=dataset.shapes)


def plan(dataset: Dataset, *, epoch: int, batch_size: int) -> "Plan":
    """The global batches of an epoch, with their weights: 1 / the number of feasible utterances, 0 when there is none.

    Whether an utterance is feasible depends on the speed and tempo drawn for it in this epoch.
    """
    frames, places = dataset.num_frames(epoch), slots(dataset, batch_size)
    if dataset.train and not (epoch == 0 and dataset.data.sort_first_epoch):
        jitter, seed = dataset.data.bucket_jitter, dataset.seed
        batches = sampling.plan_epoch(frames, places, seed=seed, epoch=epoch, jitter=jitter)
    else:
        batches = sampling.plan_sorted(frames, places)
    return Plan(epoch, batches, batches.sums(collate.feasible(dataset, slice(None), frames)))


class Plan(NamedTuple):
    """The global batches of an epoch."""

    epoch: int
    batches: sampling.Batches
    feasible: NDArray[np.int64]  # utterances of each batch whose transcripts fit into their frames

    def weight(self, batch: int) -> float:
        """The weight of each utterance of a batch."""
        return 1 / int(self.feasible[batch]) if self.feasible[batch] else 0.0


class _Schedule(Sequence[Shard]):
    """A rank's shards of an epoch, in arrays: each is made when a loader process is about to get it."""

    def __init__(self, mine: Sequence[int], count: int) -> None:
        self._mine, self._count = mine, count
        self._plan: Plan | None = None
        self._start = 0

    def put(self, plan: Plan, start: int) -> None:
        """Takes the plan of an epoch, from one of its batches on."""
        self._plan, self._start = plan, start

    def __len__(self) -> int:
        return max(0, len(self._plan.batches) - self._start) * len(self._mine) if self._plan else 0

    def __getitem__(self, index: Any) -> Any:
        if self._plan is None:
            raise IndexError
        step, micro_batch = divmod(range(len(self))[index], len(self._mine))
        batch = self._start + step
        members = sampling.shard(self._plan.batches[batch], index=self._mine[micro_batch], count=self._count)
        return Shard(self._plan.epoch, tuple(members), self._plan.weight(batch))


def _memory(
    dataset: Dataset, places: Sequence[sampling.Slot], processes: int, shards: int, start_method: str
) -> BatchMemory | None:
    """Buffers for the batches on their way; None without loader processes, or where they do not inherit memory."""
    if not processes or start_method != "fork":
        return None
    longest = int(dataset.longest().max())
    shapes = {(slot.size, padding.padded(min(longest, slot.longest), dataset.shapes)) for slot in places}
    values = max(-(-size // shards) * frames for size, frames in shapes) * dataset.spect.num_bins
    try:
        return BatchMemory(processes, buffers=_BUFFERS, size=torch.float32.itemsize * values)
    except OSError:  # the address space is limited
        return None


def _as_it_is(loaded: Any) -> Any:
    return loaded


class _Shards(torch_data.Dataset[Loaded | InputError]):
    """The work of a loader process: from shards to batches. It returns an ``InputError``, free of its traceback."""

    def __init__(self, dataset: Dataset, memory: BatchMemory | None) -> None:
        self.dataset, self._memory = dataset, memory

    def __getitem__(self, shard: Shard) -> Loaded | InputError:
        try:
            with _one_thread():
                return collate.load(self.dataset, shard, self._memory)
        except InputError as error:
            return error


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Computes on one thread, as loader processes do: sums over several threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
