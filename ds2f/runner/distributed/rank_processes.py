"""The processes of a machine's ranks: their environment, their start, and the reason of their end."""

import json
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ds2f import machine_memory
from ds2f.errors import InputError
from ds2f.files import read_bounded
from ds2f.processes import STOPPED, cpu_count, state
from ds2f.runner.distributed.addresses import interface
from ds2f.runner.distributed.announcements import announce
from ds2f.runner.distributed.worker import GIVE_UP, PEER_LOST

STRAGGLING = 15.0  # seconds
_KEPT = 8192  # bytes of a rank's standard error that are kept for the message about its end
_DRAIN = 1.0  # seconds for the rest of the standard error of a rank that has ended
_MAX_REPORT = 2**20  # bytes


class Errors:
    """The standard error of a rank: passed on to this process's, with its end kept."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        """Starts the thread that reads the pipe of a process without buffers."""
        self._source, self._end = process.stderr, b""
        self._thread = threading.Thread(target=self._pass_on, name="ds2f-stderr", daemon=True)
        self._thread.start()

    def _pass_on(self) -> None:
        while self._source is not None and (data := self._source.read(2**16)):
            self._end = (self._end + data)[-_KEPT:]
            self._write(data)
        if self._end[-1:] not in (b"", b"\n"):
            self._write(b"\n")  # what the agent says next is a line of its own

    def _write(self, data: bytes) -> None:
        with suppress(OSError):  # the terminal may be closed; the rank must not wait
            os.write(2, data)

    def last_line(self) -> str:
        """The line that says most about the rank's end: what C++ gives as an error's text, or else the last one."""
        self._thread.join(_DRAIN)  # a process that the rank has started may keep its standard error open
        lines = [line.strip() for line in self._end.decode(errors="replace").splitlines() if line.strip()]
        causes = [line for line in lines if line.startswith("what():")]
        return (causes or lines or [""])[-1].removeprefix("what():").strip()


class RankProcess(NamedTuple):
    """The process of one rank."""

    rank: int
    process: "subprocess.Popen[bytes]"
    report: Path  # where the rank writes its last error
    errors: Errors
    kills: machine_memory.OomKills  # since before its start
    left: int  # memory before its start, bytes

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        return self.process.poll()

    @property
    def wants_memory(self) -> bool:
        """Whether the kernel has killed the rank or its loader processes for want of memory, beyond doubt."""
        sign = None if self.status in (None, 0, GIVE_UP, PEER_LOST) else self.kills.sign()
        return sign is not None and sign.certain

    def describe_failure(self, ranks: int) -> str:
        """How and why a rank of ``ranks`` failed, without a full stop."""
        reported = self._reported()
        if self.status in (GIVE_UP, PEER_LOST) and reported:
            holds_for_all = self.status == PEER_LOST or self.rank == 0
            return reported if holds_for_all else f"rank {self.rank} ({socket.gethostname()}): {reported}"
        name, status = f"rank {self.rank} of {ranks} (process {self.process.pid})", self.status or 0
        if status < 0:
            names = {number.value: number.name for number in signal.Signals}
            how = f"{name} was killed by {names.get(-status, f'signal {-status}')}"
            if -status == signal.SIGKILL:
                return self._explain_kill(name, how)
            return f"{how}: {last}" if -status == signal.SIGABRT and (last := self.errors.last_line()) else how
        how = f"{name} ended with status {status}"
        if reported:
            return f"{how}: {reported}"
        last = self.errors.last_line()
        return f"{how}; its last line was: {last.rstrip('.')}" if last else f"{how} and said nothing"

    def _explain_kill(self, name: str, how: str) -> str:
        """Why a rank got SIGKILL: for want of memory, perhaps for want of memory, or from another process."""
        kill = self.kills.sign()
        if kill is None:
            return how
        if not kill.certain:
            return f"{how}, perhaps by the kernel for want of memory ({kill.sign})"
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # of kilobytes
        return (
            f"{name} was killed by the kernel for want of memory ({kill.sign}): the largest process here had taken "
            f"{most:.1f} GB, and {self.left / 1e9:.1f} GB were left when it started. At this size it would be killed "
            f"again; take {machine_memory.SMALLER}"
        )

    def _reported(self) -> str:
        """The error that the rank has reported; empty if there is none."""
        with suppress(OSError, ValueError, TypeError, KeyError, InputError):
            return str(json.loads(read_bounded(self.report, _MAX_REPORT, remedy=""))["message"]).strip().rstrip(".")
        return ""


def start(
    command: Sequence[str],
    *,
    rank: int,
    local_rank: int,
    local_ranks: int,
    address: str,
    variables: Mapping[str, object],
    reports: Path,
) -> RankProcess:
    """Starts one rank, in a session of its own, so that Ctrl-C in a terminal reaches the agent alone.

    Args:
      command: the rank's command line.
      rank: the rank's number in the job.
      local_rank: the rank's number on this machine.
      local_ranks: ranks on this machine, which share its processors.
      address: this machine's address on the network of the job.
      variables: torchrun's environment variables that all ranks of the machine share.
      reports: a folder for the ranks' errors.

    Raises:
      InputError: when the system starts no more processes.
    """
    report = reports / f"{rank}.json"
    report.unlink(missing_ok=True)
    own = {**variables, "RANK": rank, "LOCAL_RANK": local_rank, "TORCHELASTIC_ERROR_FILE": report}
    threads = max(1, cpu_count() // local_ranks)
    # FATAL: when a rank dies, torch's C++ code prints its stack on all others.
    defaults = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "FATAL"}
    network = interface(address)
    if network:  # by default gloo resolves the machine's name, which may lead to another network
        defaults["GLOO_SOCKET_IFNAME"] = network
    env = defaults | os.environ | {name: str(value) for name, value in own.items()}
    kills, left = machine_memory.OomKills(), min((room.left for room in machine_memory.rooms()), default=0)
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, "bufsize": 0}
    try:
        process = subprocess.Popen(list(command), env=env, start_new_session=True, **streams)
    except OSError as error:
        raise InputError(f"rank {rank} could not be started: {error.strerror} ({command[0]})") from error
    return RankProcess(rank, process, report, Errors(process), kills, left)


class Stragglers:
    """Ranks that hang after a request to stop: they are killed."""

    def __init__(self) -> None:
        """Begins when the ranks are asked to stop."""
        self._ended: float | None = None  # when the first rank ended
        self._stopped: dict[int, float] = {}  # since when ranks are stopped

    def look(self, ranks: Sequence[RankProcess]) -> None:
        """Kills ranks that run on ``STRAGGLING`` seconds after another one has ended, and ranks that are stopped.

        A stopped rank is killed when another one has ended, or after ``STRAGGLING`` seconds: the ranks of this machine
        may all be stopped. Rank 0 may be writing a checkpoint: it is killed only when it is stopped for that time, and
        this is said.
        """
        now = time.monotonic()
        if any(rank.status is not None for rank in ranks):
            self._ended = self._ended or now
        for rank in ranks:
            stopped = rank.status is None and state(rank.process.pid) in STOPPED
            since = self._stopped.setdefault(rank.rank, now) if stopped else self._stopped.pop(rank.rank, now)
            too_long = stopped and now - since > STRAGGLING
            late = self._ended is not None and (stopped or now - self._ended > STRAGGLING)
            if rank.rank == 0 and too_long:
                announce(
                    f"rank 0 (process {rank.process.pid}) is stopped and cannot write a checkpoint; it is killed, "
                    "and the steps since the last checkpoint are lost"
                )
            if rank.status is None and (too_long or (late and rank.rank != 0)):
                kill([rank])


def kill(ranks: Sequence[RankProcess]) -> None:
    """Kills the ranks' sessions and waits for the ranks; loader processes that a dead rank left are killed too."""
    for rank in ranks:
        with suppress(ProcessLookupError):
            os.killpg(rank.process.pid, signal.SIGKILL)
    for rank in ranks:
        rank.process.wait()
