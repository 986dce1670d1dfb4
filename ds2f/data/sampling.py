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

import heapq
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ds2f import rng
from ds2f.data.padding import longest_within, padded


class Slot(NamedTuple):
    """Size and length limit of one global batch, the same in every epoch."""

    size: int  # utterances, exactly
    longest: int  # frames of each utterance, at most


def slots(
    longest: Sequence[int], *, batch_size: int, devices: int = 1, max_frames: int = 0, shapes: Sequence[int] = ()
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
    ordered, left = sorted(longest), len(longest)
    found: list[Slot] = []
    while left:
        size, limit = batch_size, sys.maxsize
        if max_frames:
            size = min(size, devices * (max_frames // padded(ordered[left - 1], shapes)))
        size = min(size, left)
        if max_frames:
            limit = longest_within(max_frames // -(-size // devices), shapes)
        found.append(Slot(size, limit))
        left -= size
    return found[::-1]


def plan_epoch(
    lengths: Sequence[int], slots: Sequence[Slot], *, seed: int, epoch: int, jitter: float
) -> list[list[int]]:
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
    generator = rng.generator(rng.fold_in(seed, "plan", epoch))
    factors = 1 + jitter * (2 * torch.rand(len(lengths), generator=generator, dtype=torch.float64) - 1)
    order = torch.argsort(torch.tensor(lengths, dtype=torch.float64) * factors, stable=True).tolist()
    place = 0
    if len(slots) > 1 and slots[0].size < slots[1].size:
        place = int(torch.randint(_places(slots) + 1, (), generator=generator))
    batches = _fill(order, lengths, _move_first(slots, place))
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


def plan_sorted(lengths: Sequence[int], slots: Sequence[Slot]) -> list[list[int]]:
    """Puts every utterance into one batch, from short to long: for evaluation, and for the first epoch of SortaGrad.

    SortaGrad: Amodei et al., "Deep Speech 2", 2015, section 3.2.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return _fill(order, lengths, _move_first(slots, _places(slots)))


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


def _fill(order: Sequence[int], lengths: Sequence[int], slots: Sequence[Slot]) -> list[list[int]]:
    """Fills each slot with the first utterances in ``order`` that are left and within its limit.

    Limits must not fall along the slots. Then an earlier slot takes nothing that a later slot needs: every utterance
    that is short enough for the earlier slot is short enough for the later one.
    """
    waiting = sorted(range(len(order)), key=lambda place: lengths[order[place]], reverse=True)  # shortest at the end
    admitted: list[int] = []  # a heap of places in the order
    batches = []
    for size, longest in slots:
        while waiting and lengths[order[waiting[-1]]] <= longest:
            heapq.heappush(admitted, waiting.pop())
        batches.append([order[heapq.heappop(admitted)] for _ in range(size)])
    return batches


def shard(batch: Sequence[int], *, index: int, count: int) -> list[int]:
    """The shard ``index`` of ``count`` of a global batch: every ``count``-th utterance, so that shards pad alike.

    A shard is empty when the batch has fewer utterances than there are shards.

    >>> shard([5, 2, 9, 4, 7], index=1, count=2)
    [2, 4]
    """
    return list(batch[index::count])
