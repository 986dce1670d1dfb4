"""Loader processes: they end with the training process, and their death or silence is reported with its cause."""

import errno
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, queues
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from ds2f import machine_memory
from ds2f.errors import InputError, WorkerDied
from ds2f.processes import STOPPED, die_with_parent, state

_LEFT_TO_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_PATIENCE = 2.0  # seconds from the first sign of a death to the process's exit status, at most
_TICK = 0.25  # seconds between two looks during a wait
_FAILED = 70  # exit status of a process that has reported its error (EX_SOFTWARE of sysexits.h)
_MAX_REPORT = 2**16  # bytes
_MAX_TMPDIR = 70  # bytes; a socket's path has 108, and multiprocessing adds about 35
_FILES_PER_PROCESS = 4  # open files in the parent: two pipes of the process, two of its queue
_FILES_BESIDE = 28  # open files for recordings, batches on their way and a checkpoint
_PAGES_PER_PROCESS = 6  # of /dev/shm, for semaphores
_MORE_FILES = (
    "Raise it (ulimit -n 4096; docker: --ulimit nofile=4096), or take fewer loader processes, --data.num_workers=1"
)
_SHARED_MEMORY = "the memory that loader processes share"
_MORE_SHARED_MEMORY = "Enlarge it (docker: --shm-size=8g), or load in the training process, --data.num_workers=0"
_MEANINGS = {
    signal.SIGKILL: "which is how the kernel ends a process when memory runs out ({memory}). Take fewer loader "
    "processes, {fewer}, or leave out the longest recordings, --data.max_duration=SECONDS.",
    signal.SIGBUS: "which is what happens when shared memory is full (df /dev/shm tells). Enlarge it (docker: "
    "--shm-size=8g), or load in the training process, --data.num_workers=0.",
}
_UNEXPLAINED = "Its own messages are above; --data.num_workers=0 loads in the training process, which may tell more."
_STATES = {
    "T": "is stopped (kill -CONT {pid} lets it go on)",
    "t": "is stopped by a debugger",
    "D": "waits for a disk or a network file system that does not answer (state D)",
    "R": "computes (py-spy dump --pid {pid} shows what)",
}
_NO_STATE = "waits (py-spy dump --pid {pid} shows for what)"


def shortage(error: BaseException) -> str | None:
    """A message for an error from a limit of the system on files, memory or processes; None for other errors.

    torch and Python report these limits in many words, and a loader process in the text of its traceback.
    """
    text, number = str(error), getattr(error, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE) or re.search("[Tt]oo many open files|items of ancillary data", text):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"too many open files: ulimit -n is {limit}. {_MORE_FILES}"
    if re.search(r"(shm|/torch_).*(No space left|Cannot allocate)", text, re.DOTALL):
        return f"{_SHARED_MEMORY} is full (df /dev/shm tells). {_MORE_SHARED_MEMORY}"
    return None


def _require_room(processes: int) -> None:
    """Checks the limits before the processes start: torch cannot take a half-made loader down.

    Raises:
      InputError: when too few files may be open, or /dev/shm has no room for the processes' semaphores.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = len(list(Path("/proc/self/fd").iterdir())) + _FILES_PER_PROCESS * processes + _FILES_BESIDE
    if limit not in (resource.RLIM_INFINITY, -1) and needed > limit:
        raise InputError(
            f"about {needed} open files are needed with the loader processes, and ulimit -n is {limit}. {_MORE_FILES}"
        )
    room = os.statvfs("/dev/shm")
    if room.f_blocks and room.f_bavail * room.f_frsize < _PAGES_PER_PROCESS * (processes + 1) * resource.getpagesize():
        raise InputError(f"{_SHARED_MEMORY}, /dev/shm, is full. {_MORE_SHARED_MEMORY}")


def begin(reports: connection.Connection, _: int) -> None:
    """Prepares a loader process: it dies with its parent, and ignores the signals that end a run.

    Terminals and schedulers send these signals to every process, but the parent may need more batches before it ends.
    A batch that cannot be sent ends the process: Python would drop it, and the parent would wait for it without end.

    Args:
      reports: takes the error that ends the process.
    """
    for number in _LEFT_TO_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    die_with_parent(parent.pid if parent else None)
    _shorten_temporary_folder()

    def fail(error: Exception, _: object) -> None:
        reports.send_bytes(f"{type(error).__name__}: {error}".encode()[:_MAX_REPORT])
        os._exit(_FAILED)

    queues.Queue._on_queue_feeder_error = staticmethod(fail)  # type: ignore[attr-defined]  # Python's hook for this


def _shorten_temporary_folder() -> None:
    """Moves this process's sockets to a short path where TMPDIR is too long for them."""
    if len(os.fsencode(tempfile.gettempdir())) > _MAX_TMPDIR:
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):  # multiprocessing makes a private folder there
            if os.access(folder, os.W_OK | os.X_OK):
                tempfile.tempdir = folder
                return


