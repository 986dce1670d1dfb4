"""The order in which pieces of recordings are computed: fair between recordings, in batches of like length.

Every piece has a tag, a place in virtual time. A recording's first piece is tagged with the present; each further piece
with the tag of the piece before plus the frames of that piece. The present moves by the frames that were computed,
divided by the number of recordings. A recording of an hour so gets its share of the device and no more, and new short
ones do not starve it either (weighted fair queueing: Demers, Keshav and Shenker, SIGCOMM 1989, with equal weights).
"""

from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

Content = TypeVar("Content")
LEAST_FILLED = 0.9  # of a batch: with more padding, batches are slower than single pieces


class Queued(NamedTuple, Generic[Content]):
    """A piece that waits."""

    tag: float
    number: int  # of arrival, which decides between equal tags
    owner: Hashable  # the recording
    frames: int  # of the piece's spectrogram
    since: float  # the time of arrival, seconds
    content: Content


class FairQueue(Generic[Content]):
    """Pieces that wait for the device. Not thread-safe.

    >>> queue = FairQueue()
    >>> for piece in range(3):
    ...     queue.add("long", 2500, f"long {piece}", now=0.0)
    >>> queue.add("short", 300, "short", now=0.0)
    >>> [queue.take(budget=1)[0].content for _ in range(4)]
    ['long 0', 'short', 'long 1', 'long 2']
    """

    def __init__(self) -> None:
        self._queued: list[Queued[Content]] = []
        self._tags: dict[Hashable, float] = {}  # of each recording's next piece
        self._present, self._arrivals = 0.0, 0

    def __len__(self) -> int:
        return len(self._queued)

    def add(self, owner: Hashable, frames: int, content: Content, *, now: float) -> None:
        """Adds a piece.

        Args:
          owner: the recording.
          frames: of the piece's spectrogram.
          content: what ``take`` returns.
          now: the time, seconds.
        """
        tag = max(self._tags.get(owner, 0.0), self._present)
        self._tags[owner] = tag + frames
        self._arrivals += 1
        self._queued.append(Queued(tag, self._arrivals, owner, frames, now, content))

    def discard(self, owner: Hashable) -> None:
        """Forgets a recording, which has ended or whose client has left."""
        self._tags.pop(owner, None)
        self._queued = [each for each in self._queued if each.owner != owner]

    @property
    def oldest(self) -> float | None:
        """The arrival of the piece that waits longest, seconds; None if none waits."""
        return min((each.since for each in self._queued), default=None)

    def fills(self, budget: int) -> bool:
        """Whether a batch cannot become larger by waiting."""
        chosen = self._like(min(self._queued), budget)
        return max(each.frames for each in chosen) * (len(chosen) + 1) > budget

    def take(self, budget: int) -> list[Queued[Content]]:
        """Removes the piece whose turn it is, with others of like length: its batch.

        Args:
          budget: frames of the batch at most, padding included; one piece is always taken.
        """
        chosen = self._like(min(self._queued), budget)
        numbers = {each.number for each in chosen}
        self._queued = [each for each in self._queued if each.number not in numbers]
        self._present += sum(each.frames for each in chosen) / max(1, len(self._tags))
        return chosen

    def _like(self, head: Queued[Content], budget: int) -> list[Queued[Content]]:
        """The batch of ``head``: the pieces whose lengths are nearest to its own, as many as the limits allow."""
        chosen, longest, filled = [head], head.frames, head.frames
        others = (each for each in self._queued if each.number != head.number)
        for each in sorted(others, key=lambda each: (abs(each.frames - head.frames), each.tag, each.number)):
            wider, more = max(longest, each.frames), filled + each.frames
            padded = wider * (len(chosen) + 1)
            if padded > budget or more < LEAST_FILLED * padded:
                break
            chosen.append(each)
            longest, filled = wider, more
        return chosen
