"""Padded lengths of batches, and the choice of a few lengths with little padding for devices that compile each one."""

import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

MULTIPLE = 8  # of all padded lengths: oneDNN compiles a program for each length, which takes a tenth of a step


def padded(frames: int, shapes: Sequence[int] = ()) -> int:
    """The length to which a batch is padded: the shortest sufficient entry of ``shapes``, else a multiple of 8.

    Args:
      frames: frames of the longest utterance of the batch.
      shapes: allowed lengths, ascending; empty: every multiple of 8.

    >>> padded(50), padded(50, (48, 96)), padded(100, (48, 96))
    (56, 96, 104)
    """
    place = bisect.bisect_left(shapes, frames)
    return shapes[place] if place < len(shapes) else -(-max(frames, 1) // MULTIPLE) * MULTIPLE


def longest_within(frames: int, shapes: Sequence[int] = ()) -> int:
    """The inverse of ``padded``: the greatest length that is padded to at most ``frames``; 0 when there is none.

    With ``shapes``, the result never exceeds the last of them.

    >>> longest_within(50), longest_within(100, (48, 96)), longest_within(40, (48, 96))
    (48, 96, 0)
    """
    if not shapes:
        return frames // MULTIPLE * MULTIPLE
    place = bisect.bisect_right(shapes, frames)
    return shapes[place - 1] if place else 0


def padded_lengths(frames: NDArray[np.int64], shapes: Sequence[int] = ()) -> NDArray[np.int64]:
    """``padded`` of each of many lengths, [N].

    >>> padded_lengths(np.array([50, 100]), (48, 96)).tolist()
    [96, 104]
    """
    multiples = -(-np.maximum(frames, 1) // MULTIPLE) * MULTIPLE
    allowed = np.array([*shapes, 0], dtype=np.int64)
    places = np.searchsorted(allowed[:-1], frames)
    return np.where(places < len(shapes), allowed[places], multiples)


def choose(lengths: ArrayLike, *, count: int, numbers: ArrayLike = 1) -> tuple[int, ...]:
    """Chooses the padded lengths (shapes) with the fewest frames of padding in total.

    Every utterance takes the shortest sufficient shape. Some best choice consists of the utterances' own lengths,
    rounded up to multiples of 8. Dynamic programming finds it: the best k shapes up to a length extend the best k - 1
    shapes up to a shorter length.

    Args:
      lengths: frames of the utterances, in any order, with repetitions.
      count: the number of shapes, at most; at least 1.
      numbers: how often each length occurs.

    Returns:
      At most ``count`` multiples of 8, ascending; the last is sufficient for the longest utterance.

    >>> choose([10, 10, 10, 30, 33], count=2)
    (16, 40)
    """
    rounded = padded_lengths(np.asarray(lengths, dtype=np.int64))
    values, inverse = np.unique(rounded, return_inverse=True)
    counts = np.zeros(len(values), dtype=np.int64)
    np.add.at(counts, inverse, np.broadcast_to(np.asarray(numbers, dtype=np.int64), rounded.shape))
    below = np.concatenate(([0], np.cumsum(counts)))  # [V + 1]: utterances shorter than each value
    cost = values * below[1:]  # [V]: padded frames of all utterances up to each value, with that shape alone
    before = []  # for each further shape, [V]: the place of the best shape before it
    for _ in range(min(count, len(values)) - 1):
        shorter, cost, predecessors = cost, cost.copy(), np.zeros(len(values), dtype=np.int64)
        for last in range(1, len(values)):
            totals = shorter[:last] + values[last] * (below[last + 1] - below[1 : last + 1])
            predecessors[last] = totals.argmin()
            cost[last] = totals[predecessors[last]]
        before.append(predecessors)
    place = len(values) - 1
    places = [place]
    for predecessor in reversed(before):
        place = int(predecessor[place])
        places.append(place)
    return tuple(sorted({int(values[place]) for place in places}))
