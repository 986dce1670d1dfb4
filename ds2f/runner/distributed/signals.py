"""Requests to stop, from the terminal or a scheduler: the run writes a checkpoint and exits with a status for each."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Ctrl-C; SIGTERM and SIGUSR1 of schedulers before they take a machine away; SIGHUP of a terminal that closes.
REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
STATUSES = frozenset(128 + number for number in REQUESTS)  # exit statuses of a run that stopped on request


class Stopped(Exception):  # noqa: N818  # no error
    """The run stopped on request, with its checkpoint written; the message says how to go on."""

    def __init__(self, message: str, status: int) -> None:
        """Takes the message and the exit status: 128 + the signal's number, as shells count."""
        super().__init__(message)
        self.status = status


@contextmanager
def stop_on_request() -> Iterator[list[int]]:
    """Appends requests to stop to a list, which is then true; a second Ctrl-C interrupts at once."""
    requests: list[int] = []

    def handler(number: int, _: FrameType | None) -> None:
        if not requests:
            requests.append(number)
            if "DS2F_AGENT" not in os.environ and os.environ.get("RANK", "0") == "0":  # the agent says so itself
                _acknowledge()
        # A scheduler's signal to all processes arrives twice under an agent, which passes its own on: this project's
        # agent as Ctrl-C. At a second request, this project's agent kills the ranks itself.
        elif number == signal.SIGINT and "DS2F_AGENT" not in os.environ:
            raise KeyboardInterrupt("stopped at once: the steps since the last checkpoint are lost")

    before = {number: signal.getsignal(number) for number in REQUESTS}
    for number, old in before.items():
        if number == signal.SIGINT or old is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, handler)
    try:
        yield requests
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _acknowledge() -> None:
    """Says that a request has come: a step may take a minute. Written past Python's buffers, as handlers have to."""
    line = b"stopping: the run finishes its step and writes a checkpoint; Ctrl-C now ends it at once\n"
    with suppress(OSError):  # nobody reads standard error
        os.write(2, b"\n" * os.isatty(2) + line)
