"""The job's key-value store: opening it, waiting for all ranks, and calls with a deadline.

On one machine the store is torch's FileStore in a folder that only the agent's user can enter. On several machines it
is torch's TCPStore, hosted by the agent of group rank 0, or by rank 0 under a cluster's launcher. A client of
a server that accepts connections and stays silent waits without end, whatever timeout it was given. So every call that
may hang runs in a thread with a deadline of its own.
"""

import errno
import hashlib
import ipaddress
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch.distributed import FileStore, PrefixStore, Store, TCPStore

from ds2f.errors import InputError

T = TypeVar("T")

ANSWER_TIMEOUT = 5.0  # seconds in which a server must answer a request
MAX_NAMED = 8  # ranks that one message names


class PeerLost(Exception):  # noqa: N818  # it says what happened to whom
    """Another rank died, hangs or cannot be reached; the message names the rank where it is known, and the remedy."""


class Membership(NamedTuple):
    """This process's rank in a job, and the address of the job's store."""

    rank: int
    size: int  # ranks of the job
    host: str
    port: int
    hosted_by_agent: bool  # otherwise rank 0 hosts the store
    store_file: str = ""  # the store of a job on one machine
    store_port: int = 0  # on this machine's loopback, where the agent's tunnel leads to the store; 0: no tunnel

    @classmethod
    def from_environment(cls) -> "Membership":
        """Reads the variables that torchrun, this project's agent or a cluster's launcher sets.

        Raises:
          InputError: when a variable is missing or not a number.
        """
        try:
            return cls(
                rank=int(os.environ["RANK"]),
                size=int(os.environ["WORLD_SIZE"]),
                host=os.environ["MASTER_ADDR"],
                port=int(os.environ["MASTER_PORT"]),
                hosted_by_agent=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
                store_file=os.environ.get("DS2F_STORE_FILE", ""),
                store_port=int(os.environ.get("DS2F_STORE_PORT", "0")),
            )
        except (KeyError, ValueError) as error:
            raise InputError(
                f"RANK is set, but of WORLD_SIZE, MASTER_ADDR and MASTER_PORT one cannot be used ({error}). Start the "
                "job with python -m launch.train or torchrun, which set them, or unset RANK to run as one process"
            ) from error

    @property
    def hosts_store(self) -> bool:
        """Whether the store ends with this process."""
        return self.rank == 0 and not self.hosted_by_agent

    @property
    def store_address(self) -> str:
        """The store's address, for messages."""
        return self.store_file or f"{self.host}:{self.port}"

    @property
    def board_folder(self) -> Path | None:
        """The folder for the ranks' heartbeats, beside the store's file; None where the store holds the heartbeats."""
        return Path(self.store_file).parent if self.store_file else None


def connect(membership: Membership, *, timeout: float) -> Store:
    """Opens the store, waits for all ranks, and returns a namespace that no earlier start of the job has used.

    Args:
      membership: this process's rank and the store's address.
      timeout: seconds.

    Raises:
      PeerLost: when the store or a rank cannot be reached in time.
      InputError: when the port that rank 0 must open is taken.
    """

    def enter() -> Store:
        store: Store
        if membership.store_file:
            store = FileStore(membership.store_file)
            store.set_timeout(timedelta(seconds=timeout))
        else:
            store = _open_tcp_store(membership, timedelta(seconds=timeout))
        return _wait_for_all(PrefixStore("ds2f", store), membership, timeout=timeout)

    this_host = socket.gethostname()
    try:
        return run_with_timeout(timeout + ANSWER_TIMEOUT, enter)
    except (RuntimeError, TimeoutError, OSError) as error:
        if "EADDRINUSE" in str(error) or (isinstance(error, OSError) and error.errno == errno.EADDRINUSE):
            raise InputError(
                f"MASTER_PORT={membership.port} is taken by another program on {this_host}: set it to a free port, or "
                "start with python -m launch.train, which finds a free port"
            ) from error
        raise PeerLost(
            f"rank {membership.rank} on {this_host} did not reach the job's store at {membership.store_address} within "
            f"{timeout:g} s ({first_sentence(error)}). MASTER_ADDR must name rank 0's machine as seen from here, the "
            "job must run there, and no firewall may close the port; --rdzv_timeout allows more time"
        ) from error


def _open_tcp_store(membership: Membership, timeout: timedelta) -> TCPStore:
    """Connects to the job's store; rank 0 hosts it where no agent does."""
    host, port = ("127.0.0.1", membership.store_port) if membership.store_port else (membership.host, membership.port)
    if not membership.hosts_store:
        return TCPStore(host, port, is_master=False, timeout=timeout, wait_for_workers=False)
    with _listen(host, port) as listener:
        return TCPStore(
            host,
            listener.getsockname()[1],
            is_master=True,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=os.dup(listener.fileno()),  # otherwise torch listens on all interfaces
        )


def _listen(host: str, port: int) -> socket.socket:
    """Listens at ``host`` alone, or on all interfaces where ``host`` is no address that other machines could reach."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    meant = ipaddress.ip_address(address[0]).is_loopback == (host == "localhost" or host.startswith("127."))
    try:
        return socket.create_server(address if meant else ("", port), family=family)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:  # the address of a gateway that leads here
            raise
        return socket.create_server(("", port), family=family)


def _wait_for_all(store: Store, membership: Membership, *, timeout: float) -> Store:
    """Waits for all ranks, and agrees with them on a namespace of the store for this start of the job.

    An agent's store may hold keys of earlier starts, and the count of restarts does not tell starts apart: agents count
    separately, and a machine that joins or leaves is not counted. So each rank writes a random token, and names the
    namespace by a digest of all tokens. A rank that has the same name has read this rank's token, so it belongs to this
    start.
    """
    ranks, deadline = range(membership.size), time.monotonic() + timeout
    store.set(f"token/{membership.rank}", uuid.uuid4().hex)
    while True:
        tokens = read_existing(store, [f"token/{rank}" for rank in ranks])
        name = hashlib.sha256(b" ".join(tokens)).hexdigest()
        store.set(f"name/{membership.rank}", name)
        names = read_existing(store, [f"name/{rank}" for rank in ranks])
        missing = [rank for rank in ranks if not tokens[rank] or names[rank] != name.encode()]
        if not missing:
            return PrefixStore(name, store)
        if time.monotonic() > deadline:
            raise PeerLost(
                f"of {membership.size} ranks, {_list_ranks(missing)} did not connect to the job's store at "
                f"{membership.store_address} within {timeout:g} s. Their logs say why; start the missing ranks, or "
                "allow more time with --rdzv_timeout"
            )
        time.sleep(0.05)


def _list_ranks(ranks: Sequence[int]) -> str:
    more = f" and {len(ranks) - MAX_NAMED} more" if len(ranks) > MAX_NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:MAX_NAMED]))}{more}"


def read_existing(store: Store, keys: Sequence[str]) -> list[bytes]:
    """The values of ``keys``, without waiting for missing keys: a missing key has the value ``b""``."""
    if store.check(list(keys)):
        return store.multi_get(list(keys))
    return [store.get(key) if store.check([key]) else b"" for key in keys]


def run_with_timeout(seconds: float, task: Callable[[], T]) -> T:
    """Runs ``task`` in a thread and returns its result.

    Raises:
      TimeoutError: when the task takes longer; its thread goes on and is not waited for.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(task())
        except Exception as error:  # noqa: BLE001  # result() raises it again
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result(seconds)


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error's message; messages of torch.distributed are a page long."""
    return (str(error).strip() or "no answer").splitlines()[0].split(". ")[0]
