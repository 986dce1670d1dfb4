"""The data plan: which utterances share a batch, and the order of the batches, from lengths, seed and epoch alone.

The algorithm::

    slots(), once a run:
        order the utterances by the greatest length that each can have
        from the longest down, cut off slots of batch_size utterances, or of as many as max_frames allows
        slot.longest = the greatest length with which a batch of slot.size stays within max_frames
    plan_epoch(), every epoch:
        order the utterances by length in this epoch * uniform(1 - jitter, 1 + jitter)
        if one slot is smaller than the others, move it to a random place
        for each slot, from short to long:
            batch = the first slot.size utterances, in this order, that are left and not longer than slot.longest
        shuffle the batches
    shard(), every batch: each rank takes every count-th utterance
"""

import itertools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ds2f import rng
from ds2f.data.padding import longest_within, padded


class Slot(NamedTuple):
    """Size and length limit of one global batch, the same in every epoch."""

    size: int  # utterances, exactly
    longest: int  # frames of each utterance, at most


class Batches(Sequence[list[int]]):
    """The batches of an epoch, in arrays: 16 bytes an utterance, however small the batches are."""

    def __init__(self, members: NDArray[np.int64], cuts: NDArray[np.int64]) -> None:
        """Takes all members, batch after batch, and the place of each batch's first, with their number at the end."""
        self.members, self.cuts = members, cuts

    def __len__(self) -> int:
        return len(self.cuts) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self.members[self.cuts[place] : self.cuts[place + 1]].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def sums(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """The sum over each batch of a value of each utterance, [batches]."""
        totals = np.concatenate(([0], np.cumsum(values[self.members], dtype=np.int64)))
        return np.diff(totals[self.cuts])

    def reordered(self, places: NDArray[np.int64]) -> "Batches":
        """The batches in another order."""
        starts, sizes = self.cuts[:-1][places], np.diff(self.cuts)[places]
        cuts = np.concatenate(([0], np.cumsum(sizes)))
        return Batches(self.members[np.repeat(starts - cuts[:-1], sizes) + np.arange(len(self.members))], cuts)


def slots(
    longest: ArrayLike, *, batch_size: int, devices: int = 1, max_frames: int = 0, shapes: Sequence[int] = ()
) -> list[Slot]:
    """Divides an epoch into slots, one for each global batch; every epoch has the same slots.

    In every epoch, the i-th shortest utterance is no longer than the i-th in the order of greatest lengths. So the
    slots can always be filled.

    Args:
      longest: frames of each utterance, at most, over all epochs.
      batch_size: utterances in a global batch, at most.
      devices: devices that share a global batch.
      max_frames: frames of one device's shard with padding, at most; sufficient for every utterance alone; 0: no limit.
      shapes: allowed padded lengths, ascending; empty: every multiple of 8.

    Returns:
      Slots from short to long. None is larger than the one before it, except that the first takes the remainder.

    >>> slots([10, 20, 30, 40, 50], batch_size=2, max_frames=96)
    [Slot(size=2, longest=48), Slot(size=2, longest=48), Slot(size=1, longest=96)]
    """
    ordered = np.sort(np.asarray(longest, dtype=np.int64))
    left = len(ordered)
    found: list[Slot] = []
    while left:
        size, limit = batch_size, sys.maxsize
        if max_frames:
            size = min(size, devices * (max_frames // padded(int(ordered[left - 1]), shapes)))
        size = min(size, left)
        if max_frames:
            limit = longest_within(max_frames // -(-size // devices), shapes)
        found.append(Slot(size, limit))
        left -= size
    return found[::-1]


def plan_epoch(lengths: ArrayLike, slots: Sequence[Slot], *, seed: int, epoch: int, jitter: float) -> Batches:
    """Puts every utterance into exactly one batch of similar lengths; every epoch has other batches.

    Utterances, ordered by length times a random factor, fill the slots, and the batches are shuffled. If the data set
    does not divide into equal batches, one slot is smaller. Its place in the order is random, so that the smaller batch
    does not always get the shortest utterances.

    Args:
      lengths: frames of each utterance in this epoch.
      slots: from ``slots``, of the same utterances.
      seed: the run's seed.
      epoch: counted from 0.
      jitter: the factor is uniform in 1 +- ``jitter``; with 0, equal lengths keep their order.

    Returns:
      Batches of indices into ``lengths``, each from short to long but for the jitter.
    """
    frames = np.asarray(lengths, dtype=np.int64)
    generator = rng.generator(rng.fold_in(seed, "plan", epoch))
    factors = 1 + jitter * (2 * torch.rand(len(frames), generator=generator, dtype=torch.float64) - 1)
    order = np.argsort(frames * factors.numpy(), kind="stable")
    place = 0
    if len(slots) > 1 and slots[0].size < slots[1].size:
        place = int(torch.randint(_places(slots) + 1, (), generator=generator))
    batches = _fill(order, frames, _move_first(slots, place))
    return batches.reordered(torch.randperm(len(batches), generator=generator).numpy())


def plan_sorted(lengths: ArrayLike, slots: Sequence[Slot]) -> Batches:
    """Puts every utterance into one batch, from short to long: for evaluation, and for the first epoch of SortaGrad.

    SortaGrad: Amodei et al., "Deep Speech 2", 2015, section 3.2.
    """
    frames = np.asarray(lengths, dtype=np.int64)
    return _fill(np.argsort(frames, kind="stable"), frames, _move_first(slots, _places(slots)))


def _places(slots: Sequence[Slot]) -> int:
    """The number of slots, all in front of the others, that are at least as large as the first slot."""
    return sum(slot.size >= slots[0].size for slot in slots[1:])


def _move_first(slots: Sequence[Slot], place: int) -> list[Slot]:
    """Moves the first slot behind ``place`` others.

    It takes the limit of the slot in front of it, since ``_fill`` needs limits that do not fall. The slots that it has
    passed get shorter utterances than before, the slots behind it the same ones.
    """
    if len(slots) < 2:
        return list(slots)
    first, *others = slots
    limit = min(first.longest, others[max(place - 1, 0)].longest)
    return [*others[:place], Slot(first.size, limit), *others[place:]]


def _fill(order: NDArray[np.int64], lengths: NDArray[np.int64], slots: Sequence[Slot]) -> Batches:
    """Fills each slot with the first utterances in ``order`` that are left and within its limit.

    Limits must not fall along the slots. Then an earlier slot takes nothing that a later slot needs: every utterance
    that is short enough for the earlier slot is short enough for the later one. Slots of one limit are filled together:
    the places in the order that are admitted and left, cut one slot after another.
    """
    sizes = np.array([slot.size for slot in slots], dtype=np.int64)
    limits = [slot.longest for slot in slots]
    firsts = [index for index in range(len(slots)) if not index or limits[index] != limits[index - 1]]
    ordered = lengths[order]  # lengths by place
    by_length = np.argsort(ordered, kind="stable")  # places
    sorted_lengths = ordered[by_length]
    left, admitted, taken = by_length[:0], 0, []
    for first, after in itertools.pairwise([*firsts, len(slots)]):
        before, admitted = admitted, int(np.searchsorted(sorted_lengths, limits[first], side="right"))
        left = np.sort(np.concatenate((left, by_length[before:admitted])))
        taken.append(left[: sizes[first:after].sum()])
        left = left[len(taken[-1]) :]
    return Batches(order[np.concatenate([*taken, left])], np.concatenate(([0], np.cumsum(sizes))))


def shard(batch: Sequence[int], *, index: int, count: int) -> list[int]:
    """The shard ``index`` of ``count`` of a global batch: every ``count``-th utterance, so that shards pad alike.

    A shard is empty when the batch has fewer utterances than there are shards.

    >>> shard([5, 2, 9, 4, 7], index=1, count=2)
    [2, 4]
    """
    return list(batch[index::count])
