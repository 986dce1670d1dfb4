"""The processes of a machine's ranks: their environment, their start, and the reason of their end."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ds2f.processes import cpu_count
from ds2f.runner.distributed.addresses import interface
from ds2f.runner.distributed.worker import GIVE_UP, PEER_LOST


class RankProcess(NamedTuple):
    """The process of one rank."""

    rank: int
    process: "subprocess.Popen[bytes]"
    report: Path  # where the rank writes its last error

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        return self.process.poll()

    def describe_failure(self, ranks: int) -> str:
        """How a rank of ``ranks`` failed, without a full stop."""
        if self.status in (GIVE_UP, PEER_LOST) and self.report.exists():
            message = json.loads(self.report.read_text(encoding="utf-8"))["message"].rstrip(".")
            holds_for_all = self.status == PEER_LOST or self.rank == 0
            return message if holds_for_all else f"rank {self.rank} ({socket.gethostname()}): {message}"
        name, status = f"rank {self.rank} of {ranks} (process {self.process.pid})", self.status or 0
        if status < 0:
            names = {number.value: number.name for number in signal.Signals}
            return f"{name} was killed by {names.get(-status, f'signal {-status}')}"
        return f"{name} ended with status {status}, see above"


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
    process = subprocess.Popen(list(command), env=env, stdin=subprocess.DEVNULL, start_new_session=True)
    return RankProcess(rank, process, report)


def kill(ranks: Sequence[RankProcess]) -> None:
    """Kills the ranks' sessions and waits for the ranks; loader processes that a dead rank left are killed too."""
    for rank in ranks:
        with suppress(ProcessLookupError):
            os.killpg(rank.process.pid, signal.SIGKILL)
    for rank in ranks:
        rank.process.wait()
