"""Loader processes: they end with the training process, and a death is reported with its cause."""

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
    """Prepares a loader process: it dies with its parent, and ignores the signals that end a run.

    Terminals and schedulers send these signals to every process, but the parent may need more batches before it ends.
    """
    for number in _LEFT_TO_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    die_with_parent(parent.pid if parent else None)


class Watch:
    """Watches the processes of one loader. A death in any loader ends the wait for a batch with an error.

    torch's own handler of SIGCHLD raises anywhere in the run, also inside a step or a checkpoint. Here only the wait
    for a batch raises.
    """

    def __init__(self) -> None:
        self._processes: frozenset[BaseProcess] = frozenset()
        self._waiting = False
        self._death: str | None = None
        _watches.add(self)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Watches the processes that the block starts."""
        others = set(multiprocessing.active_children())
        yield
        self._processes = frozenset(multiprocessing.active_children()) - others
        # A process that waits for a dead process's lock never ends, and Python would wait for it at exit.
        weakref.finalize(self, _kill, self._processes, os.getpid())
        if self._processes and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, _on_exit)  # replaces torch's handler

    def wait(self) -> None:
        """Begins the wait for a batch: until ``rest``, the death of a process raises at once.

        Raises:
          WorkerDied: a process has died; the message has its exit status, the likely cause and the remedy.
        """
        self._waiting = True
        _check()

    def rest(self) -> None:
        """Ends the wait; the next wait reports processes that die in between."""
        self._waiting = False

    def explain(self, error: Exception) -> None:
        """Raises ``WorkerDied`` if the death of a process explains ``error``, which ended a wait; else returns."""
        self._waiting = False
        if self._processes:
            ended = connection.wait([process.sentinel for process in self._processes], _PATIENCE)
            for process in self._processes:
                if process.sentinel in ended:
                    process.join(_PATIENCE)  # its sentinel closes a moment before the exit status is there
        _check(error)

    def stop(self) -> None:
        """Kills the processes that still run; their death is not reported."""
        processes, self._processes, self._death = self._processes, frozenset(), None
        _kill(processes, os.getpid())


_watches: "weakref.WeakSet[Watch]" = weakref.WeakSet()


def _on_exit(_: int, __: FrameType | None) -> None:
    if any(watch._waiting for watch in _watches):
        _check()


def _check(cause: Exception | None = None) -> None:
    for watch in _watches:
        dead = [process for process in watch._processes if process.exitcode is not None]
        if dead and not watch._death:
            watch._death = _describe(dead[0], len(watch._processes))
            _kill(watch._processes, os.getpid())  # they may wait for a lock of the dead process
        if watch._death:
            raise WorkerDied(watch._death) from cause


def _describe(process: BaseProcess, processes: int) -> str:
    status = process.exitcode or 0
    if status >= 0:
        return f"loader process {process.pid} ended with status {status}. {_UNEXPLAINED}"
    number = signal.Signals(-status)
    meaning = _MEANINGS.get(number)
    told = f", {meaning.format(fewer=f'--data.num_workers={processes // 2}')}" if meaning else f". {_UNEXPLAINED}"
    return f"loader process {process.pid} was killed by {number.name}{told}"


def _kill(processes: Iterable[BaseProcess], parent: int) -> None:
    for process in (
        processes if os.getpid() == parent else ()
    ):  # a forked process inherits the list but not the children
        if process.exitcode is None:
            process.kill()
