"""Real cgroups with a limit of memory, for tests, where this process may make some below its own."""

import contextlib
import os
import signal
import time

import pytest

from ds2f import cgroups


@contextlib.contextmanager
def limited(size):
    """A new cgroup below this process's own in which all processes together get ``size`` bytes, without swap.

    Yields:
      Its folder; a process enters it by writing its number to ``cgroup.procs``.
    """
    for group in cgroups.find("memory"):
        folder = group.folders[0] / f"ds2f-test-{os.getpid()}-{time.monotonic_ns()}"
        limit = folder / {1: "memory.limit_in_bytes", 2: "memory.max"}[group.version]
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if not limit.exists():  # the controller is not handed down
                continue
            limit.write_text(str(size))
            with contextlib.suppress(OSError):
                (folder / {1: "memory.memsw.limit_in_bytes", 2: "memory.swap.max"}[group.version]).write_text(
                    str(size if group.version == 1 else 0)
                )
            yield folder
            return
        finally:
            _remove(folder)
    pytest.skip("this process may make no cgroup with a limit of memory")


def _remove(folder):
    deadline = time.monotonic() + 10
    while folder.exists():
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            folder.rmdir()
        except OSError:
            assert time.monotonic() < deadline, f"{folder} has processes that do not end"
            time.sleep(0.05)
