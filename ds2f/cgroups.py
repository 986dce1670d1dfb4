"""The control groups of a process: where the kernel shows their limits and counters, in cgroup v1 and v2."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_VERSIONS = {"cgroup": 1, "cgroup2": 2}  # by the type of the file system


class Hierarchy(NamedTuple):
    """The groups of a process in one hierarchy."""

    version: int  # of cgroups: 1 or 2
    folders: list[Path]  # of the process's own group, then of the groups above it, up to the mount


def find(controller: str, process: Path = Path("/proc/self")) -> Iterator[Hierarchy]:
    """The hierarchies that may limit a process: of ``controller`` in v1, and the one of v2; none outside Linux.

    Args:
      controller: its name in v1, such as ``cpu`` or ``memory``.
      process: the process's folder in procfs.
    """
    try:
        memberships = (process / "cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (process / "mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux, or no procfs
        return
    groups = {name: line.split(":", 2)[2] for line in memberships for name in line.split(":")[1].split(",")}
    for mount in mounts:
        where, _, what = mount.partition(" - ")
        kind, _, options = what.split(" ", 2)
        name = controller if kind == "cgroup" else ""  # cgroup v2 has one nameless hierarchy
        if kind in _VERSIONS and name in groups and (not name or name in options.split(",")):
            root, folder = (_unescaped(field) for field in where.split(" ")[3:5])
            yield Hierarchy(_VERSIONS[kind], _folders(Path(folder), root, groups[name]))


def _folders(mount: Path, root: str, group: str) -> list[Path]:
    """The folder of a cgroup and the folders above it, up to the mount, which shows the hierarchy below ``root``."""
    path = PurePosixPath(group)
    inner = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
    if ".." in inner.parts:  # a cgroup outside the namespace
        inner = PurePosixPath()
    return [mount / each for each in (inner, *inner.parents)]


def _unescaped(field: str) -> str:
    """A field of mountinfo, where a space is written ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
