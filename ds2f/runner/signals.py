"""What the terminal asks of a run."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """The user asked the run to stop, and it did so cleanly; the message says how to go on."""


@contextmanager
def stop_on_interrupt() -> Iterator[list[bool]]:
    """Collects Ctrl-C in a list, which becomes true; a second Ctrl-C interrupts at once."""
    asked: list[bool] = []

    def handler(_: int, __: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt("stopped at once: what was done since the last checkpoint is lost")
        asked.append(True)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
