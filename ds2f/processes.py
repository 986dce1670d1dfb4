"""Processors and processes: how many processors this one may use, the state of another, and the end with the parent."""

import ctypes
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ds2f import cgroups

STOPPED = ("T", "t")  # by a signal, by a debugger
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_QUOTA_FILES = {2: ("cpu.max",), 1: ("cpu.cfs_quota_us", "cpu.cfs_period_us")}  # by version of cgroups


def cpu_count(proc: Path = Path("/proc/self")) -> int:
    """Returns the number of processors that this process may use, at least 1.

    Two limits count, the lower one wins: CPU affinity (``taskset``, a cluster's scheduler), and the CPU quota of the
    process's cgroup and of every cgroup above it (``docker --cpus=2``, a Kubernetes limit). A quota of 1.5 processors
    gives 2, as in Java and Go: one thread could use only two thirds of the quota.

    Args:
      proc: the process's folder in procfs; another folder gives other cgroups, not another affinity.

    >>> 1 <= cpu_count() <= (os.cpu_count() or 1)
    True
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas(proc))]))


def state(pid: int | None) -> str:
    """The state of a process as Linux names it by a letter, R, S, D, T, t or Z; empty where it is not known."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    return ""


def die_with_parent(parent: int | None) -> None:
    """Has Linux kill this process when its parent ends. Elsewhere a later end of the parent goes unnoticed.

    Args:
      parent: the parent's process id; if it has ended already, this process ends at once. None: unknown.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and parent != os.getppid():  # the parent ended before the line above
        os._exit(1)


def _quotas(proc: Path) -> Iterator[float]:
    """The CPU quotas, in processors, of the process's cgroup and of the cgroups above it, in cgroup v1 and v2."""
    for hierarchy in cgroups.find("cpu", proc):
        for folder in hierarchy.folders:
            yield from _quota(*(folder / name for name in _QUOTA_FILES[hierarchy.version]))


def _quota(*files: Path) -> Iterator[float]:
    """The quota in the files of one cgroup: microseconds of processor time and of the period; none without a limit."""
    try:
        quota, period = " ".join(file.read_text(encoding="ascii") for file in files).split()
    except (OSError, ValueError):  # the root cgroup has no limits
        return
    if quota not in ("max", "-1"):
        yield int(quota) / int(period)