class Watch:
    """Watches the processes of one loader. A death in any loader, or a long silence, ends the wait for a batch.

    torch's own handler of SIGCHLD raises anywhere in the run, also inside a step or a checkpoint. Here only the wait
    for a batch raises. A timer looks at the processes during the wait, since torch waits without end for a process that
    is stopped, and in several places.
    """

    def __init__(self, *, timeout: float = 0.0) -> None:
        """Takes the longest wait for a batch, seconds; 0: without end."""
        self._timeout = timeout
        self._processes: frozenset[BaseProcess] = frozenset()
        self._waiting = False
        self._ticks = 0  # of this wait; they rest with this process when it is stopped itself
        self._awaited: Callable[[], str] = str
        self._meanwhile: Callable[[], None] = _nothing
        self._death: str | None = None
        self._kills = machine_memory.OomKills()
        self._reports, self._reports_end = multiprocessing.Pipe(duplex=False)
        _watches.add(self)

    @property
    def begin(self) -> Callable[[int], None]:
        """What each process calls first."""
        return _Begin(self._reports_end)

    @contextmanager
    def starting(self, processes: int) -> Iterator[None]:
        """Watches the processes that the block starts; tells their number beforehand.

        Raises:
          InputError: when the system's limits do not allow so many processes.
        """
        others = set(multiprocessing.active_children())
        try:
            if processes and sys.platform == "linux":
                _require_room(processes)
            yield
        except OSError as error:
            _kill(set(multiprocessing.active_children()) - others, os.getpid())
            cause = shortage(error)
            if error.errno in (errno.ENOSPC, errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOSYS):  # no semaphores
                cause = f"{_SHARED_MEMORY}, /dev/shm, cannot be used: {error.strerror}. {_MORE_SHARED_MEMORY}"
            if error.errno == errno.EAGAIN:
                cause = (
                    f"no more processes may be started (ulimit -u): take fewer than {processes}, --data.num_workers=1"
                )
            if cause is None:
                raise
            raise InputError(cause) from error
        self._reports_end.close()
        self._processes = frozenset(multiprocessing.active_children()) - others
        # A process that waits for a dead process's lock never ends, and Python would wait for it at exit.
        weakref.finalize(self, _kill, self._processes, os.getpid())
        if self._processes and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, _on_exit)  # replaces torch's handler
            signal.signal(signal.SIGALRM, _on_tick)

    def wait(self, awaited: Callable[[], str] = str, meanwhile: Callable[[], None] | None = None) -> None:
        """Begins the wait for a batch: until ``rest``, the death of a process raises at once, and a long wait at last.

        Args:
          awaited: returns the awaited recordings, for the message.
          meanwhile: called several times a second; what it raises ends the wait.

        Raises:
          WorkerDied: a process has died; the message has its exit status, the likely cause and the remedy.
        """
        self._awaited, self._meanwhile, self._ticks = awaited, meanwhile or _nothing, 0
        self._waiting = True
        _check()
        if self._processes and threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, _TICK, _TICK)

    def rest(self) -> None:
        """Ends the wait; the next wait reports processes that die in between."""
        if self._processes and threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._waiting = False

    def explain(self, error: Exception) -> None:
        """Raises what the user should know of ``error``, which ended a wait; returns when it has another cause.

        Raises:
          WorkerDied: a process has died.
          InputError: a limit of the system was reached.
        """
        self.rest()
        if self._processes:
            ended = connection.wait([process.sentinel for process in self._processes], _PATIENCE)
            for process in self._processes:
                if process.sentinel in ended:
                    process.join(_PATIENCE)  # its sentinel closes a moment before the exit status is there
        _check(error)
        cause = shortage(error)
        if cause is not None:
            raise InputError(cause) from error

    def release(self) -> None:
        """Kills the processes that are stopped, before torch ends them: it would wait for each."""
        self.rest()
        stopped = [process for process in self._processes if state(process.pid) in STOPPED]
        self._processes = self._processes.difference(stopped)  # their death is not reported
        _kill(stopped, os.getpid())

    def stop(self) -> None:
        """Kills the processes that still run; their death is not reported."""
        self.rest()
        processes, self._processes, self._death = self._processes, frozenset(), None
        _kill(processes, os.getpid())

    def _tick(self) -> None:
        """Looks at what happens during the wait."""
        self._meanwhile()
        self._ticks += 1
        if 0 < self._timeout <= self._ticks * _TICK:
            self._death = self._describe_silence()
            _kill(self._processes, os.getpid())
            raise WorkerDied(self._death)

    def _describe_silence(self) -> str:
        found = {process.pid or 0: state(process.pid) for process in self._processes}
        stuck = {pid: letter for pid, letter in found.items() if letter in (*STOPPED, "D")} or found
        told = [
            f"loader process {pid} {_STATES.get(letter, _NO_STATE).format(pid=pid)}" for pid, letter in stuck.items()
        ]
        return (
            f"no batch came for {self._timeout:g} s: {'; '.join(told[:4])}{' and others' if len(told) > 4 else ''}. "
            f"Awaited: {self._awaited()}. --data.loader_timeout=SECONDS waits longer; --data.num_workers=0 loads in "
            "the training process"
        )

    def _report(self) -> str | None:
        """The error that ended a process by its own account."""
        with suppress(OSError, EOFError):
            if self._reports.poll():
                return self._reports.recv_bytes(_MAX_REPORT).decode(errors="replace")
        return None


