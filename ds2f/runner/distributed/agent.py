"""The agent: the process of a machine that starts its ranks, watches them, and starts them again after a failure.

The agents of several machines hold a rendezvous, and give each rank the environment that torchrun gives, so that
``torchrun -m launch.train`` works as well. torch's own agent was decided against. It cannot kill a stopped process at
once, and restarts ranks after a mistake in the flags. It counts restarts for each machine on its own. After group rank
0 has changed, it sends machines to the old store.

    repeat:
        rendezvous: agree on machines, ranks and restarts; start this machine's ranks
        wait until a rank fails, all ranks end, or a machine waits for a new rendezvous
        a rank failed:    stop with its message, or count a restart
        all ranks ended:  stop, unless other machines restart theirs
        kill this machine's ranks
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from types import FrameType
from typing import Any

from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.distributed import rank_processes
from ds2f.runner.distributed.announcements import Silence, announce, counted, silence_torch_elastic
from ds2f.runner.distributed.rank_processes import RankProcess
from ds2f.runner.distributed.rendezvous import LocalRendezvous, NodeRank, Rendezvous, open_rendezvous
from ds2f.runner.distributed.rendezvous_stores import ReachableStore, host_store
from ds2f.runner.distributed.restarts import Restarts
from ds2f.runner.distributed.signals import REQUESTS, STATUSES
from ds2f.runner.distributed.tunnel import Entry
from ds2f.runner.distributed.worker import GIVE_UP, PEER_LOST

_AnyRendezvous = Rendezvous | LocalRendezvous

INTERVAL = 0.1  # seconds between two looks at the ranks
LOOKS_PER_END = 10  # looks at the ranks for each look whether another machine has ended the job
EXCHANGE_TIMEOUT = 60.0  # seconds in which all machines of a rendezvous must publish their ranks


def launch(cfg: Config, command: Sequence[str], *, newest: Callable[[], int] = lambda: -1) -> int:
    """Runs this machine's ranks to the end of the job.

    Args:
      cfg: ``nproc_per_node``, ``nnodes``, ``rdzv_*``, ``max_restarts``, ``restart_window`` and
        ``collective_timeout`` are read.
      command: the command line of a rank.
      newest: returns the iteration of the newest checkpoint, -1 if there is none; see ``Restarts``.

    Returns:
      The exit status: 0 when all ranks succeed, 1 after a failure, 128 + the number of a signal that asked to stop.

    Raises:
      InputError: when the rendezvous fails.
    """
    silence_torch_elastic()
    rendezvous = open_rendezvous(cfg)
    with TemporaryDirectory(prefix="ds2f-agent-") as folder:  # of mode 0700
        restarts = Restarts(cfg.max_restarts, window=cfg.restart_window, newest=newest)
        agent = _Agent(cfg, command, rendezvous, restarts, Silence(newest), Path(folder))
        with agent.handling_signals():
            return agent.run()


class _Agent:
    """Starts, watches and ends the ranks of one machine."""

    def __init__(
        self,
        cfg: Config,
        command: Sequence[str],
        rendezvous: _AnyRendezvous,
        restarts: Restarts,
        silence: Silence,
        folder: Path,
    ) -> None:
        self._cfg, self._command, self._rendezvous, self._folder = cfg, list(command), rendezvous, folder
        self._restarts, self._silence = restarts, silence  # restarts of the whole job; silence of the rendezvous
        self._node = NodeRank(0, 0)
        self._store: ReachableStore | Entry | None = None  # of the ranks, where there are several machines
        self._ranks: list[RankProcess] = []
        self._total = 0  # ranks on all machines
        self._lost_peer = False  # whether the last restart was for a rank of another machine
        self._stop_signal = 0  # the signal that asked to stop
        self._starting, self._deferred_signal = False, 0  # whether ranks are being started; a signal during that time

    def run(self) -> int:
        """Starts the ranks until they succeed, or a restart is useless; returns the exit status."""
        try:
            while True:
                self._start_ranks()
                failed = self._watch()
                if self._stop_signal:
                    return 128 + self._stop_signal
                if failed:
                    if not self._count_restart(failed):
                        self._rendezvous.close()
                        return 1
                elif failed is None and not self._rendezvous.ended():
                    announce("another machine asks for a new rendezvous; starting all ranks from the newest checkpoint")
                elif failed is None:
                    announce("the job has ended on another machine")
                elif stopped := [rank.status for rank in self._ranks if rank.status in STATUSES]:
                    return stopped[0]
                elif self._wait_for_other_machines():
                    self._rendezvous.close()
                    return 0
                self._kill_ranks()
        except KeyboardInterrupt:
            return 128 + self._stop_signal
        finally:
            self._kill_ranks()

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Passes the first request to stop on to the ranks, as Ctrl-C; a second request kills the ranks."""
        before = {number: signal.getsignal(number) for number in REQUESTS}
        for number, handler in before.items():
            if number == signal.SIGINT or handler is not signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None = None) -> None:
        if self._starting:
            self._deferred_signal = self._deferred_signal or number
            return
        running = [rank for rank in self._ranks if rank.status is None]
        if not running or self._stop_signal:
            self._stop_signal = self._stop_signal or number
            raise KeyboardInterrupt
        self._stop_signal = number
        for rank in running:
            rank.process.send_signal(signal.SIGINT)

    @contextmanager
    def _deferring_signals(self) -> Iterator[None]:
        """Defers requests to stop until all ranks are started, so that each rank gets them.

        A process started meanwhile has these signals blocked until ``worker.work``, which handles them. For the agent
        itself blocking is not enough: the system gives the signal to a thread of torch, and Python calls its handler
        all the same.
        """
        self._starting = True
        signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
            self._starting = False
        if self._deferred_signal:
            self._on_signal(self._deferred_signal)

    def _start_ranks(self) -> None:
        """Holds a rendezvous, agrees with the other machines on ranks and restarts, and starts this machine's ranks."""
        cfg, nodes = self._cfg, self._join()
        counts = [node["ranks"] for node in nodes]
        self._total, first = sum(counts), sum(counts[: self._node.group_rank])
        self._restarts.agree(nodes)
        if cfg.node_range[1] > 1:
            machines, ranks = counted(self._node.group_size, "machine"), counted(self._total, "rank")
            last = first + cfg.nproc_per_node - 1
            own = f"ranks {first} to {last}" if last > first else f"rank {first}"
            announce(f"{machines}, {ranks}; on this machine ({self._rendezvous.address}): {own}")
        variables = {
            **self._store_variables(nodes[0]),
            "WORLD_SIZE": self._total,
            "LOCAL_WORLD_SIZE": cfg.nproc_per_node,
            "GROUP_RANK": self._node.group_rank,
            "GROUP_WORLD_SIZE": self._node.group_size,
            "TORCHELASTIC_RUN_ID": self._rendezvous.job,
            "TORCHELASTIC_RESTART_COUNT": self._restarts.total,
            "TORCHELASTIC_MAX_RESTARTS": cfg.max_restarts,
            "TORCHELASTIC_USE_AGENT_STORE": True,
            "DS2F_AGENT": os.getpid(),
        }
        with self._deferring_signals():
            for local_rank in range(cfg.nproc_per_node):
                rank = rank_processes.start(
                    self._command,
                    rank=first + local_rank,
                    local_rank=local_rank,
                    local_ranks=cfg.nproc_per_node,
                    address=self._rendezvous.address,
                    variables=variables,
                    reports=self._folder,
                )
                self._ranks.append(rank)

    def _join(self) -> list[dict[str, Any]]:
        """Holds a rendezvous, and another when a machine joins and dies at once; returns the values of all machines."""
        before, nodes = self._node, None
        while nodes is None:
            self._node = self._rendezvous.join()
            if self._lost_peer and self._node.group_size < before.group_size:
                self._restarts.give_back()  # a machine that leaves is no failure
            self._lost_peer = False
            nodes = self._exchange()
        return nodes

    def _exchange(self) -> list[dict[str, Any]] | None:
        """Exchanges ranks and restarts with the other machines; None when a machine does not answer.

        Group rank 0 hosts the store of the ranks, a new one for each rendezvous.
        """
        own: dict[str, Any] = {"ranks": self._cfg.nproc_per_node, **self._restarts.values()}
        if self._node.group_rank == 0 and isinstance(self._rendezvous, Rendezvous):
            gate = socket.create_server((self._rendezvous.address, 0))
            own["store"] = [self._rendezvous.address, gate.getsockname()[1]]
            self._use_store(host_store([gate], self._rendezvous.secret))
        self._rendezvous.publish("node", self._node, own)
        deadline = time.monotonic() + EXCHANGE_TIMEOUT
        while time.monotonic() < deadline:
            nodes = self._rendezvous.collect("node", self._node)
            if nodes is not None:
                return nodes
            time.sleep(INTERVAL)
        return None

    def _store_variables(self, host_node: dict[str, Any]) -> dict[str, object]:
        """The environment variables that lead a rank to the job's store.

        Args:
          host_node: the values that group rank 0 has published.

        On one machine the store is a file, a new one for each start: nothing listens at MASTER_PORT.
        """
        if isinstance(self._rendezvous, Rendezvous):
            host, port = host_node["store"]
            if self._node.group_rank > 0:
                self._use_store(Entry(host, port, self._rendezvous.secret))
            return {"MASTER_ADDR": host, "MASTER_PORT": port, "DS2F_STORE_PORT": self._store.port if self._store else 0}
        file = Path(mkdtemp(prefix="start-", dir=self._folder)) / "store"
        return {"MASTER_ADDR": self._rendezvous.address, "MASTER_PORT": 0, "DS2F_STORE_FILE": file}

    def _use_store(self, store: ReachableStore | Entry) -> None:
        if self._store is not None:
            self._store.close()
        self._store = store

    def _watch(self) -> list[RankProcess] | None:
        """Waits until a rank fails, all ranks have ended, or a machine waits for a new rendezvous.

        Returns:
          The ranks that failed, none if all ended well or on request; None when a machine waits for a new rendezvous,
          or has ended the job.
        """
        announced, looks, stragglers = False, 0, rank_processes.Stragglers()
        while True:
            time.sleep(INTERVAL)
            looks += 1
            ended = [rank for rank in self._ranks if rank.status is not None]
            failed = [rank for rank in ended if rank.status not in STATUSES | {0}]
            if self._stop_signal and not announced:
                announce(
                    "stopping: the ranks finish their step and write a checkpoint; a second time ends them at once"
                )
                announced = True
            if len(ended) == len(self._ranks) or (failed and not self._stop_signal):
                return failed
            if self._stop_signal:
                stragglers.look(self._ranks)
            if ended or self._stop_signal:
                continue
            try:
                if self._rendezvous.others_wait() or (looks % LOOKS_PER_END == 0 and self._rendezvous.ended()):
                    return None
                self._silence.end()
            except InputError as error:
                self._silence.bear(error)

    def _count_restart(self, failed: list[RankProcess]) -> bool:
        """Prints why ranks failed, and returns whether all ranks start again."""
        if any(rank.status == GIVE_UP for rank in failed):
            time.sleep(1)  # other ranks report the same mistake; rank 0's report holds for all
            given_up = [rank for rank in self._ranks if rank.status == GIVE_UP]
            announce(f"{given_up[0].describe_failure(self._total)}.")
            return False
        # A rank killed by a signal caused the other failures; a rank that lost its peer caused none.
        cause = min(failed, key=lambda rank: (rank.status == PEER_LOST, (rank.status or 0) > 0, rank.rank))
        left = -1 if cause.wants_memory else self._restarts.take()
        if left < 0:
            most = 0 if cause.wants_memory else self._cfg.max_restarts
            used_up = f" No restarts are left of --max_restarts={most}." if most else ""
            announce(f"{cause.describe_failure(self._total)}.{used_up}")
            return False
        self._lost_peer = cause.status == PEER_LOST
        announce(
            f"{cause.describe_failure(self._total)}; starting all ranks again from the newest checkpoint, "
            f"{counted(left, 'restart')} left"
        )
        return True

    def _wait_for_other_machines(self) -> bool:
        """Waits until all machines' ranks are done; False when another machine restarts its ranks."""
        deadline = time.monotonic() + self._cfg.collective_timeout
        with suppress(InputError):  # the machine that hosts the rendezvous leaves when all are done
            self._rendezvous.publish("done", self._node, True)
            while self._rendezvous.collect("done", self._node) is None and time.monotonic() < deadline:
                if self._rendezvous.others_wait():
                    return False
                time.sleep(INTERVAL)
        return True

    def _kill_ranks(self) -> None:
        rank_processes.kill(self._ranks)
        self._ranks = []
