"""One share of a global batch: its recordings read, augmented and padded, without what cannot be read."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ds2f import augment, rng
from ds2f.data import audio, shapes
from ds2f.data.dataset import Dataset
from ds2f.errors import InputError
from ds2f.features import log_spectrogram
from ds2f.model.deepspeech2 import output_lengths
from ds2f.types import Batch


class Share(NamedTuple):
    """One rank's part of a global batch: all that a worker is told."""

    epoch: int
    members: tuple[int, ...]  # indices into the dataset's examples
    weight: float  # 1 / the number of feasible utterances in the global batch


class Loaded(NamedTuple):
    """A batch, and what was noticed while loading it."""

    batch: Batch
    notes: list[tuple[Path, str]]  # a recording, and a remark on it
    unreadable: list[tuple[Path, str]]  # a recording that the batch had to do without, and the reason


def load(dataset: Dataset, share: Share) -> Loaded:
    """Loads, augments and pads one share of a global batch, in training without what cannot be read.

    Then the rest of the share weighs as much as the whole share would have, so that the weights of the global batch
    still add up to 1 though no rank knows what another could not read (they do not if nothing is left of a share). With
    a single share each weight is 1 / the number of feasible utterances that are left.

    Raises:
      InputError: when a recording cannot be loaded in evaluation; the message names it.
    """
    notes: list[tuple[Path, str]] = []
    unreadable: list[tuple[Path, str]] = []
    members, spectra = [], []
    for index in share.members:
        try:
            spectra.append(_features(dataset, index, share.epoch, notes, unreadable))
            members.append(index)
        except InputError as error:
            if not dataset.train:
                raise
            unreadable.append((dataset.examples[index].audio, str(error)))
    examples = [dataset.examples[index] for index in members]
    lengths, labels = [spectrum.shape[-1] for spectrum in spectra], [torch.tensor(each.labels) for each in examples]
    frames = shapes.padded(max(lengths, default=0), dataset.shapes)
    batch = Batch(
        features=_pad(spectra, (dataset.spect.num_bins, frames), torch.float32),
        lengths=torch.tensor(lengths, dtype=torch.int64),
        labels=_pad(labels, (max([1, *map(len, labels)]),), torch.int64),
        label_lengths=torch.tensor([len(example.labels) for example in examples], dtype=torch.int64),
        ids=torch.tensor([example.row for example in examples], dtype=torch.int64),
        weight=torch.tensor(_weight(dataset, share, members), dtype=torch.float32),
    )
    return Loaded(batch, notes, unreadable)


def _weight(dataset: Dataset, share: Share, members: Sequence[int]) -> float:
    """What each utterance weighs when only ``members`` of a share are there."""
    if len(members) == len(share.members):
        return share.weight
    planned, left = (
        sum(feasible(dataset, indices, dataset.num_frames(share.epoch, indices)))
        for indices in (share.members, members)
    )
    return share.weight * planned / left if left else share.weight


def feasible(dataset: Dataset, members: Sequence[int], frames: Sequence[int]) -> list[bool]:
    """Whether the transcripts of these examples fit into as many frames of spectrogram."""
    needed = torch.tensor([dataset.examples[index].min_frames for index in members], dtype=torch.int64)
    return (output_lengths(torch.tensor(frames, dtype=torch.int64)) >= needed).tolist()


def _features(
    dataset: Dataset, index: int, epoch: int, notes: list[tuple[Path, str]], unreadable: list[tuple[Path, str]]
) -> Tensor:
    """Features of one example, [F, T]. What only speed changes is read from the cache and kept there."""
    path, key, how = dataset.examples[index].audio, dataset.key(index, epoch), dataset.perturbation(index, epoch)
    rate, cache = dataset.spect.sample_rate, dataset.cache
    noise = None
    if how.snr is not None:
        drawn = dataset.noises[rng.fold_in(key, "noise") % len(dataset.noises)]
        try:
            noise = _noise(drawn, rate)
        except InputError as error:
            unreadable.append((drawn, str(error)))
            how = how._replace(snr=None)

    def compute() -> Tensor:
        recording = audio.load(path, sample_rate=rate)
        notes.extend((path, note) for note in recording.notes)
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


def _pad(rows: Sequence[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Rows [..., N] of different N as one tensor [B, *shape], filled up with zeros at their ends."""
    padded = torch.zeros(len(rows), *shape, dtype=dtype)
    for target, row in zip(padded, rows, strict=True):
        target[..., : row.shape[-1]] = row
    return padded
