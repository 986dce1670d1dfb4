"""Loads one shard of a global batch: reads, augments and pads its recordings."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from ds2f import augment
from ds2f.convolutions import output_lengths
from ds2f.data import added_recordings, audio_parts, batch_memory, padding
from ds2f.data.batch_memory import BatchMemory, Place
from ds2f.data.dataset import Dataset
from ds2f.errors import InputError
from ds2f.features import frequencies, log_spectrogram
from ds2f.types import Batch


class Shard(NamedTuple):
    """One rank's part of a global batch: the order to a loader process."""

    epoch: int
    members: tuple[int, ...]  # indices into the dataset's examples
    weight: float  # 1 / the number of feasible utterances in the global batch


class Loaded(NamedTuple):
    """A batch, with the remarks from its loading."""

    batch: Batch
    notes: list[tuple[Path, str]]  # recording, remark
    unreadable: list[tuple[Path, str]]  # recording left out of the batch, reason
    place: Place | None = None  # of the features, in a loader process; they may lie elsewhere

    def __reduce__(self) -> tuple[Any, ...]:
        """Sends small tensors in two arrays: for each tensor torch would open a connection and shared memory."""
        batch = self.batch
        large = batch.features if self.place is None else (self.place, tuple(batch.features.shape))
        numbers = torch.stack([batch.lengths, batch.label_lengths, batch.ids]).numpy()
        small = (numbers, _narrow(batch.labels).numpy(), float(batch.weight))
        return _received, (large, small, self.notes, self.unreadable)


def _received(
    large: Tensor | tuple[Place, tuple[int, ...]],
    small: tuple[NDArray[np.int64], NDArray[Any], float],
    notes: list[tuple[Path, str]],
    unreadable: list[tuple[Path, str]],
) -> Loaded:
    features = large if isinstance(large, Tensor) else batch_memory.opened(*large)
    lengths, label_lengths, ids = torch.from_numpy(small[0])
    labels, weight = torch.from_numpy(small[1]).long(), torch.tensor(small[2], dtype=torch.float32)
    return Loaded(Batch(features, lengths, labels, label_lengths, ids, weight), notes, unreadable)


def _narrow(labels: Tensor) -> Tensor:
    """Labels in the smallest of three types: 64 kB fit into a pipe, so that the sender need not wait in between."""
    most = int(labels.max()) if labels.numel() else 0
    return labels.to(torch.uint8 if most < 2**8 else torch.int16 if most < 2**15 else torch.int32)


def load(dataset: Dataset, shard: Shard, memory: BatchMemory | None = None) -> Loaded:
    """Loads, augments and pads one shard of a global batch; recordings that cannot be read are left out.

    The utterances that are left share the weight of the whole shard. So the weights of the global batch still add up to
    1, although no rank knows the unreadable recordings of another (unless a shard loses all its utterances). With a
    single shard, each weight is 1 / the number of feasible utterances that are left.

    Args:
      dataset: the examples, and how to load them.
      shard: which examples, in which epoch.
      memory: takes the features, in a loader process.

    Returns:
      A batch on the CPU, and remarks; features are padded to the length that ``padding.padded`` gives.
    """
    notes: list[tuple[Path, str]] = []
    unreadable: list[tuple[Path, str]] = []
    members, spectra = [], []
    for index in shard.members:
        try:
            spectra.append(_features(dataset, index, shard.epoch, notes, unreadable))
            members.append(index)
        except InputError as error:
            unreadable.append((dataset.examples[index].audio, str(error)))
    examples = [dataset.examples[index] for index in members]
    labels = [torch.tensor(example.labels, dtype=torch.int64) for example in examples]
    lengths = [spectrum.shape[-1] for spectrum in spectra]
    frames = padding.padded(max(lengths, default=0), dataset.shapes)
    padded, place = _room((len(spectra), dataset.spect.num_bins, frames), memory)
    batch = Batch(
        features=_pad(spectra, padded),
        lengths=torch.tensor(lengths, dtype=torch.int64),
        labels=_pad(labels, torch.empty(len(labels), max([1, *map(len, labels)]), dtype=torch.int64)),
        label_lengths=torch.tensor([len(example.labels) for example in examples], dtype=torch.int64),
        ids=torch.tensor([example.row for example in examples], dtype=torch.int64),
        weight=torch.tensor(_weight(dataset, shard, members), dtype=torch.float32),
    )
    return Loaded(batch, notes, unreadable, place)


