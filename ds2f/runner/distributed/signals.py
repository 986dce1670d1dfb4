"""What the terminal and the scheduler ask of a run, which stops in order: a checkpoint, then a status of its own."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; what schedulers send before they take a machine away; a terminal that closes.
REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
STATUSES = frozenset(128 + number for number in REQUESTS)  # with which a run ends that stopped on request


class Stopped(Exception):  # noqa: N818  # no error
    """The run was asked to stop, and did so with all kept; the message says how to go on."""

    def __init__(self, message: str, status: int) -> None:
        """Takes the message and the exit status: 128 + the signal's number, as shells count."""
        super().__init__(message)
        self.status = status


@contextmanager
def stop_on_request() -> Iterator[list[int]]:
    """Collects requests to stop in a list, which becomes true; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def handler(number: int, _: FrameType | None) -> None:
        if not asked:
            asked.append(number)
        # A scheduler's signal to all processes comes twice: an agent passes on what it gets, ours as Ctrl-C. Ours also
        # ends the ranks itself when it is asked again.
        elif number == signal.SIGINT and "DS2F_AGENT" not in os.environ:
            raise KeyboardInterrupt("stopped at once: what was done since the last checkpoint is lost")

    before = {number: signal.getsignal(number) for number in REQUESTS}
    for number, old in before.items():
        if number == signal.SIGINT or old is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, handler)
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)
