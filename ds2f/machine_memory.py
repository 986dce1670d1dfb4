"""Memory as Linux counts it: how much is left for this process and its ranks, and whether the kernel killed for want.

On other systems nothing is known: no limit is reported, and no kill.
"""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ds2f import cgroups

PROC = Path("/proc")
SMALLER = (
    "--model.remat, fewer ranks (--nproc_per_node, with --data.global_batch_size to keep the batch), a smaller "
    "--data.batch_size, or --data.max_frames"
)  # how a training takes less memory, for messages
_LIMIT_FILES = {2: ("memory.max", "memory.current"), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes")}
_STAT_PREFIX = {2: "", 1: "total_"}  # of the sums over a group and the groups below it, in memory.stat
_KILL_FILES = {2: "memory.events", 1: "memory.oom_control"}
_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as the largest multiple of a page
_PROCESS_LIMITS = {"ulimit -v": resource.RLIMIT_AS, "ulimit -d": resource.RLIMIT_DATA}
_LIMITED_SIZES = {"ulimit -v": "VmSize", "ulimit -d": "VmData"}  # what each limits, in /proc/PID/status


class Room(NamedTuple):
    """Memory that is left under one limit."""

    where: str  # the limit, as the subject of "... has ... left"
    left: int  # bytes
    per_process: bool = False  # whether every process has this much to itself


class Kill(NamedTuple):
    """A sign that the kernel has killed a process for want of memory."""

    certain: bool  # false if the process may have been another one
    sign: str  # what shows it, for a message in brackets


def rooms(proc: Path = PROC) -> list[Room]:
    """What is left for this process: in the machine, in its cgroup and those above it, under its own limits.

    Memory that the kernel can take back (caches of files) counts as left, swap does not.

    Args:
      proc: procfs.
    """
    return [*_of_machine(proc), *_of_cgroups(proc), *_of_process(proc)]


def held(proc: Path = PROC) -> int:
    """Memory of this process alone, bytes: without mapped files, which processes share; 0 where it is unknown."""
    return _kilobytes(proc / "self" / "status").get("RssAnon", 0)


class OomKills:
    """Tells whether the kernel has killed a process for want of memory since this object was made.

    The counter of the process's own cgroup decides. Where there is none, the counter of the whole machine is a hint.
    """

    def __init__(self, proc: Path = PROC) -> None:
        """Reads the counters.

        Args:
          proc: procfs.
        """
        own = [group.folders[0] / _KILL_FILES[group.version] for group in cgroups.find("memory", proc / "self")]
        self._own = {file: count for file in own if (count := _numbers(file).get("oom_kill")) is not None}
        self._machine = proc / "vmstat"
        self._before = _numbers(self._machine).get("oom_kill")

    def sign(self) -> Kill | None:
        """The sign of a kill; None if there was none. Where the kernel counts no kills, one is always possible."""
        for file, before in self._own.items():
            if _numbers(file).get("oom_kill", before) > before:
                return Kill(True, f"oom_kill in {file} rose")
        if self._own:
            return None
        if self._before is None:
            return Kill(False, "the kernel does not tell")
        if _numbers(self._machine).get("oom_kill", self._before) > self._before:
            return Kill(False, f"oom_kill in {self._machine} rose")
        return None


def _of_machine(proc: Path) -> Iterator[Room]:
    available = _kilobytes(proc / "meminfo").get("MemAvailable")
    if available is not None:
        yield Room("this machine", available)


def _of_cgroups(proc: Path) -> Iterator[Room]:
    for group in cgroups.find("memory", proc / "self"):
        for folder in group.folders:
            try:
                limit, used = (int((folder / name).read_text(encoding="ascii")) for name in _LIMIT_FILES[group.version])
            except (OSError, ValueError):  # the root has no limit, and others may have "max"
                continue
            if limit < _UNLIMITED:
                stat, prefix = _numbers(folder / "memory.stat"), _STAT_PREFIX[group.version]
                caches = sum(stat.get(f"{prefix}{kind}_file", 0) for kind in ("inactive", "active"))
                yield Room(f"the cgroup {folder}", max(0, limit - used + caches))


def _of_process(proc: Path) -> Iterator[Room]:
    sizes = _kilobytes(proc / "self" / "status")
    for name, kind in _PROCESS_LIMITS.items():
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            yield Room(f"a process ({name})", max(0, limit - sizes.get(_LIMITED_SIZES[name], 0)), per_process=True)


def _kilobytes(file: Path) -> dict[str, int]:
    """The sizes in a file of lines such as ``VmSize:  3072 kB``, bytes; empty if the file cannot be read."""
    return {name.rstrip(":"): 1024 * size for name, size in _numbers(file).items()}


def _numbers(file: Path) -> dict[str, int]:
    """The numbers in a file of lines that begin with a name and a number; empty if it cannot be read."""
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
