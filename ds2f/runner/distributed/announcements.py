"""What an agent prints: each event in one line of its own."""

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ds2f.errors import InputError
from ds2f.text import shown


def announce(message: str) -> None:
    """Prints a line to standard error, after the program's name."""
    with suppress(OSError):  # the terminal may be closed
        print(f"{Path(sys.argv[0]).stem}: {shown(message, lines=True)}", file=sys.stderr, flush=True)


def silence_torch_elastic() -> None:
    """Drops the log records of torch's elastic modules: the agent prints each event itself."""
    for name in ("torch.distributed.elastic", "etcd", "urllib3"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "rank"), counted(2, "rank")
    ('1 rank', '2 ranks')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Silence:
    """The silence of a rendezvous while the ranks are well: they go on to the next checkpoint, and the job ends there.

    Ranks need the rendezvous only to begin. If it answers again before the next checkpoint, the job goes on.
    """

    def __init__(self, newest: Callable[[], int], tell: Callable[[str], None] = announce) -> None:
        """Takes what returns the iteration of the newest checkpoint, -1 if there is none, and what prints a line."""
        self._newest, self._tell = newest, tell
        self._reached: int | None = None  # the newest checkpoint when the silence was noticed

    def bear(self, error: InputError) -> None:
        """Called while the rendezvous is silent.

        Raises:
          InputError: once a newer checkpoint is written; the message names the rendezvous and the checkpoint.
        """
        newest = self._newest()
        if self._reached is None:
            self._reached = newest
            self._tell(
                f"{str(error).split(': ')[0]}. The ranks go on to the next checkpoint; if it is silent until then, the "
                "job ends there"
            )
        elif newest > self._reached:
            raise InputError(f"{error} The ranks have written checkpoint {newest}.") from error

    def end(self) -> None:
        """Called when the rendezvous answers."""
        if self._reached is not None:
            self._tell("the rendezvous answers again; the job goes on")
            self._reached = None
