"""Which utterances share a batch, and in what order: a function of the lengths, the seed and the epoch alone."""

import heapq
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ds2f import rng
from ds2f.data.padding import padded, room


class Slot(NamedTuple):
    """The place of one global batch in every epoch."""

    size: int  # utterances, exactly
    longest: int  # frames that none of them may exceed


def slots(
    longest: Sequence[int], *, batch_size: int, cards: int = 1, max_frames: int = 0, shapes: Sequence[int] = ()
) -> list[Slot]:
    """Divides the epoch into global batches: the same number of the same sizes in every epoch.

    The utterances are ordered by the greatest length that each can come to, and from the longest down every batch
    takes as many as are allowed at that length. Whatever is drawn for an epoch, its i-th shortest utterance is no
    longer than the i-th of that order, so that the slots can be filled in every epoch.

    Args:
      longest: frames that each utterance can come to at most.
      batch_size: utterances in a global batch, at most.
      cards: cards that share a global batch.
      max_frames: frames with padding that one card's shard holds at most, no fewer than any utterance alone; 0: no
        limit.
      shapes: the lengths that batches are padded to; none: every multiple of 8.

    Returns:
      Slots from short to long, none larger than the one before it, except that the first takes what remains.
    """
    ordered, left = sorted(longest), len(longest)
    found: list[Slot] = []
    while left:
        size, limit = batch_size, sys.maxsize
        if max_frames:
            size = min(size, cards * (max_frames // padded(ordered[left - 1], shapes)))
        size = min(size, left)
        if max_frames:
            limit = room(max_frames // -(-size // cards), shapes)
        found.append(Slot(size, limit))
        left -= size
    return found[::-1]


def plan_epoch(
    lengths: Sequence[int], slots: Sequence[Slot], *, seed: int, epoch: int, jitter: float
) -> list[list[int]]:
    """Puts every utterance into exactly one batch of similar lengths, other ones every epoch.

    Utterances are ordered by their length times a random factor and fill the slots in this order, which are then
    shuffled. The slot that is smaller, where the sizes do not divide, has a random place among those that are no
    smaller, so that it is not always the same utterances that are few together.

    Args:
      lengths: frames of each utterance in this epoch.
      slots: of the epoch's batches, made from the greatest lengths of the same utterances.
      seed: of the run.
      epoch: counted from 0.
      jitter: the factor is uniform in 1 +- this; 0 leaves equal lengths in their order.

    Returns:
      Batches of indices into ``lengths``, each ordered from short to long, but for the jitter.
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
    """Batches every utterance once, from short to long: for evaluation, and for a first epoch as SortaGrad's.

    Source of the latter: Amodei et al., "Deep Speech 2", 2015, section 3.2.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return _fill(order, lengths, _move_first(slots, _places(slots)))


def _places(slots: Sequence[Slot]) -> int:
    """Behind how many of the other slots the first may stand: those that are no smaller, all in front."""
    return sum(slot.size >= slots[0].size for slot in slots[1:])


def _move_first(slots: Sequence[Slot], place: int) -> list[Slot]:
    """Moves the first slot behind ``place`` others.

    Its limit becomes its neighbour's, so that limits grow along the slots, as filling them takes for granted. Those
    that it has passed hold shorter utterances than before, and those behind it the same.
    """
    if len(slots) < 2:
        return list(slots)
    first, *others = slots
    limit = min(first.longest, others[max(place - 1, 0)].longest)
    return [*others[:place], Slot(first.size, limit), *others[place:]]


def _fill(order: Sequence[int], lengths: Sequence[int], slots: Sequence[Slot]) -> list[list[int]]:
    """Fills each slot with the first utterances in ``order`` that are left and not too long for it.

    Limits must grow along the slots. Then nothing that an earlier slot took could have been spared for a later one: it
    would have been short enough there, and there are as many others.
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

    A shard is empty when the batch holds fewer utterances than there are shards.
    """
    return list(batch[index::count])
