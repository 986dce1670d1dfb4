"""The lease of a run's folder: one job at a time writes it.

``lease.json`` names the holder: host, process, job, and a random token. It is made by a hard link to a file of its own
name, which only one process can do, on local and network file systems. Advisory locks were decided against: network
file systems drop them, or leave them behind.

A dead holder on this machine is recognised by process id and start time, at once. A holder on another machine is dead
if its heartbeat does not change for a minute. Clocks of two machines are never compared. The holder writes heartbeats
to its open file, not to its name: after another job has taken over, they reach no file that counts.

    take:
        link lease.json to the own record: held if no other lease was there
        the holder is dead, or an earlier rank 0 of the same job:  rename its lease away, begin again
        the holder lives:                                          refuse
"""

import errno
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from ds2f.errors import InputError
from ds2f.files import flush, fsync
from ds2f.runner.distributed.signals import REQUESTS
from ds2f.runner.lease_record import Record, parse

FILE = "lease.json"
INTERVAL = 5.0  # seconds between two heartbeats
STALE = 60.0  # seconds without a heartbeat after which a lease of another machine is taken over
NOTICE = 15.0  # seconds without a heartbeat after which a waiting start says so
_LOOK = 0.5  # seconds between two looks at the lease of another machine
_SETTLING = 0.2  # seconds until a lease that was taken over is read back: another start may have judged it dead too
_PATIENCE = 1.0  # seconds that a holder on this machine has to end: it may have been killed a moment ago
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EXDEV)

_log = logging.getLogger(__name__)


