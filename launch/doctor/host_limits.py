"""Checks of the machine around the device: run folder, shared memory, open files, processors, C extension, memory."""

import fcntl
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from ds2f import machine_memory
from ds2f.errors import InputError
from ds2f.files import fsync
from ds2f.model import lstm_cell
from ds2f.processes import cpu_count
from launch.doctor.check_session import Check, Session
from launch.doctor.verdict import MISSING, OK, SLOW, WRONG, Line, cause

HOST = "machine"
SHARED_MEMORY = Path("/dev/shm")
_WRITTEN = 64 << 20  # bytes of the file that is timed
_CHECKPOINT = 1_040_000_000  # bytes of a checkpoint of 5 x 1024 with AdamW
_SLOW_DISK = 30e6  # bytes per second
_SPACE, _MEMORY, _SHARED, _FILES = 8 << 30, 4 << 30, 512 << 20, 1024  # what a training of 5 x 1024 should find


def checks() -> list[Check]:
    """The checks; a network file system that hangs is found by their limit of time."""
    other = "take another --run_dir"
    return [
        Check(HOST, "run folder", _run_folder, device=False, remedy=other),
        Check(HOST, "file locks", _locks, device=False, remedy=other),
        Check(HOST, "disk", _disk, seconds=30.0, device=False, remedy=other),
        Check(
            HOST, "/dev/shm", _shared_memory, device=False, remedy="docker run --shm-size=8g, or --data.num_workers=0"
        ),
        Check(HOST, "open files", _open_files, device=False),
        Check(HOST, "processors", _processors, device=False),
        Check(HOST, "C extension", _extension, device=False, needed=False),
        Check(HOST, "memory", _memory, device=False),
    ]


def _folder(session: Session) -> Path:
    """The run folder, or the folder above it in which it would be made."""
    path = Path(session.cfg.run_dir).absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())


