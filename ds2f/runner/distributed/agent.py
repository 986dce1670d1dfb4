"""The processes of a job: the agent of a machine starts the ranks there, watches them, and starts them again.

The agent meets the other machines through torch's elastic rendezvous and gives each rank the environment that torchrun
would give it, so that ``torchrun -m launch.train`` works as well. The processes are in our own hands rather than in
torch's agent, which cannot be told to end a stopped process at once, to leave a mistake in the flags alone, or to hold
one count of restarts for all machines; and which sends a machine to the old store after machine 0 has changed.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, NamedTuple

from torch.distributed import TCPStore

from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.processes import cpu_count
from ds2f.runner.distributed.rendezvous import NodeRank, Rendezvous, interface
from ds2f.runner.distributed.signals import REQUESTS, STATUSES
from ds2f.runner.distributed.worker import GIVE_UP, PEER_LOST

INTERVAL = 0.1  # seconds between two looks at the ranks
MEETING = 60.0  # seconds in which machines that have met introduce themselves


def launch(cfg: Config, command: Sequence[str]) -> int:
    """Runs this machine's ranks to the end of the job: the agent.

    Args:
      cfg: how many ranks, where other machines are met, how often to start again.
      command: what a rank runs.

    Returns:
      The exit status: 0 when all went well, 1 after a failure, 128 + the number of a signal that asked to stop.

    Raises:
      InputError: when the machines cannot meet.
    """
    _quieten()
    rendezvous = Rendezvous(cfg)
    with TemporaryDirectory(prefix="ds2f-agent-") as reports:
        agent = _Agent(cfg, command, rendezvous, Path(reports))
        with agent.heeding_signals():
            return agent.run()


def _quieten() -> None:
    """Leaves it to the agent to say what torch's elastic parts would say at length."""
    for name in ("torch.distributed.elastic", "etcd", "urllib3"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False


def _say(message: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr, flush=True)


class _Rank(NamedTuple):
    number: int
    process: "subprocess.Popen[bytes]"
    report: Path

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self.process.poll()

    def last_words(self, ranks: int) -> str:
        """What a failed rank ended with, without a full stop."""
        if self.status in (GIVE_UP, PEER_LOST) and self.report.exists():
            said = json.loads(self.report.read_text(encoding="utf-8"))["message"].rstrip(".")
            speaks_for_all = self.status == PEER_LOST or self.number == 0
            return said if speaks_for_all else f"rank {self.number} ({socket.gethostname()}): {said}"
        who, status = f"rank {self.number} of {ranks} (process {self.process.pid})", self.status or 0
        if status < 0:
            names = {number.value: number.name for number in signal.Signals}
            return f"{who} was killed by {names.get(-status, f'signal {-status}')}"
        return f"{who} ended with status {status}, see above"


class _Agent:
    """Starts, watches and ends the ranks of one machine."""

    def __init__(self, cfg: Config, command: Sequence[str], rendezvous: Rendezvous, reports: Path) -> None:
        self._cfg, self._command, self._rendezvous, self._reports = cfg, list(command), rendezvous, reports
        self._node = NodeRank(0, 0)
        self._ranks: list[_Rank] = []
        self._total = 0  # ranks on all machines
        self._restarts = 0  # of the whole job
        self._lost_peer = False  # whether the last restart was for a rank of another machine
        self._signal = 0  # that asked to stop
        self._starting, self._held = False, 0  # whether ranks are being started; the signal that came meanwhile

    def run(self) -> int:
        """Starts the ranks until they end well, or there is no more use in it."""
        try:
            while True:
                self._start()
                failed = self._watch()
                if self._signal:
                    return 128 + self._signal
                if failed:
                    if not self._try_again(failed):
                        self._rendezvous.close()
                        return 1
                elif failed is None:
                    _say("another machine asks all to meet again; starting all ranks from the newest checkpoint")
                elif stopped := [rank.status for rank in self._ranks if rank.status in STATUSES]:
                    return stopped[0]
                elif self._all_finish():
                    self._rendezvous.close()
                    return 0
                self._end_ranks()
        except KeyboardInterrupt:
            return 128 + self._signal
        finally:
            self._end_ranks()

    @contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """Passes the first request to stop on to the ranks as Ctrl-C, which they understand; the second ends them."""

        before = {number: signal.getsignal(number) for number in REQUESTS}
        for number, handler in before.items():
            if number == signal.SIGINT or handler is not signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, self._heed)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heed(self, number: int, _: FrameType | None = None) -> None:
        if self._starting:
            self._held = self._held or number
            return
        running = [rank for rank in self._ranks if rank.status is None]
        if not running or self._signal:
            self._signal = self._signal or number
            raise KeyboardInterrupt
        self._signal = number
        for rank in running:
            rank.process.send_signal(signal.SIGINT)

    @contextmanager
    def _holding_signals(self) -> Iterator[None]:
        """Holds back requests to stop, so that none finds half of the ranks.

        A process started meanwhile blocks them until ``work``, which can handle them. Here blocking is not enough: the
        system hands the signal to one of torch's threads, and Python calls its handler all the same.
        """
        self._starting = True
        signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
            self._starting = False
        if self._held:
            self._heed(self._held)

    def _start(self) -> None:
        """Meets the other machines, agrees with them on ranks and restarts, and starts the ranks."""
        before, cfg = self._node, self._cfg
        everyone = None
        while everyone is None:  # a machine that joins and dies at once leaves the others to meet again
            self._node = self._rendezvous.join()
            if self._lost_peer and self._node.group_size < before.group_size:
                self._restarts -= 1  # a machine that leaves is no failure
            self._lost_peer = False
            everyone = self._exchange()
        counts = [machine["ranks"] for machine in everyone]
        self._total, first = sum(counts), sum(counts[: self._node.group_rank])
        self._restarts = max(machine["restarts"] for machine in everyone)
        if cfg.node_range[1] > 1:
            mine = f"{first} to {first + cfg.nproc_per_node - 1}" if cfg.nproc_per_node > 1 else f"{first}"
            machines, ranks = _count(self._node.group_size, "machine"), _count(self._total, "rank")
            _say(f"{machines}, {ranks}; on this one ({self._rendezvous.address}): {mine}")
        host, port = everyone[0]["store"]
        shared = {
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
            "WORLD_SIZE": self._total,
            "LOCAL_WORLD_SIZE": cfg.nproc_per_node,
            "GROUP_RANK": self._node.group_rank,
            "GROUP_WORLD_SIZE": self._node.group_size,
            "TORCHELASTIC_RUN_ID": self._rendezvous.job,
            "TORCHELASTIC_RESTART_COUNT": self._restarts,
            "TORCHELASTIC_MAX_RESTARTS": cfg.max_restarts,
            "TORCHELASTIC_USE_AGENT_STORE": True,
            "DS2F_AGENT": os.getpid(),
        }
        with self._holding_signals():
            for local in range(cfg.nproc_per_node):
                self._ranks.append(self._start_rank(local, first + local, shared))

    def _exchange(self) -> list[dict[str, Any]] | None:
        """What every machine brings to a meeting; machine 0 brings the store of the ranks, a new one each time."""
        mine: dict[str, Any] = {"ranks": self._cfg.nproc_per_node, "restarts": self._restarts}
        if self._node.group_rank == 0:
            self._store = TCPStore(self._rendezvous.address, 0, is_master=True, wait_for_workers=False)
            mine["store"] = [self._rendezvous.address, self._store.port]
        self._rendezvous.publish("machine", self._node, mine)
        deadline = time.monotonic() + MEETING
        while time.monotonic() < deadline:
            everyone = self._rendezvous.collect("machine", self._node)
            if everyone is not None:
                return everyone
            time.sleep(INTERVAL)
        return None

    def _start_rank(self, local_rank: int, number: int, shared: dict[str, object]) -> _Rank:
        report = self._reports / f"{number}.json"
        report.unlink(missing_ok=True)
        own = {"RANK": number, "LOCAL_RANK": local_rank, "TORCHELASTIC_ERROR_FILE": report}
        threads = max(1, cpu_count() // self._cfg.nproc_per_node)
        # When a rank dies, torch's C++ parts print their stack on all others.
        defaults = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "FATAL"}
        network = interface(self._rendezvous.address)
        if network:  # gloo would take what this machine's name stands for, which may be another network
            defaults["GLOO_SOCKET_IFNAME"] = network
        env = defaults | os.environ | {name: str(value) for name, value in (shared | own).items()}
        # A session of its own: Ctrl-C in a terminal reaches the agent alone.
        process = subprocess.Popen(self._command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
        return _Rank(number, process, report)

    def _watch(self) -> list[_Rank] | None:
        """Waits until a rank fails, all have ended, or the machines meet again.

        Returns:
          The ranks that failed, empty when all ended well or as asked; None when a machine waits for a meeting.
        """
        told = False
        while True:
            time.sleep(INTERVAL)
            ended = [rank for rank in self._ranks if rank.status is not None]
            failed = [rank for rank in ended if rank.status not in STATUSES | {0}]
            if self._signal and not told:
                _say("stopping: the ranks finish their step and write a checkpoint; a second time ends them at once")
                told = True
            if len(ended) == len(self._ranks) or (failed and not self._signal):
                return failed
            if not ended and not self._signal and self._rendezvous.others_wait():
                return None

    def _try_again(self, failed: list[_Rank]) -> bool:
        """Says why ranks failed, and returns whether to start all again."""
        if any(rank.status == GIVE_UP for rank in failed):
            time.sleep(1)  # rank 0 speaks for all that found the same mistake
            given_up = [rank for rank in self._ranks if rank.status == GIVE_UP]
            _say(f"{given_up[0].last_words(self._total)}.")
            return False
        # A rank that died by a signal is the cause of all else; one that lost its peer, never.
        cause = min(failed, key=lambda rank: (rank.status == PEER_LOST, (rank.status or 0) > 0, rank.number))
        left = self._cfg.max_restarts - self._restarts - 1
        if left < 0:
            used_up = f" No restarts are left of --max_restarts={self._restarts}." if self._restarts else ""
            _say(f"{cause.last_words(self._total)}.{used_up}")
            return False
        self._restarts += 1
        self._lost_peer = cause.status == PEER_LOST
        _say(
            f"{cause.last_words(self._total)}; starting all ranks again from the newest checkpoint, "
            f"{_count(left, 'restart')} left"
        )
        return True

    def _all_finish(self) -> bool:
        """Waits for the other machines' ranks; False when they start again, and so this machine's must."""
        deadline = time.monotonic() + self._cfg.collective_timeout
        with suppress(InputError):  # who keeps the meeting place leaves when all have finished
            self._rendezvous.publish("done", self._node, True)
            while self._rendezvous.collect("done", self._node) is None and time.monotonic() < deadline:
                if self._rendezvous.others_wait():
                    return False
                time.sleep(INTERVAL)
        return True

    def _end_ranks(self) -> None:
        """Ends what runs, loader processes included, also those that a dead rank has left."""
        for rank in self._ranks:
            with suppress(ProcessLookupError):
                os.killpg(rank.process.pid, signal.SIGKILL)
        for rank in self._ranks:
            rank.process.wait()
        self._ranks = []


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
