"""Who takes part in a job, who still lives and how far each has come: a roll call kept in the job's key-value store.

The store is torch's TCPStore, which the elastic agent keeps on the first machine, or rank 0 where there is no agent.
Its client waits for a mute server without end, so what could hang on it runs in a thread of its own, with a deadline.
"""

import hashlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import NamedTuple, TypeVar

from torch.distributed import PrefixStore, Store, TCPStore

from ds2f.errors import InputError

log = logging.getLogger(__name__)
T = TypeVar("T")

PULSE = 0.5  # seconds between two signs of life
SILENCE = 4 * PULSE  # a rank without a sign for this long counts as silent
ANSWER = 5.0  # seconds in which the store must answer when it is asked who is missing
LINGER = 4.0  # seconds that rank 0 keeps the store for the others after it has left
NAMED = 8  # ranks that one message names, at most


class PeerLost(Exception):  # noqa: N818  # it says what happened to whom
    """Another rank died, stalls or cannot be reached; the message names it as far as that is known and what to do."""


class Place(NamedTuple):
    """This process's place in a job, and where the job's store is."""

    rank: int
    size: int
    host: str
    port: int
    kept_by_agent: bool  # otherwise rank 0 keeps the store

    @classmethod
    def from_environment(cls) -> "Place":
        """Reads what torchrun, our own agent or a cluster's launcher sets.

        Raises:
          InputError: when a variable is missing or not a number.
        """
        try:
            return cls(
                rank=int(os.environ["RANK"]),
                size=int(os.environ["WORLD_SIZE"]),
                host=os.environ["MASTER_ADDR"],
                port=int(os.environ["MASTER_PORT"]),
                kept_by_agent=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            )
        except (KeyError, ValueError) as error:
            raise InputError(
                f"RANK is set, but of WORLD_SIZE, MASTER_ADDR and MASTER_PORT one cannot be used ({error}). Start the "
                "job with python -m launch.train or torchrun, which set them, or unset RANK to run as one process"
            ) from error

    @property
    def store(self) -> str:
        """The store's address, for people."""
        return f"{self.host}:{self.port}"


class RankStatus(NamedTuple):
    """One rank's line in the roll."""

    host: str
    pid: int
    step: int = 0  # that it has begun
    operations: int = 0  # that it has started; all ranks start the same ones in the same order
    exit_reason: str = ""  # how it left; empty as long as it stays
    found: str = ""  # what it found when it called the roll


def connect(place: Place, *, timeout: float) -> Store:
    """Opens the store, waits for all ranks, and returns a part of the store that no earlier incarnation has touched.

    Raises:
      PeerLost: when the store or a rank does not show up within ``timeout`` seconds.
      InputError: when the port that rank 0 must open is taken.
    """

    def enter() -> Store:
        serve = place.rank == 0 and not place.kept_by_agent
        patience = timedelta(seconds=timeout)
        store = TCPStore(place.host, place.port, is_master=serve, timeout=patience, wait_for_workers=False)
        return _meet(PrefixStore("ds2f", store), place, timeout=timeout)

    here = socket.gethostname()
    try:
        return run_with_timeout(timeout + ANSWER, enter)
    except (RuntimeError, TimeoutError) as error:
        if "EADDRINUSE" in str(error):
            raise InputError(
                f"MASTER_PORT={place.port} is taken by another program on {here}: set it to a free port, or start with "
                "python -m launch.train, which finds one"
            ) from error
        raise PeerLost(
            f"rank {place.rank} on {here} has not reached the job's store at {place.store} within {timeout:g} s "
            f"({first_sentence(error)}). MASTER_ADDR must name rank 0's machine as seen from here, the job must run "
            "there, and no firewall may close the port; --rdzv_timeout allows more time"
        ) from error


def _meet(store: Store, place: Place, *, timeout: float) -> Store:
    """Waits for all ranks and agrees with them on a part of the store for this incarnation of the job.

    An agent keeps one store through all restarts, with the keys of the incarnations before. The count of restarts does
    not tell them apart: the agents of two machines count differently, and a machine that joins or leaves is not
    counted. So each rank brings a fresh word and names the part after everybody's: a rank that gives the same name has
    read this rank's word, so it is no ghost.
    """
    ranks, deadline = range(place.size), time.monotonic() + timeout
    store.set(f"word/{place.rank}", uuid.uuid4().hex)
    while True:
        words = _peek(store, [f"word/{rank}" for rank in ranks])
        name = hashlib.sha256(b" ".join(words)).hexdigest()
        store.set(f"name/{place.rank}", name)
        names = _peek(store, [f"name/{rank}" for rank in ranks])
        missing = [rank for rank in ranks if not words[rank] or names[rank] != name.encode()]
        if not missing:
            return PrefixStore(name, store)
        if time.monotonic() > deadline:
            raise PeerLost(
                f"of {place.size} ranks, {_listed(missing)} did not come to the job's store at {place.store} within "
                f"{timeout:g} s. Their logs say why; start what is missing, or allow more time with --rdzv_timeout"
            )
        time.sleep(0.05)


