"""Which rank is lost, and how: each rank writes its status to a board, and a survivor reads all statuses.

When a rank dies or hangs, torch.distributed reports a timeout or a broken connection, and does not say which rank
caused it. The heartbeat names the rank, its host, process and step. It is a thread that writes to the board twice a
second. An extra collective in each step was decided against: it would cost time in every step, and hang with the lost
rank. Time stamps were decided against as well, since the machines' clocks differ: a reader compares two readings of a
rank's counter.
"""

import json
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from torch.distributed import Store

from ds2f.runner.distributed import job_store
from ds2f.runner.distributed.job_store import Membership, first_sentence, run_with_timeout
from ds2f.runner.distributed.status_board import Board, FolderBoard, StoreBoard

log = logging.getLogger(__name__)

INTERVAL = 0.5  # seconds between two heartbeats
SILENCE = 4 * INTERVAL  # seconds without a heartbeat after which a rank counts as silent
MAX_RECORD = 2**16  # bytes of a record; a longer one is not a rank's
NOTICE = 12.0  # seconds in which rank 0 notices that another rank has left, with its diagnosis
SAVING = 600.0  # seconds in which rank 0 writes a checkpoint
STORE_LIFETIME = 4.0  # seconds that rank 0 keeps its store for the other ranks after it has left


class RankStatus(NamedTuple):
    """The status of one rank, as its heartbeat writes it."""

    host: str
    pid: int
    step: int = 0  # the last step that the rank began
    operations: int = 0  # collectives that the rank started; all ranks start the same ones in the same order
    exit_reason: str = ""  # why the rank left; empty while it takes part
    diagnosis: str = ""  # of the rank that left, if it lost another rank
    saved: bool = False  # of a rank that left: it writes no checkpoint any more


