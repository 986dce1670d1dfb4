"""Loader processes: none outlives the process that it loads for, and none dies unnoticed."""

import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType

from ds2f.errors import WorkerDied
from ds2f.processes import die_with_parent

_LEFT_TO_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_PATIENCE = 2.0  # seconds from the first sign of a death to the process's exit status, at most
_MEANINGS = {
    signal.SIGKILL: "which is how the system ends a process when memory runs out (dmesg tells). Take fewer loader "
    "processes, {fewer}, or leave out the longest recordings, --data.max_duration=SECONDS.",
    signal.SIGBUS: "which is what happens when shared memory is full (df /dev/shm tells). Enlarge it (docker: "
    "--shm-size=8g), or load in the training process, --data.num_workers=0.",
}
_UNEXPLAINED = "Its own messages are above; --data.num_workers=0 loads in the training process, which may tell more."


def begin(_: int) -> None:
    """What a loader process does first: it dies with its parent, and leaves the signals that end a run to it.

    Terminals and schedulers send those to every process, and the parent may still want batches before it ends.
    """
    for number in _LEFT_TO_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    die_with_parent(parent.pid if parent else None)


class Watch:
    """The processes of one loader. The death of any, of whichever loader, ends the wait for a batch.

    torch's own handler of SIGCHLD raises wherever the run happens to be, in the middle of a step or of a checkpoint;
    here the error comes out of the loader and nowhere else.
    """

    def __init__(self) -> None:
        self._processes: frozenset[BaseProcess] = frozenset()
        self._waiting = False
        self._obituary: str | None = None
        _watches.add(self)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Takes the processes that the block starts under its eye."""
        others = set(multiprocessing.active_children())
        yield
        self._processes = frozenset(multiprocessing.active_children()) - others
        # One that waits for a lock which a dead one held never ends, and Python would wait for it at its own exit.
        weakref.finalize(self, _kill, self._processes, os.getpid())
        if self._processes and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, _on_exit)  # in the place of torch's

    def wait(self) -> None:
        """Begins to wait for a batch: until ``rest``, a death raises at once.

        Raises:
          WorkerDied: a process has died; the message has its exit status, the likely cause and the remedy.
        """
        self._waiting = True
        _check()

    def rest(self) -> None:
        """Ends the wait: what dies from now on is told by the next one."""
        self._waiting = False

    def explain(self, error: Exception) -> None:
        """Raises ``WorkerDied`` when a death explains ``error``, which a wait has ended with; else returns."""
        self._waiting = False
        if self._processes:
            ended = connection.wait([process.sentinel for process in self._processes], _PATIENCE)
            for process in self._processes:
                if process.sentinel in ended:
                    process.join(_PATIENCE)  # its last file closes a moment before it has an exit status
        _check(error)

    def stop(self) -> None:
        """Ends the processes that have not ended by themselves; their death is nobody's concern any more."""
        processes, self._processes, self._obituary = self._processes, frozenset(), None
        _kill(processes, os.getpid())


_watches: "weakref.WeakSet[Watch]" = weakref.WeakSet()


def _on_exit(_: int, __: FrameType | None) -> None:
    if any(watch._waiting for watch in _watches):
        _check()


def _check(cause: Exception | None = None) -> None:
    for watch in _watches:
        dead = [process for process in watch._processes if process.exitcode is not None]
        if dead and not watch._obituary:
            watch._obituary = _obituary(dead[0], len(watch._processes))
            _kill(watch._processes, os.getpid())  # they load for nobody, and may wait for a lock that the dead one held
        if watch._obituary:
            raise WorkerDied(watch._obituary) from cause


def _obituary(process: BaseProcess, processes: int) -> str:
    status = process.exitcode or 0
    if status >= 0:
        return f"loader process {process.pid} ended with status {status}. {_UNEXPLAINED}"
    number = signal.Signals(-status)
    meaning = _MEANINGS.get(number)
    told = f", {meaning.format(fewer=f'--data.num_workers={processes // 2}')}" if meaning else f". {_UNEXPLAINED}"
    return f"loader process {process.pid} was killed by {number.name}{told}"


def _kill(processes: Iterable[BaseProcess], parent: int) -> None:
    for process in processes if os.getpid() == parent else ():  # a forked process inherits the list, not the children
        if process.exitcode is None:
            process.kill()
