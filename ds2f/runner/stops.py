"""The end of a run before its time: requests to stop, and errors that leave the state whole. Both end in a checkpoint.

Where all ranks can agree, they vote after every step and stop together. A rank that waits for a batch or for another
rank cannot vote. It leaves the others, whose collectives then fail at once, and rank 0 writes its own state: after the
same step all ranks hold the same.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ds2f.runner.distributed.collectives import Group
from ds2f.runner.distributed.signals import stop_on_request

PATIENCE = 5.0  # seconds that a request waits for the vote of several ranks


class StopRequested(Exception):  # noqa: N818  # no error
    """A rank was asked to stop."""

    def __init__(self, *, agreed: bool) -> None:
        """Takes whether all ranks raise this exception after the same step."""
        super().__init__()
        self.agreed = agreed


class Stops:
    """The requests to stop that one rank has received."""

    def __init__(self, group: Group, *, on_host: bool) -> None:
        """Takes the ranks.

        Args:
          group: the ranks.
          on_host: whether the steps run on the host. On a device, a step that waits for another rank has begun to
            change the state, so only the wait for a batch is interrupted.
        """
        self._group = group
        self.requests: list[int] = []
        self.agreed = False  # whether the last vote was to stop
        self._since: float | None = None
        if on_host:
            group.while_waiting(self.look)

    @contextmanager
    def heeding(self) -> Iterator[None]:
        """Receives requests during the block."""
        with stop_on_request() as self.requests:
            try:
                yield
            finally:
                self.requests = []  # a request after the last vote ends no wait after the block

    def look(self) -> None:
        """Called during a wait; ends it where a request cannot be put to the vote in time.

        Raises:
          StopRequested: at once on a single rank; of several ranks, after ``PATIENCE``.
        """
        if not self.requests:
            return
        self._since = self._since or time.monotonic()
        if self._group.size == 1 or time.monotonic() - self._since > PATIENCE:
            raise StopRequested(agreed=False)

    def vote(self, *counts: float) -> list[float]:
        """Asks all ranks after a step whether one of them was asked to stop. All ranks call it.

        Args:
          *counts: of this rank.

        Returns:
          The sums of ``counts`` over the ranks; ``obey`` acts on the result of the vote.
        """
        requested, *sums = self._group.sum([bool(self.requests), *counts])
        self.agreed = requested > 0
        if self.agreed:  # what follows is agreed: nobody is waited for in vain
            self._since = float("inf")
        return sums

    def obey(self) -> None:
        """Raises ``StopRequested`` on every rank if the last vote was to stop."""
        if self.agreed:
            raise StopRequested(agreed=True)

    def vote_and_obey(self) -> None:
        """Raises ``StopRequested`` on every rank if a rank was asked to stop. All ranks call it."""
        self.vote()
        self.obey()

    def leave(self, reason: str, save: Callable[[], None]) -> None:
        """Leaves the other ranks, if they are still there. Rank 0 calls ``save``; the others wait until it has.

        Args:
          reason: for the other ranks' messages.
          save: writes a checkpoint without the other ranks.
        """
        self._group.abandon(reason)
        if self._group.rank == 0:
            try:
                save()
            finally:
                self._group.tell_saved()
        else:
            self._group.wait_until_saved()
