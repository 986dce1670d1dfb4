"""Padded lengths: what batches are filled up to, and the few lengths that waste the least where each one is dear."""

import bisect
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

MULTIPLE = 8  # padded lengths are multiples: oneDNN keeps a program for each, and makes one anew in a tenth of a step


def padded(frames: int, shapes: Sequence[int] = ()) -> int:
    """The length that ``frames`` are padded to: the shortest of ``shapes`` that holds them, else a multiple of 8.

    Args:
      frames: of the longest utterance of a batch.
      shapes: the lengths to choose from, from short to long; none: every multiple.
    """
    place = bisect.bisect_left(shapes, frames)
    return shapes[place] if place < len(shapes) else -(-max(frames, 1) // MULTIPLE) * MULTIPLE


def room(frames: int, shapes: Sequence[int] = ()) -> int:
    """The inverse of ``padded``: the longest utterance that is padded to ``frames`` at most; 0 when there is none.

    None is longer than the last of ``shapes``.
    """
    if not shapes:
        return frames // MULTIPLE * MULTIPLE
    place = bisect.bisect_right(shapes, frames)
    return shapes[place - 1] if place else 0


def choose(lengths: Iterable[int], *, count: int) -> tuple[int, ...]:
    """Finds the lengths that together pad the fewest frames, when each utterance takes the shortest that holds it.

    A shape that is no utterance's own length only wastes, so there is a best choice among the lengths (rounded up to
    multiples of 8); the best set of k shapes below one of them extends a best set of k - 1 shapes below a shorter one.

    Args:
      lengths: frames of the utterances, in any order; one that stands twice counts twice.
      count: how many shapes there may be, at least 1.

    Returns:
      At most ``count`` multiples of 8, from short to long, of which the last holds the longest utterance.
    """
    counted = sorted(Counter(padded(length) for length in lengths).items())
    values, numbers = (np.array(column, dtype=np.int64) for column in zip(*counted, strict=True))
    below = np.concatenate(([0], np.cumsum(numbers)))  # [V + 1]: utterances shorter than each value
    cost = values * below[1:]  # [V]: frames of all up to each value, when it is the one shape
    before = []  # per further shape, where its predecessor stands
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
