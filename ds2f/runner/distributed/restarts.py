"""The restarts that a job may still take after failures: ``max_restarts``, given back after a stretch of progress."""

import time
from collections.abc import Callable, Sequence
from typing import Any


class Restarts:
    """The restarts of a job, as the agent of one machine counts them.

    Without progress a job starts again ``most`` times at most. Progress is a newer checkpoint, ``window`` seconds or
    more after the last restart: then all restarts are given back. A machine that cannot read the checkpoints sees no
    progress; it takes over the count of one that can.
    """

    def __init__(
        self,
        most: int,
        *,
        window: float = 0.0,
        newest: Callable[[], int] = lambda: -1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins to count.

        Args:
          most: ``max_restarts``.
          window: ``restart_window``, seconds; 0: restarts are never given back.
          newest: returns the iteration of the newest checkpoint, -1 if there is none or it is unknown.
          clock: returns seconds.
        """
        self._most, self._window, self._newest, self._clock = most, window, newest, clock
        self.total = 0  # since the start of the job, those given back included
        self._used = 0
        self._since, self._reached = clock(), newest()

    def values(self) -> dict[str, int]:
        """The counts, for the other machines."""
        return {"restarts": self.total, "used": self._used}

    def agree(self, nodes: Sequence[dict[str, Any]]) -> None:
        """Takes over the counts of a job of several machines; a machine that has just joined has counted less.

        Args:
          nodes: the ``values`` of all machines.
        """
        self.total = max(node["restarts"] for node in nodes)
        self._used = min(node["used"] for node in nodes if node["restarts"] == self.total)

    def take(self) -> int:
        """Takes a restart. Returns the number of restarts left; -1 if there was none to take."""
        now, newest = self._clock(), self._newest()
        if self._window and now - self._since >= self._window and newest > self._reached:
            self._used = 0
        if self._used >= self._most:
            return -1
        self._since, self._reached = now, max(newest, self._reached)
        self._used += 1
        self.total += 1
        return self._most - self._used

    def give_back(self) -> None:
        """Gives back the last restart, which was for no failure."""
        self.total -= 1
        self._used = max(self._used - 1, 0)