class Heartbeat:
    """Writes this rank's status every half second, from a thread, and reads the statuses of all ranks."""

    def __init__(self, store: Store, membership: Membership) -> None:
        """Writes this rank's first status and starts the thread."""
        self._membership = membership
        folder = membership.board_folder
        self._board: Board = FolderBoard(folder) if folder else StoreBoard(store)
        self._status = RankStatus(socket.gethostname(), os.getpid())
        self._silent: set[int] = set()
        self._left = threading.Event()
        self._write(count=0)
        self._thread = threading.Thread(target=self._beat_until_left, name="ds2f-heartbeat", daemon=True)
        self._thread.start()

    @property
    def step(self) -> int:
        """The last step that this rank began."""
        return self._status.step

    def beat(self, step: int) -> None:
        """Notes that this rank begins ``step``; the thread writes it to the board."""
        self._status = self._status._replace(step=step)

    def count_operation(self) -> None:
        """Notes that this rank has started one more collective; the thread writes it to the board."""
        self._status = self._status._replace(operations=self._status.operations + 1)

    def leave(self, exit_reason: str, diagnosis: str = "") -> None:
        """Writes a last status, after which this rank's silence means nothing. Only the first call counts.

        Args:
          exit_reason: ``left the job`` or ``gave up``.
          diagnosis: the result of ``diagnose``, for ranks that notice the loss later.
        """
        if not self._left.is_set():
            self._status = self._status._replace(exit_reason=exit_reason, diagnosis=diagnosis)
            self._left.set()
            self._thread.join(job_store.ANSWER_TIMEOUT)

    def wait_for_others(self) -> None:
        """Where the store ends with this process, waits until the other living ranks have left too."""
        deadline = time.monotonic() + (STORE_LIFETIME if self._membership.hosts_store else 0)
        while time.monotonic() < deadline:
            _, statuses = self._read()
            if all(status.exit_reason or rank in self._silent for rank, status in enumerate(statuses)):
                return
            time.sleep(INTERVAL / 10)

    def tell_saved(self) -> None:
        """Notes, after ``leave``, that this rank writes no checkpoint any more."""
        self._status = self._status._replace(saved=True)
        with suppress(RuntimeError, OSError, TimeoutError):  # nobody waits where the board is gone
            run_with_timeout(job_store.ANSWER_TIMEOUT, lambda: self._write(count=0))

    def wait_until_saved(self) -> None:
        """Waits until rank 0 has called ``tell_saved``, or cannot be heard.

        Rank 0 must leave within ``NOTICE`` seconds, with heartbeats until then, and write its checkpoint within
        ``SAVING`` seconds.
        """
        began = heard = time.monotonic()
        count = -1
        with suppress(RuntimeError, OSError, TimeoutError):
            while True:
                counts, statuses = run_with_timeout(job_store.ANSWER_TIMEOUT, self._read)
                now, rank0 = time.monotonic(), statuses[0]
                if counts[0] != count:
                    heard, count = now, counts[0]
                if rank0.exit_reason:
                    heard = now
                late = now - began > (SAVING if rank0.exit_reason else NOTICE)
                if rank0.saved or late or now - heard > 2 * SILENCE:
                    return
                time.sleep(INTERVAL / 5)

    def diagnose(self, *, connection_broke: bool) -> str:
        """Says which ranks are silent or behind, after a collective failed. Takes two seconds or more.

        Args:
          connection_broke: whether a connection broke. A rank that hangs does not break its connections.
        """
        try:
            return run_with_timeout(SILENCE + job_store.ANSWER_TIMEOUT, lambda: self._compare(connection_broke))
        except (RuntimeError, TimeoutError, OSError) as error:
            host = "the agent of group rank 0" if self._membership.hosted_by_agent else "rank 0"
            return (
                f"The job's store at {self._membership.store_address}, hosted by {host}, does not answer "
                f"({first_sentence(error)}): that process died, hangs or is stopped, or its machine is down or cut off"
            )

    def _compare(self, connection_broke: bool) -> str:
        """Compares two readings of all statuses, ``SILENCE`` apart."""
        earlier, statuses = self._read()
        for status in statuses:
            if status.diagnosis:  # of a rank that noticed first; since then other ranks have left
                return status.diagnosis
        time.sleep(SILENCE)
        counts, statuses = self._read()
        lost, left = [], []
        for rank, status in enumerate(statuses):
            if rank == self._membership.rank:
                continue
            name = f"Rank {rank} (host {status.host}, process {status.pid})"
            if status.exit_reason:
                left.append(f"{name} {status.exit_reason} at step {status.step}: its own log says why")
            elif counts[rank] == earlier[rank]:
                self._silent.add(rank)
                lost.append(f"{name} sends no heartbeat since step {status.step}: {_cause(connection_broke)}")
            elif status.operations < self._status.operations:
                lost.append(
                    f"{name} is alive but behind: it is slow or hangs in step {status.step}, and "
                    f"py-spy dump --pid {status.pid} on its host shows where"
                )
        found = lost or left
        if not found:
            return (
                "All other ranks are alive and not behind: check the network between them (GLOO_SOCKET_IFNAME, "
                "NCCL_SOCKET_IFNAME and HCCL_SOCKET_IFNAME name the interface to use)"
            )
        more = len(found) - job_store.MAX_NAMED
        return ". ".join(found[: job_store.MAX_NAMED] + ([f"And {more} more ranks"] if more > 0 else []))

    def _beat_until_left(self) -> None:
        count = 0
        try:
            while not self._left.wait(INTERVAL):
                count += 1
                self._write(count)
            self._write(count)
        except (RuntimeError, OSError) as error:
            log.debug("the board takes no more heartbeats of rank %d: %s", self._membership.rank, error)

    def _write(self, count: int) -> None:
        self._board.write(self._membership.rank, json.dumps((count, self._status)))

    def _read(self) -> tuple[list[int], list[RankStatus]]:
        """The heartbeat counts and statuses of all ranks; count 0 for a rank lost before its first heartbeat."""
        parsed = [_parse(record) for record in self._board.read(range(self._membership.size))]
        return [count for count, _ in parsed], [status for _, status in parsed]


def _parse(record: bytes) -> tuple[int, RankStatus]:
    """Heartbeat count and status; a record that no rank has written counts as missing."""
    try:
        count, fields = json.loads(record if len(record) <= MAX_RECORD else b"")
        status = RankStatus(*fields)
    except (ValueError, TypeError, RecursionError):
        return 0, RankStatus("unknown", 0)
    default = RankStatus("", 0)
    plain = all(type(value) is type(expected) for value, expected in zip(status, default, strict=True))
    return (count, status) if plain and type(count) is int else (0, RankStatus("unknown", 0))


def _cause(connection_broke: bool) -> str:
    cause = "it died (perhaps out of memory; see its log)" if connection_broke else "it hangs or is stopped"
    return f"{cause}, or its machine is down or cut off"
