"""Several server processes at one address, each with a model of its own. This module imports no torch."""

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ds2f.processes import die_with_parent

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # the folder in which the processes share what they count
_PREFIX = "ds2f-metrics-"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MOST_DEATHS, _WITHIN = 5, 60.0  # deaths within so many seconds that end the server


@contextmanager
def shared_counts() -> Iterator[None]:
    """A folder in which the processes share what they count. Enter it before prometheus_client is imported.

    The processes hold a lock on the folder. Folders that a killed server has left have none, and are removed.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_unused(left)
    (folder, lock), owner = _locked_folder(), os.getpid()
    os.environ[MULTIPROCESS] = str(folder)
    try:
        yield
    finally:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder() -> tuple[Path, int]:
    """A new folder, and the descriptor that locks it: processes that are forked hold the same lock."""
    import fcntl  # not on Windows

    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):  # a server that started meanwhile has removed it
            lock = _open_folder(folder)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _open_folder(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _remove_unused(folder: Path) -> None:
    """Removes a folder of this user that no process has locked."""
    import fcntl

    with suppress(OSError):  # another user's, or in use
        lock = _open_folder(folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def supervise(count: int, *, listener: socket.socket, tell: Callable[[str], object]) -> int | None:
    """Forks server processes and waits for their end. One that dies is replaced.

    SIGTERM and Ctrl-C are passed on: each process answers what it has accepted, and ends. Meanwhile new connections are
    refused: this process closes its copy of the listener, which would keep them waiting for nobody.

    Args:
      count: number of processes.
      listener: the socket from which the processes accept connections.
      tell: prints a message.

    Returns:
      In a server process None: it goes on as a server. In this process, after the end, the exit status: 0 if all
      processes ended in order, otherwise 1.
    """
    supervisor = _Supervisor(count, listener, tell)
    before = {number: signal.signal(number, supervisor.end) for number in _SIGNALS}
    status = supervisor.run()
    for number, handler in before.items():
        signal.signal(number, handler)
    if status is None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return status


class _Supervisor:
    def __init__(self, count: int, listener: socket.socket, tell: Callable[[str], object]) -> None:
        self._count, self._listener, self._tell = count, listener, tell
        self._workers: set[int] = set()
        self._deaths: list[float] = []
        self._ending, self._status = False, 0

    def end(self, number: int, _: Any) -> None:
        """Passes a signal on, and lets the processes alone decide how long connections are accepted."""
        self._ending = True
        self._listener.close()
        for worker in list(self._workers):
            with suppress(ProcessLookupError):
                os.kill(worker, number)

    def run(self) -> int | None:
        """As of ``supervise``."""
        parent = os.getpid()
        while True:
            while len(self._workers) < self._count and not self._ending:
                signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until it has handlers of its own
                worker = os.fork()
                if not worker:
                    die_with_parent(parent)
                    return None
                self._workers.add(worker)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            if not self._workers:
                return self._status
            self._wait()

    def _wait(self) -> None:
        worker, status = os.waitpid(-1, 0)
        self._workers.discard(worker)
        _forget_counts(worker)
        code = os.waitstatus_to_exitcode(status)
        if self._ending:
            self._status = self._status or int(code not in (0, -signal.SIGTERM, -signal.SIGINT))  # before it listened
            return
        now = time.monotonic()
        self._deaths = [each for each in self._deaths if now - each < _WITHIN] + [now]
        self._tell(f"serve: process {worker} ended with status {code}; another takes its place")
        if len(self._deaths) >= _MOST_DEATHS:
            self._tell(f"serve: {_MOST_DEATHS} processes ended within {_WITHIN:g} s; the server ends")
            self._status = 1
            self.end(signal.SIGTERM, None)


def _forget_counts(worker: int) -> None:
    """Takes the sizes of queues of a process that has ended out of the sums."""
    from prometheus_client.multiprocess import mark_process_dead

    with suppress(OSError):
        mark_process_dead(worker)
