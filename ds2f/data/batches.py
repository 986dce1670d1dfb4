"""Batches from a dataset: planned in the parent, loaded by worker processes, the same whoever loads them."""

import contextlib
import functools
import logging
import signal
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import data as torch_data

from ds2f import augment, rng
from ds2f.data import audio, sampler
from ds2f.data.dataset import Dataset
from ds2f.errors import InputError
from ds2f.features import log_spectrogram
from ds2f.model.deepspeech2 import output_lengths
from ds2f.types import Batch

_FRAMES = 8  # padded lengths are multiples: oneDNN keeps a program for each, and makes one anew in a tenth of a step
_PREFETCH = 4  # batches that each worker is ahead
_log = logging.getLogger(__name__)


class Share(NamedTuple):
    """One rank's part of a global batch: all that a worker is told."""

    epoch: int
    members: tuple[int, ...]  # indices into the dataset's examples
    weight: float  # 1 / the number of feasible utterances in the global batch


class Loaded(NamedTuple):
    """A batch, and what was noticed while loading it: the recording and the remark."""

    batch: Batch
    notes: tuple[tuple[Path, str], ...]


class Loader:
    """Loads the epochs of a dataset, or one rank's share of them.

    The workers are started at once and live until ``close``: make the loader before threads of a device or of jax
    exist, which a forked process would inherit half. Nothing that is random is left to them.

    Attributes:
      steps: global batches in an epoch.
      notes: what was remarked on while loading (resampled, silent, cache not writable), with the recordings.
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
    ) -> None:
        """Starts the workers.

        Args:
          dataset: what to load.
          batch_size: utterances in a global batch: of all ranks and micro-batches together.
          num_workers: loader processes; 0 loads in this process, when a batch is asked for.
          rank: which share of every global batch is loaded here.
          ranks: how many ranks there are.
          micro_batches: consecutive batches that this rank's share of a global batch comes in.
          pin_memory: whether batches come in page-locked memory, for copies to a device that do not wait.
          start_method: how worker processes begin, ``fork`` or ``spawn``, which some devices need.
        """
        self.dataset = dataset
        self.batch_size = batch_size
        self.steps = -(-len(dataset.examples) // batch_size)
        self.notes: dict[str, set[Path]] = {}
        self._mine = [rank + ranks * index for index in range(micro_batches)]
        self._count = ranks * micro_batches
        self._shares: list[Share] = []
        self._running: Generator[Batch, None, None] | None = None
        self._loader: torch_data.DataLoader[Loaded | InputError] | None = torch_data.DataLoader(
            _Shares(dataset),
            batch_size=None,
            sampler=self._shares,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            multiprocessing_context=start_method if num_workers else None,
            generator=torch.Generator(),  # or else the workers' unused seeds are drawn from the global one
            prefetch_factor=_PREFETCH if num_workers else None,
            persistent_workers=num_workers > 0,
            worker_init_fn=_leave_interrupts_to_the_parent,
        )
        iter(self._loader)  # starts the workers

    def epoch(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """Begins to load an epoch; one that is still under way ends.

        Args:
          epoch: counted from 0; it decides batches and augmentation in training, and nothing in evaluation.
          start: global batches to leave out at the beginning, to go on in the middle of an epoch.

        Returns:
          The batches of this rank, ``micro_batches`` of them a step, on the CPU. One is empty (B = 0) when the global
          batch holds too few utterances for every share.

        Raises:
          InputError: from the iterator, when a recording cannot be loaded; the message names it.
        """
        if self._loader is None:
            raise RuntimeError("the loader is closed")
        self._end_epoch()
        self._shares[:] = [
            Share(epoch, tuple(sampler.shard(members, index=index, count=self._count)), weight)
            for members, weight in plan(self.dataset, epoch=epoch, batch_size=self.batch_size)[start:]
            for index in self._mine
        ]
        self._running = self._batches()
        return self._running

    def close(self) -> None:
        """Ends an epoch that is under way and stops the workers."""
        self._end_epoch()
        self._loader = None  # the last reference, with which torch's workers end

    def _end_epoch(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _batches(self) -> Generator[Batch, None, None]:
        # The loop alone may hold torch's iterator: a variable would keep the workers alive with an error's traceback.
        for item in self._loader or ():
            if isinstance(item, InputError):
                raise item
            for recording, note in item.notes:
                if note not in self.notes:
                    _log.warning("%s: %s", recording, note)
                self.notes.setdefault(note, set()).add(recording)
            yield item.batch


def plan(dataset: Dataset, *, epoch: int, batch_size: int) -> list[tuple[list[int], float]]:
    """The global batches of an epoch, with their weights: 1 / the number of feasible utterances, 0 when there is none.

    Whether an utterance is feasible depends on the speed and tempo drawn for it in this epoch.
    """
    frames = dataset.num_frames(epoch)
    if dataset.train and not (epoch == 0 and dataset.data.sort_first_epoch):
        jitter, seed = dataset.data.bucket_jitter, dataset.seed
        batches = sampler.plan_epoch(frames, batch_size=batch_size, seed=seed, epoch=epoch, jitter=jitter)
    else:
        batches = sampler.plan_sorted(frames, batch_size=batch_size)
    needed = torch.tensor([example.min_frames for example in dataset.examples])
    feasible = (output_lengths(torch.tensor(frames)) >= needed).tolist()
    counts = [sum(feasible[index] for index in batch) for batch in batches]
    return [(batch, 1 / count if count else 0.0) for batch, count in zip(batches, counts, strict=True)]


def load(dataset: Dataset, share: Share) -> Loaded:
    """Loads, augments and pads one share of a global batch.

    Raises:
      InputError: when a recording cannot be loaded; the message names it.
    """
    examples = [dataset.examples[index] for index in share.members]
    notes: list[tuple[Path, str]] = []
    spectra = [_features(dataset, index, share.epoch, notes) for index in share.members]
    return Loaded(
        Batch(
            features=_pad(spectra, (dataset.spect.num_bins,), torch.float32, multiple=_FRAMES),
            lengths=torch.tensor([spectrum.shape[-1] for spectrum in spectra], dtype=torch.int64),
            labels=_pad([torch.tensor(example.labels, dtype=torch.int64) for example in examples], (), torch.int64),
            label_lengths=torch.tensor([len(example.labels) for example in examples], dtype=torch.int64),
            ids=torch.tensor([example.row for example in examples], dtype=torch.int64),
            weight=torch.tensor(share.weight, dtype=torch.float32),
        ),
        tuple(notes),
    )


def _features(dataset: Dataset, index: int, epoch: int, notes: list[tuple[Path, str]]) -> Tensor:
    """Features of one example, [F, T]. What only speed changes is read from the cache and kept there."""
    path, key, how = dataset.examples[index].audio, dataset.key(index, epoch), dataset.perturbation(index, epoch)
    rate, cache = dataset.spect.sample_rate, dataset.cache

    def compute() -> Tensor:
        recording = audio.load(path, sample_rate=rate)
        notes.extend((path, note) for note in recording.notes)
        noise = (
            None if how.snr is None else _noise(dataset.noises[rng.fold_in(key, "noise") % len(dataset.noises)], rate)
        )
        waveform = augment.perturb(torch.from_numpy(recording.samples), how, key, sample_rate=rate, noise=noise)
        return log_spectrogram(waveform, dataset.spect)

    if cache is not None and how == augment.Perturbation(speed=how.speed):
        before = cache.problem
        features = cache.features(path, how.speed, compute)
        if cache.problem != before:
            notes.append((path, f"features are no longer kept: {cache.problem}"))
    else:
        features = compute()
    return augment.spec_augment(features, key, dataset.augmentation) if dataset.train else features


@functools.lru_cache(maxsize=16)
def _noise(path: Path, sample_rate: int) -> Tensor:
    return torch.from_numpy(audio.load(path, sample_rate=sample_rate).samples)


def _pad(rows: Sequence[Tensor], shape: tuple[int, ...], dtype: torch.dtype, *, multiple: int = 1) -> Tensor:
    """Rows [*shape, N] of different N as one tensor [B, *shape, N'], filled up with zeros.

    N' is the longest N, and at least 1, rounded up to a multiple of ``multiple``.
    """
    longest = max([1, *(row.shape[-1] for row in rows)])
    padded = torch.zeros(len(rows), *shape, -(-longest // multiple) * multiple, dtype=dtype)
    for target, row in zip(padded, rows, strict=True):
        target[..., : row.shape[-1]] = row
    return padded


def _leave_interrupts_to_the_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal


def _as_it_is(loaded: Any) -> Any:
    return loaded


class _Shares(torch_data.Dataset[Loaded | InputError]):
    """What a worker runs: shares in, batches out; an error of the data comes back as a value, without a traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, share: Share) -> Loaded | InputError:
        try:
            with _one_thread():
                return load(self.dataset, share)
        except InputError as error:
            return error


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Computes on one thread, as workers do: a sum over several rounds differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