def _run_folder(session: Session) -> Iterator[Line]:
    folder = _folder(session)
    try:
        with tempfile.TemporaryDirectory(prefix=".ds2f-doctor-", dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Line(HOST, "run folder", WRONG, f"cannot be written: {error.strerror}", "take another --run_dir")
        return
    small = free < _SPACE
    remedy = "free some, or take another --run_dir or --checkpointing.folder" if small else ""
    yield Line(HOST, "run folder", WRONG if small else OK, f"writable, {free / 1e9:,.1f} GB free", remedy)


def _locks(session: Session) -> Iterator[Line]:
    """Hard links, on which the run's lease rests, and advisory locks, which guard a prepared corpus."""
    with tempfile.TemporaryDirectory(prefix=".ds2f-doctor-", dir=_folder(session)) as folder:
        file = Path(folder, "file")
        file.touch()
        try:
            os.link(file, Path(folder, "link"))
        except OSError as error:
            remedy = "take another --run_dir, on a file system with hard links"
            yield Line(HOST, "file locks", WRONG, f"no hard links: {error.strerror}", remedy, needed=False)
            return
        with file.open() as first, file.open() as second:
            try:
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(BlockingIOError):
                    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield Line(
                        HOST,
                        "file locks",
                        WRONG,
                        "two processes get one lock",
                        "prepare a corpus in one process",
                        needed=False,
                    )
                    return
            except OSError as error:
                yield Line(
                    HOST,
                    "file locks",
                    MISSING,
                    f"no locks: {error.strerror}",
                    "keep --data_path on another disk",
                    needed=False,
                )
                return
    yield Line(HOST, "file locks", OK, "hard links and locks work")


def _disk(session: Session) -> Iterator[Line]:
    block = os.urandom(1 << 20)
    with tempfile.TemporaryDirectory(prefix=".ds2f-doctor-", dir=_folder(session)) as folder:
        began = time.perf_counter()
        try:
            with Path(folder, "file").open("wb") as file:
                for _ in range(_WRITTEN >> 20):
                    file.write(block)
                file.flush()
                fsync(file.fileno())
        except OSError as error:
            yield Line(HOST, "disk", WRONG, f"writing 64 MB fails: {error.strerror}", "take another --run_dir")
            return
        speed = _WRITTEN / (time.perf_counter() - began)
    found = f"writes {speed / 1e6:,.0f} MB/s: a checkpoint takes {_CHECKPOINT / speed:.0f} s"
    slow = speed < _SLOW_DISK
    yield Line(
        HOST, "disk", SLOW if slow else OK, found, "take another --run_dir or --checkpointing.folder" if slow else ""
    )


def _shared_memory(_: Session) -> Iterator[Line]:
    """Room of the loader processes, which send batches through shared memory."""
    remedy = "docker run --shm-size=8g, or --data.num_workers=0"
    if sys.platform != "linux":
        yield Line(HOST, "/dev/shm", OK, "not used on this system")
        return
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        yield Line(HOST, "/dev/shm", MISSING, f"no shared memory: {error.strerror}", remedy)
        return
    free = room.f_bavail * room.f_frsize
    if free < _SHARED:
        yield Line(
            HOST, "/dev/shm", WRONG, f"{free / 1e6:,.0f} MB free; a loader needs {_SHARED / 1e6:,.0f} MB", remedy
        )
        return
    try:
        torch.zeros(16 << 20, dtype=torch.uint8).share_memory_()
    except (OSError, RuntimeError) as error:
        yield Line(HOST, "/dev/shm", WRONG, f"cannot be used: {cause(error)}", remedy)
        return
    yield Line(HOST, "/dev/shm", OK, f"{free / 1e9:,.1f} GB free")


def _open_files(_: Session) -> Iterator[Line]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FILES:
        yield Line(HOST, "open files", OK, "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,}")
        return
    most = _FILES * 4 if hard == resource.RLIM_INFINITY else min(hard, _FILES * 4)
    raise_it = f"ulimit -n {most}" if most >= _FILES else "have the hard limit raised (limits.conf, docker --ulimit)"
    yield Line(
        HOST, "open files", WRONG, f"{soft:,}; loader processes need {_FILES:,}", f"{raise_it}, or --data.num_workers=0"
    )


def _processors(session: Session) -> Iterator[Line]:
    session_threads, processors, whole = torch.get_num_threads(), cpu_count(), os.cpu_count() or 1
    limited = f" of {whole} (quota or affinity)" if processors < whole else ""
    found = f"{processors}{limited}, {session_threads} threads"
    asked = os.environ.get("OMP_NUM_THREADS")
    if session_threads > processors and asked:
        yield Line(HOST, "processors", SLOW, found, f"unset OMP_NUM_THREADS: {asked} threads wait for each other")
    elif session.kind == "cpu" and session_threads < processors and asked:
        yield Line(HOST, "processors", SLOW, found, f"unset OMP_NUM_THREADS: {asked} uses a part of the processors")
    else:
        yield Line(HOST, "processors", OK, found)


def _extension(session: Session) -> Iterator[Line]:
    """The elementwise part of ``--model.kernel=hoisted``, which only CPUs run."""
    if session.kind != "cpu":
        return
    try:
        built = lstm_cell.native()
    except InputError as error:
        problem, _, remedy = str(error).partition("; ")
        yield Line(HOST, "C extension", WRONG, problem, remedy, needed=False)
        return
    if built is None:
        remedy = "install gcc or clang, then: pip install . (in a clone: pip install -e .)"
        yield Line(HOST, "C extension", SLOW, "not built: model.kernel=hoisted is slower", remedy, needed=False)
    else:
        yield Line(HOST, "C extension", OK, f"built, runs {lstm_cell.KINDS[built.capability]}", needed=False)


def _memory(_: Session) -> Iterator[Line]:
    rooms = machine_memory.rooms()
    if not rooms:
        yield Line(HOST, "memory", OK, "unknown on this system", needed=False)
        return
    least = min(rooms, key=lambda room: room.left)
    where = "cgroup" if least.where.startswith("the cgroup") else least.where
    small = least.left < _MEMORY
    remedy = "--model.remat, a smaller --data.batch_size, or a smaller model" if small else ""
    yield Line(HOST, "memory", WRONG if small else OK, f"{least.left / 1e9:,.1f} GB left ({where})", remedy)