class Lease:
    """A lease that this process holds."""

    def __init__(self, path: Path, record: Record, descriptor: int) -> None:
        """Takes the lease's path, its content, and the open file."""
        self._path, self._record, self._descriptor = path, record, descriptor
        self.messages: list[str] = []  # for the log: whose lease was taken over, and why
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = ""

    def keep(self) -> None:
        """Starts the heartbeats, in a thread; call it after the last fork."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
            self._thread.start()

    def require(self) -> None:
        """Checks that no other job has taken the lease over.

        Raises:
          InputError: another job writes the folder now.
        """
        if self._lost:
            raise InputError(self._lost)

    def release(self) -> None:
        """Stops the heartbeats and removes the lease, unless another job holds it."""
        self._ended.set()  # wakes the thread
        if self._thread is not None:
            self._thread.join(INTERVAL)
        self.remove()
        if self._thread is None or not self._thread.is_alive():  # a write to a dead disk may never return
            with suppress(OSError):
                os.close(self._descriptor)

    def remove(self) -> None:
        """Removes the lease, unless another job holds it or this process was forked off the holder."""
        self._ended.set()
        if os.getpid() == self._record.pid:
            with suppress(OSError):
                if (holder := parse(_read(self._path))) and holder.token == self._record.token:
                    self._path.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(INTERVAL):
            with suppress(OSError):  # a disk or network that fails: the next heartbeat may succeed
                self._beat_once()

    def _beat_once(self) -> None:
        found = _read(self._path)
        if found is None:  # somebody removed the folder or the lease
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _link(self._path, self._record)
            found = _read(self._path)
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = os.open(self._path, os.O_RDWR)
        holder = parse(found)
        if holder is not None and holder.token != self._record.token:
            self._lost = (
                f"{self._path.parent} was taken over by {holder}, since this job gave no sign for a minute. This job "
                "ends; the other one goes on from the newest checkpoint."
            )
            self._ended.set()
            return
        self._record = self._record._replace(
            heartbeat=self._record.heartbeat + 1, seconds=round(time.monotonic() - self._began, 1)
        )
        os.pwrite(self._descriptor, self._record.to_bytes(), 0)
        fsync(self._descriptor)


@contextmanager
def hold(
    run_dir: Path, *, job: str = "", flag: str = "--run_dir", file: str = FILE, what: str = "a training"
) -> Iterator[Lease]:
    """Holds the lease of a folder that a run writes inside a ``with`` statement; makes the folder if it is missing.

    The lease is released at the end of the block, and before a signal ends the process. If the folder is still empty
    then, and was made here, it is removed.

    Args:
      run_dir: the folder.
      job: a name that all starts of one job share; empty without a job. A restarted job takes over its own lease.
      flag: the flag that names the folder, for messages.
      what: the work in the folder, for messages.
      file: name of the lease; work that writes other files of a folder has another lease.

    Raises:
      InputError: another job holds the folder, or the folder cannot be written.
    """
    made = [each for each in (run_dir, *run_dir.parents) if not each.exists()]
    lease = None
    try:
        lease = _take(run_dir / file, Record.own(job), _Watched(run_dir, flag, what))
        with _releasing_on_signals(lease):
            yield lease
    except OSError as error:
        if lease is not None or error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{flag}={run_dir} cannot be written: {error}. Give another folder.") from error
    finally:
        if lease is not None:
            lease.release()
        with suppress(OSError):  # the first folder that holds something
            for each in made:
                each.rmdir()


def _take(path: Path, own: Record, watched: "_Watched") -> Lease:
    """Takes the lease as soon as no living process holds it."""
    messages: list[str] = []
    while True:
        found = _try(path, own)
        if found is None:  # released in between
            time.sleep(_LOOK / 10)
            continue
        holder = parse(found)
        if holder is not None and holder.token == own.token:
            lease = Lease(path, own, os.open(path, os.O_RDWR))
            lease.messages += messages
            return lease
        restarted = holder is not None and bool(own.job) and holder.job == own.job and not holder.here
        why = f"{holder} has ended without releasing it" if restarted else watched.verdict(found, holder)
        if why and _displace(path, found):
            if holder is None or holder.job != own.job or not own.job:
                messages.append(f"{path.parent}: took over the lease of another start: {why}")
            _try(path, own)
            time.sleep(_SETTLING)
        elif not why:
            time.sleep(_LOOK)


class _Watched:
    """The lease of another process, watched until it is clear whether the process lives."""

    def __init__(self, run_dir: Path, flag: str, what: str) -> None:
        self._run_dir, self._flag, self._what = run_dir, flag, what
        self._content, self._since, self._said = b"", 0.0, False

    def verdict(self, content: bytes, holder: Record | None) -> str:
        """Why the holder is dead; empty as long as this is unknown.

        Raises:
          InputError: the holder lives.
        """
        now = time.monotonic()
        before = parse(self._content)
        if holder is not None and holder.dead:
            return f"{holder} has ended without releasing it"
        if content != self._content:
            if holder is not None and before is not None and holder.token == before.token:  # a heartbeat
                raise InputError(_refusal(self._run_dir, holder, self._flag, self._what))
            self._content, self._since, self._said = content, now, False
        silence = now - self._since
        if holder is not None and holder.here and silence > _PATIENCE:
            raise InputError(_refusal(self._run_dir, holder, self._flag, self._what))
        if silence >= STALE:
            return f"{holder or 'its holder'} has given no sign for {STALE:.0f} seconds"
        if silence >= NOTICE and not self._said:
            self._said = True
            _log.warning(
                "%s is in use by %s, which has given no sign for %.0f seconds; after %.0f seconds this start takes the "
                "folder over",
                *(self._run_dir, holder or "an unknown process", NOTICE, STALE),
            )
        return ""


def _try(path: Path, own: Record) -> bytes | None:
    """Makes the lease if there is none. Returns the lease that is there; None if it has just gone."""
    found = _read(path)
    if found is not None:
        return found
    with suppress(FileNotFoundError):  # another start has removed a folder that it had made
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            if path.parent.parent.exists():
                raise PermissionError(errno.EPERM, "no folder can be made", str(path.parent)) from None  # as in /proc
            raise
        _link(path, own)
        return _read(path)
    return None


def _refusal(run_dir: Path, holder: Record, flag: str, what: str) -> str:
    since = f"{what} that has been running for {_age(holder.age)}"
    return f"{run_dir} is in use by {holder}, {since}. Wait for its end, or give another {flag}."


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _displace(path: Path, stale: bytes) -> bool:
    """Removes a stale lease; another start's lease that has taken its place in between is put back."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        if _read(path) != stale:
            return False
        path.rename(aside)
    except FileNotFoundError:
        return False
    try:
        if _read(aside) == stale:
            return True
        with suppress(FileExistsError):
            os.link(aside, path)
        return False
    finally:
        aside.unlink(missing_ok=True)


def _link(path: Path, record: Record) -> None:
    """Makes the lease if there is none. Whether it did is read back: a network file system may answer wrongly."""
    temporary = path.with_name(f".{path.name}.{record.token}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(record.to_bytes())
        flush(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # another process was first: the caller reads whose lease it is
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with suppress(FileExistsError), path.open("xb") as file:  # a file system without hard links
                file.write(record.to_bytes())
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    """The bytes of a lease; None without one."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@contextmanager
def _releasing_on_signals(lease: Lease) -> Iterator[None]:
    """Removes the lease before a signal ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in REQUESTS}
    ending = {number: then for number, then in before.items() if then is signal.SIG_DFL or isinstance(then, _Release)}
    for number, then in ending.items():
        signal.signal(number, _Release(lease, then))
    try:
        yield
    finally:
        for number, then in ending.items():
            signal.signal(number, then)


class _Release:
    """A signal's handler that removes a lease, and leaves the signal to the handler before."""

    def __init__(self, lease: Lease, then: Any) -> None:
        self._lease, self._then = lease, then

    def __call__(self, number: int, _: FrameType | None) -> None:
        self._lease.remove()
        signal.signal(number, self._then)
        os.kill(os.getpid(), number)
