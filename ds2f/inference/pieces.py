"""Cuts recordings of any length into pieces of the lengths that the model was trained on, in constant memory.

A recording that is no longer than ``longest`` is one piece. A longer one is cut in its pauses, and long pauses belong
to no piece: a model hears words in noise. Where a piece would become too long without a pause, the next piece begins
``overlap`` seconds before its end, and ``join`` chooses the frame in which the logits of the two meet::

    samples   ~~~~~~~~~~~______~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~______
    pieces    |----------|   |---------------------|             |
                                             |------------------|
                       pause             overlap                 pause
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds2f.inference.pauses import Energy, Measurements, PauseDetector, Samples

_SHORTEST_PAUSE = 0.15  # seconds


class Cutting(NamedTuple):
    """Lengths of pieces, seconds.

    The defaults suit models that were trained on utterances of a few seconds: chosen on AN4's validation set, joined
    with and without silences (``launch.longform``). Models of long utterances may do better with longer pieces.
    """

    shortest: float = 1.0  # no cut before
    longest: float = 25.0
    pause: float = 0.4  # a pause that is as long ends a piece at once; otherwise the longest pause does
    margin: float = 0.5  # of a pause that is left at either side of a cut
    overlap: float = 4.0  # of pieces without a pause between them

    def at_most(self, seconds: float) -> "Cutting":
        """Lengths for a model that takes so many seconds in one piece; these, if they are shorter already.

        >>> Cutting().at_most(6.2)
        Cutting(shortest=1.0, longest=6.2, pause=0.4, margin=0.5, overlap=1.55)
        """
        if seconds >= self.longest:
            return self
        quarter = seconds / 4
        return self._replace(shortest=min(self.shortest, quarter), longest=seconds, overlap=min(self.overlap, quarter))


class Piece(NamedTuple):
    """A part of a recording."""

    begin: int  # its first sample, counted from the recording's; a multiple of the grid
    samples: Samples  # [N]
    shared: int  # samples at its beginning that are the last ones of the piece before; 0 after a pause
    end: int  # where its speech ends, at most: two pieces may both have the samples of a short pause


def cut(
    blocks: Iterable[Samples],
    *,
    rate: int,
    grid: int,
    cutting: Cutting = Cutting(),  # noqa: B008  immutable
    detector: Callable[[int], PauseDetector] = Energy,
) -> Iterator[Piece]:
    """Cuts a recording, holding at most ``longest`` seconds and a block of it. A silent recording has no pieces.

    Args:
      blocks: the samples in order, in arrays of any length.
      rate: samples per second.
      grid: samples per frame of logits; pieces that overlap begin at multiples, so that their frames coincide.
      cutting: lengths.
      detector: makes what tells pauses from speech, for samples of a rate.
    """
    source = iter(blocks)
    held: Samples = np.zeros(0, np.float32)
    begin, shared, ended, measured = 0, 0, False, Measurements(detector(rate))
    longest, margin = _on_grid(cutting.longest * rate, grid), round(cutting.margin * rate)
    while True:
        while len(held) <= longest and not ended:
            block = next(source, None)
            ended = block is None
            if block is not None:
                held = np.concatenate((held, block))
        last, end = len(held) <= longest, begin + min(len(held), longest)
        if last and not begin:
            if held.any():
                yield Piece(begin, held, shared, end)
            return
        measured.measure(held, begin, end)
        pauses = measured.pauses(begin, end)
        silence = 0 if shared else _leading(pauses, begin, measured.hop)
        if silence >= max(2 * margin, grid):
            if last and silence > len(held) - measured.hop:
                return
            following = max(grid, _on_grid(silence - margin, grid))
            begin, held = begin + following, held[following:]
            continue
        if last:
            if len(held) > shared:
                yield Piece(begin, held, shared, end)
            return
        earliest = begin + max(shared, round(cutting.shortest * rate))
        pause = _best_pause(pauses, earliest, rate, cutting)
        if pause is None:
            following = _on_grid(longest - cutting.overlap * rate, grid)
            yield Piece(begin, held[:longest], shared, end)
            begin, held, shared = begin + following, held[following:], longest - following
            continue
        stop, start = min(pause[0] + margin, pause[1]), _on_grid(max(pause[1] - margin, pause[0]), grid)
        yield Piece(begin, held[: stop - begin], shared, min(stop, start))
        begin, held, shared = start, held[start - begin :], 0


def join(first: NDArray[np.floating], second: NDArray[np.floating], shared: int, *, blank: int = 0) -> tuple[int, int]:
    """Chooses where the logits of two overlapping pieces meet: where both name the blank with most certainty.

    Args:
      first: [T1, V] log-probabilities of the earlier piece.
      second: [T2, V] log-probabilities of the later one, whose first ``shared`` frames are the last of ``first``.
      shared: frames in both.
      blank: index of CTC's blank.

    Returns:
      (frames of ``first`` to keep, frames of ``second`` to drop). The frames near the ends of the overlap are not
      chosen: there one piece lacks what comes before or after.
    """
    quarter = shared // 4
    ours = first[len(first) - shared + quarter : len(first) - quarter or None, blank]
    theirs = second[quarter : shared - quarter, blank]
    chosen = quarter + int((ours + theirs).argmax()) if len(ours) else shared // 2
    return len(first) - shared + chosen, chosen


def _leading(pauses: Sequence[tuple[int, int]], begin: int, hop: int) -> int:
    """Samples of the pause that begins at ``begin``, within a measurement."""
    return pauses[0][1] - begin if pauses and pauses[0][0] - begin < hop else 0


def _best_pause(
    pauses: Iterable[tuple[int, int]], earliest: int, rate: int, cutting: Cutting
) -> tuple[int, int] | None:
    """The samples between which to cut, ``earliest`` or later: the first long pause, else the longest."""
    late = [(max(begin, earliest), end) for begin, end in pauses]
    late = [(begin, end) for begin, end in late if end - begin >= _SHORTEST_PAUSE * rate]
    for begin, end in late:
        if end - begin >= cutting.pause * rate:
            return begin, end
    return max(late, key=lambda pause: pause[1] - pause[0], default=None)


def _on_grid(samples: float, grid: int) -> int:
    return int(samples) // grid * grid