class Heartbeat:
    """This rank's line in the roll, renewed every half second by a thread, and the reading of everybody's."""

    def __init__(self, store: Store, place: Place) -> None:
        """Writes this rank's first line."""
        self._place, self._store = place, store  # on rank 0 it may be the server, which lives as long as this
        # A client each: a call that hangs in one must not hold up another.
        self._writer, self._reader = store.clone(), store.clone()  # type: ignore[attr-defined]
        self._entry = RankStatus(socket.gethostname(), os.getpid())
        self._silent: set[int] = set()
        self._left = threading.Event()
        self._write(pulse=0)
        self._thread = threading.Thread(target=self._keep, name="ds2f-heartbeat", daemon=True)
        self._thread.start()

    @property
    def step(self) -> int:
        """The step that this rank has begun."""
        return self._entry.step

    def beat(self, step: int) -> None:
        """Notes that this rank begins ``step``; the thread writes it down."""
        self._entry = self._entry._replace(step=step)

    def count(self) -> None:
        """Notes that this rank has started one more operation; the thread writes it down."""
        self._entry = self._entry._replace(operations=self._entry.operations + 1)

    def leave(self, exit_reason: str, found: str = "") -> None:
        """Tells the others that from now on this rank's silence means nothing; the first exit_reason is the one kept.

        Args:
          exit_reason: ``left the job`` or ``gave up``.
          found: what ``findings`` said, for those who call the roll later.
        """
        if not self._left.is_set():
            self._entry = self._entry._replace(exit_reason=exit_reason, found=found)
            self._left.set()
            self._thread.join(ANSWER)

    def wait_for_others(self) -> None:
        """Where the store ends with this process, waits until the others that live have left too."""
        keeps_the_store = self._place.rank == 0 and not self._place.kept_by_agent
        deadline = time.monotonic() + (LINGER if keeps_the_store else 0)
        while time.monotonic() < deadline:
            _, entries = self._read()
            if all(entry.exit_reason or rank in self._silent for rank, entry in enumerate(entries)):
                return
            time.sleep(PULSE / 10)

    def _keep(self) -> None:
        pulse = 0
        try:
            while not self._left.wait(PULSE):
                pulse += 1
                self._write(pulse)
            self._write(pulse)
        except RuntimeError as error:
            log.debug("the store takes no more signs of life from rank %d: %s", self._place.rank, error)

    def _write(self, pulse: int) -> None:
        self._writer.set(f"roll/{self._place.rank}", json.dumps((pulse, self._entry)))

    def _read(self) -> tuple[list[int], list[RankStatus]]:
        """Everybody's pulse and line, by rank; no pulse for a rank that was lost before its first line."""
        lines = _peek(self._reader, [f"roll/{rank}" for rank in range(self._place.size)])
        read = [json.loads(line) if line else (0, RankStatus("unknown", 0)) for line in lines]
        return [pulse for pulse, _ in read], [RankStatus(*entry) for _, entry in read]

    def findings(self, *, broken: bool) -> str:
        """Says, after an operation failed, which ranks are silent or behind; takes two seconds or more.

        Args:
          broken: whether a connection broke, which a rank that merely hangs does not cause.
        """
        try:
            return run_with_timeout(SILENCE + ANSWER, lambda: self._call(broken))
        except (RuntimeError, TimeoutError) as error:
            rank0_checkpoints = "the agent on the first machine" if self._place.kept_by_agent else "rank 0"
            return (
                f"The job's store at {self._place.store}, which {rank0_checkpoints} keeps, does not answer "
                f"({first_sentence(error)}): that process died, hangs or is stopped, or its machine is down or cut off"
            )

    def _call(self, broken: bool) -> str:
        pulses, entries = self._read()
        for entry in entries:
            if entry.found:  # by a rank that noticed earlier: nearer to the lost one, and others have left since
                return entry.found
        time.sleep(SILENCE)
        before, (pulses, entries) = pulses, self._read()
        missing, left = [], []
        for rank, entry in enumerate(entries):
            who = f"Rank {rank} (host {entry.host}, process {entry.pid})"
            if rank == self._place.rank:
                continue
            if entry.exit_reason:
                left.append(f"{who} {entry.exit_reason} at step {entry.step}: its own log says why")
            elif pulses[rank] == before[rank]:
                self._silent.add(rank)
                cause = "it died (of memory, perhaps; see its log)" if broken else "it hangs or is stopped"
                missing.append(
                    f"{who}, last seen at step {entry.step}, gives no sign of life: {cause}, or its machine is down or "
                    "cut off"
                )
            elif entry.operations < self._entry.operations:
                missing.append(
                    f"{who} lives but has not come as far: it is slow or hangs in step {entry.step}, and "
                    f"py-spy dump --pid {entry.pid} on its host shows where"
                )
        said = missing or left
        more = [f"And {len(said) - NAMED} more ranks"] if len(said) > NAMED else []
        return ". ".join(said[:NAMED] + more) or (
            "All other ranks live and have come as far: look at the network between them (GLOO_SOCKET_IFNAME, "
            "NCCL_SOCKET_IFNAME and HCCL_SOCKET_IFNAME name the interface to use)"
        )


def first_sentence(error: BaseException) -> str:
    """The beginning of an error's message, which in torch.distributed goes on for a page."""
    return (str(error).strip() or "no answer").splitlines()[0].split(". ")[0]


def _peek(store: Store, keys: Sequence[str]) -> list[bytes]:
    """The values of ``keys``, without waiting for any; empty for one that nobody has set."""
    if store.check(list(keys)):
        return store.multi_get(list(keys))
    return [store.get(key) if store.check([key]) else b"" for key in keys]


def run_with_timeout(seconds: float, task: Callable[[], T]) -> T:
    """Runs ``task`` in a thread and returns its result, or raises ``TimeoutError`` and leaves it behind."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(task())
        except Exception as error:  # noqa: BLE001  # result() raises it again
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result(seconds)


def _listed(ranks: Sequence[int]) -> str:
    more = f" and {len(ranks) - NAMED} more" if len(ranks) > NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:NAMED]))}{more}"
