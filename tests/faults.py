"""Runs launchers of which one system call that writes a file fails."""

import contextlib
import errno
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import Commands

SOURCE = Path(__file__).with_name("faults.c")
ERRORS = ("EPIPE", "EIO", "ENOSPC", "EROFS", "ESTALE")
# Random or of the clock: tokens of temporary names, tensorstore's files, TensorBoard's time, host and process.
_RANDOM = re.compile(r"[0-9a-f]{32}|(?<=tfevents\.).*|(?<=timestamp-)\d+")


class Site(NamedTuple):
    """A system call of a run: its name, a pattern of its file, and its number among the calls of both."""

    call: str
    file: str
    number: int

    @property
    def kind(self):
        """The call and the kind of file, without the numbers of checkpoints."""
        return self.call, re.sub(r"checkpoints/\d+(\.\d+)?", "checkpoints/N", self.file)


class FaultyCommands:
    """Runs launchers with one failing system call; see ``faults.c``."""

    def __init__(self, folder):
        """Compiles the library into ``folder``."""
        compiler = shutil.which("cc")
        if compiler is None or not Path("/proc/self/fd").exists():
            pytest.skip("the injection of faults needs a C compiler and Linux")
        library = folder / "faults.so"
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        self._commands = Commands(LD_PRELOAD=str(library))

    def trace(self, module, *arguments, folder):
        """Runs a launcher undisturbed. Returns how it ended, and its calls that write files in ``folder``."""
        trace = folder.with_suffix(".trace")
        ended = self._commands.run(
            module, *arguments, folder=folder, environment={"FAULT_ROOT": str(folder), "FAULT_TRACE": str(trace)}
        )
        seen, sites = Counter(), []
        for line in trace.read_text().splitlines():
            call, _, file = line.partition(" ")
            pattern = _RANDOM.sub("*", file)
            seen[call, pattern] += 1
            sites.append(Site(call, pattern, seen[call, pattern]))
        return ended, sites

    def run(self, module, *arguments, folder, site, error):
        """Runs a launcher in which the call ``site`` on a file in ``folder`` fails with ``error``, a name."""
        variables = {
            "FAULT_ROOT": str(folder),
            "FAULT_CALL": site.call,
            "FAULT_FILE": site.file,
            "FAULT_NUMBER": str(site.number),
            "FAULT_ERRNO": str(getattr(errno, error)),
        }
        return self._commands.run(module, *arguments, folder=folder, environment=variables)

    def close(self):
        with contextlib.suppress(OSError):
            self._commands.close()


def clear(folder):
    """Empties a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
