"""Runs the checks in a process that may crash or hang. A check that does is a verdict; a new process runs the rest.

while checks are left:
    start a process for them
    for each message of the process, within the limit of the check under way:  pass its lines on
    it ended or hangs: a line for the check under way; go on without this check
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any

from ds2f import config
from ds2f.config import Config
from launch.doctor.verdict import WRONG, Line

COMMAND = (sys.executable, "-m", "launch.doctor.check_process")
_START = 60.0  # seconds until the process imports torch and begins the first check
TOTAL = 240.0  # seconds; what is left then is not checked
_SLICE = 1 << 16
_FAILURES = 5  # crashes and hangs after which the rest is not checked: a new process for each takes its time
_NOTHING = "doctor"  # heading of a line about no check


def run(cfg: Config, show: Callable[[Line], None], begin: Callable[[str], None] = lambda _: None) -> list[Line]:
    """Runs all checks.

    Args:
      cfg: a resolved configuration.
      show: called with each line as soon as it is there.
      begin: called with the name of each check before it runs.

    Returns:
      The lines, in the order of the checks.
    """
    lines: list[Line] = []

    def add(line: Line) -> None:
        lines.append(line)
        show(line)

    done: list[str] = []
    deadline = time.monotonic() + TOTAL
    for failures in range(1, _FAILURES + 1):
        process = _Process(cfg, done)
        failed = process.run(add, begin, deadline)
        if failed is None:
            return lines
        add(failed)
        if process.was_gate:
            break
        if failures == _FAILURES or time.monotonic() > deadline:
            why = f"{failures} checks have crashed or hung" if failures == _FAILURES else f"{TOTAL:g} s are over"
            add(Line(_NOTHING, "the rest", WRONG, f"not checked: {why}"))
            break
    return lines


class _Process:
    """One process of checks."""

    def __init__(self, cfg: Config, done: list[str]) -> None:
        """Starts it; ``done`` are checks to leave out, to which those that begin are added."""
        self._done = done
        self._check: dict[str, Any] = {}  # the message about the check under way
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # run closes it
        self._pipe, end = os.pipe()
        settings = {"config": config.to_dict(cfg), "skip": done, "parent": os.getpid(), "pipe": end}
        self._process = subprocess.Popen(
            [*COMMAND, json.dumps(settings, allow_nan=False)],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=[end],
            start_new_session=True,
            env={"TORCH_CPP_LOG_LEVEL": "FATAL"} | os.environ,
        )
        os.close(end)

    @property
    def was_gate(self) -> bool:
        """Whether nothing can be checked after the check under way: it opens the device, or no check has begun."""
        return bool(self._check.get("gate", True))

    def run(self, add: Callable[[Line], None], begin: Callable[[str], None], deadline: float) -> Line | None:
        """Passes lines on until the process ends. Returns the line of a check that has crashed or hung, or None."""
        try:
            for message in self._messages(deadline):
                if "begin" in message:
                    self._check = message
                    self._done.append(message["begin"])
                    begin(message["begin"])
                else:
                    self._check = {}
                    for line in message["lines"]:
                        add(Line(**line))
            status = self._process.wait(5.0)
            return self._line(self._describe(status)) if status or self._check else None
        except TimeoutError as error:
            return self._line(str(error))
        except subprocess.TimeoutExpired:
            return self._line("it does not end") if self._check else None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):  # it may hang in the driver, where no signal reaches it
                self._process.wait(5.0)
            os.close(self._pipe)
            self._errors.close()

    def _messages(self, deadline: float) -> Iterator[dict[str, Any]]:
        """The messages until the end of the pipe.

        Raises:
          TimeoutError: the check under way has reached its limit, or all checks theirs.
        """
        pending = b""
        limit = time.monotonic() + _START
        while True:
            left = min(limit, deadline) - time.monotonic()
            if left <= 0 or not select.select([self._pipe], [], [], left)[0]:
                seconds = self._check.get("seconds", _START)
                raise TimeoutError(f"it hangs: no answer within {seconds:g} s")
            data = os.read(self._pipe, _SLICE)
            if not data:
                return
            *texts, pending = (pending + data).split(b"\n")
            for text in texts:
                message = json.loads(text)
                yield message
                limit = time.monotonic() + message.get("seconds", _START)

    def _describe(self, status: int) -> str:
        names = {number.value: number.name for number in signal.Signals}
        how = f"killed by {names.get(-status, f'signal {-status}')}" if status < 0 else f"status {status}"
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return f"it crashes: {how}{f', after: {said[-1][:200]}' if said else ''}"

    def _line(self, problem: str) -> Line:
        if not self._check:
            return Line(_NOTHING, "start of the checks", WRONG, problem, "see the message; torch may not load")
        found = self._check
        return Line(found["group"], found["name"], WRONG, problem, found["remedy"], found["needed"])
