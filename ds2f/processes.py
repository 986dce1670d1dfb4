"""Processors and child processes: how many processors this process may use, and how a child ends with its parent."""

import ctypes
import math
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_QUOTA_FILES = {"cgroup2": ("cpu.max",), "cgroup": ("cpu.cfs_quota_us", "cpu.cfs_period_us")}


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
    try:
        memberships = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (proc / "mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux, or no procfs
        return
    groups = {name: line.split(":", 2)[2] for line in memberships for name in line.split(":")[1].split(",")}
    for mount in mounts:
        where, _, what = mount.partition(" - ")
        kind, _, options = what.split(" ", 2)
        controller = "cpu" if kind == "cgroup" else ""  # cgroup v2 has one nameless hierarchy
        if kind in _QUOTA_FILES and controller in groups and (not controller or controller in options.split(",")):
            root, folder = (_unescaped(field) for field in where.split(" ")[3:5])
            for each in _folders(Path(folder), root, groups[controller]):
                yield from _quota(*(each / name for name in _QUOTA_FILES[kind]))


def _folders(mount: Path, root: str, group: str) -> list[Path]:
    """The folder of a cgroup and the folders above it, up to the mount, which shows the hierarchy below ``root``."""
    path = PurePosixPath(group)
    inner = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
    if ".." in inner.parts:  # a cgroup outside the namespace
        inner = PurePosixPath()
    return [mount / each for each in (inner, *inner.parents)]


def _quota(*files: Path) -> Iterator[float]:
    """The quota in the files of one cgroup: microseconds of processor time and of the period; none without a limit."""
    try:
        quota, period = " ".join(file.read_text(encoding="ascii") for file in files).split()
    except (OSError, ValueError):  # the root cgroup has no limits
        return
    if quota not in ("max", "-1"):
        yield int(quota) / int(period)


def _unescaped(field: str) -> str:
    """A field of mountinfo, where a space is written ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