def _weight(dataset: Dataset, shard: Shard, members: Sequence[int]) -> float:
    """The weight of each utterance when only ``members`` of the shard could be read."""
    if len(members) == len(shard.members):
        return shard.weight
    planned, left = (
        int(feasible(dataset, indices, dataset.num_frames(shard.epoch, indices)).sum())
        for indices in (shard.members, members)
    )
    return shard.weight * planned / left if left else shard.weight


def feasible(dataset: Dataset, members: Sequence[int] | slice, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the transcript of each example fits into its number of spectrogram frames, [N]."""
    needed = dataset.examples.numbers("min_frames")[members if isinstance(members, slice) else list(members)]
    return output_lengths(torch.from_numpy(frames), time_stride=dataset.time_stride).numpy() >= needed


def _features(
    dataset: Dataset, index: int, epoch: int, notes: list[tuple[Path, str]], unreadable: list[tuple[Path, str]]
) -> Tensor:
    """Features of one example, [F, T].

    The cache holds features of whole recordings that are changed by speed alone. To look a part up, all bytes of its
    recording would have to be read.
    """
    example, key, how = dataset.examples[index], dataset.key(index, epoch), dataset.perturbation(index, epoch)
    path, start = example.audio, example.start
    rate, cache = dataset.spect.sample_rate, dataset.cache
    added = added_recordings.drawn(
        dataset.added, how, key, sample_rate=rate, max_seconds=dataset.data.max_recording_seconds
    )
    unreadable += added.unreadable
    how = added.how

    def compute() -> Tensor:
        limit = dataset.data.max_recording_seconds
        recording = audio_parts.load(path, start, example.num_samples, sample_rate=rate, max_seconds=limit)
        notes.extend((path, note) for note in recording.notes)
        waveform = added_recordings.perturb(torch.from_numpy(recording.samples), added, key, sample_rate=rate)
        return log_spectrogram(waveform, dataset.spect)

    if cache is not None and start is None and how == augment.Perturbation(speed=how.speed):
        before = cache.problem
        features = cache.features(path, how.speed, compute)
        if cache.problem != before:
            notes.append((path, f"features are no longer cached: {cache.problem}"))
    else:
        features = compute()
    if not dataset.train:
        return features
    warped = augment.warp(features, augment.draw_warp(key, dataset.augmentation), frequencies(dataset.spect))
    return augment.spec_augment(warped, key, dataset.augmentation, donate=True)


def _pad(rows: Sequence[Tensor], padded: Tensor) -> Tensor:
    """Copies each row [..., N] to the beginning of a row of ``padded``, zeros behind it, and returns ``padded``."""
    for target, row in zip(padded, rows, strict=True):
        target[..., : row.shape[-1]] = row
        target[..., row.shape[-1] :] = 0
    return padded


def _room(shape: tuple[int, ...], memory: BatchMemory | None) -> tuple[Tensor, Place | None]:
    """A float32 tensor of any values; in a loader process in shared memory, which its parent reads without a copy."""
    worker, size = get_worker_info(), math.prod(shape)
    if worker is None or not size:
        return torch.empty(shape), None
    if memory is not None and (taken := memory.take(worker.id, shape)):
        return taken
    shared = torch.UntypedStorage._new_shared(size * torch.float32.itemsize)  # as in torch's own collation
    return torch.empty(0).set_(shared).view(shape), None