class _Begin:
    """Calls ``begin``; a process that is spawned gets it pickled."""

    def __init__(self, reports: Any) -> None:
        self._reports = reports

    def __call__(self, index: int) -> None:
        begin(self._reports, index)


_watches: "weakref.WeakSet[Watch]" = weakref.WeakSet()


def _nothing() -> None:
    """Does nothing."""


def _on_exit(_: int, __: FrameType | None) -> None:
    if any(watch._waiting for watch in _watches):
        _check()


def _on_tick(_: int, __: FrameType | None) -> None:
    for watch in list(_watches):
        if watch._waiting:
            watch._tick()


def _check(cause: Exception | None = None) -> None:
    for watch in _watches:
        dead = [process for process in watch._processes if process.exitcode is not None]
        if dead and not watch._death:
            reported = watch._report()
            short = shortage(RuntimeError(reported)) if reported else None
            watch._death = short or _describe(dead[0], watch, reported)
            _kill(watch._processes, os.getpid())  # they may wait for a lock of the dead process
        if watch._death:
            raise WorkerDied(watch._death) from cause


def _describe(process: BaseProcess, watch: Watch, reported: str | None) -> str:
    status = process.exitcode or 0
    if reported:
        return f"loader process {process.pid} could not send a batch ({reported}). {_UNEXPLAINED}"
    if status >= 0:
        return f"loader process {process.pid} ended with status {status}. {_UNEXPLAINED}"
    number = signal.Signals(-status)
    meaning = _MEANINGS.get(number)
    kill, fewer = watch._kills.sign(), f"--data.num_workers={len(watch._processes) // 2}"
    memory = kill.sign if kill else "here it counts none: another process may have killed this one"
    told = f", {meaning.format(fewer=fewer, memory=memory)}" if meaning else f". {_UNEXPLAINED}"
    return f"loader process {process.pid} was killed by {number.name}{told}"


def _kill(processes: Iterable[BaseProcess], parent: int) -> None:
    if os.getpid() != parent:  # a forked process inherits the list but not the children
        return
    for process in processes:
        if process.exitcode is None:
            process.kill()
