"""Where the machines of a job meet: torch's elastic rendezvous, opened with care for addresses and ports.

On one machine the meeting place is a store in the agent. Several machines meet in a store that the machine named by
``--rdzv_endpoint`` keeps (c10d), or on an etcd server, which outlives each of them (etcd-v2).
"""

import http.client
import importlib
import json
import os
import socket
import struct
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from torch.distributed import Store, TCPStore
from torch.distributed.elastic import rendezvous
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    RendezvousBackend,
    RendezvousTimeout,
)

from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.distributed.heartbeat import run_with_timeout

LAST_CALL = 10.0  # seconds that machines wait for more once the fewest are there
PATIENCE = 12.0  # seconds that a silent meeting place is forgiven: below the 15 after which a machine counts as gone
ANSWER = 5.0  # seconds within which a server answers


class NodeRank(NamedTuple):
    """What one meeting agreed on."""

    group_rank: int  # this machine's number
    group_size: int  # how many machines there are


class Rendezvous:
    """The meeting place of a job's machines, as one of them sees it."""

    def __init__(self, cfg: Config) -> None:
        """Opens the meeting place, or waits until the machine that keeps it does.

        Raises:
          InputError: when it cannot be reached, or is no meeting place; the message says where and what to do.
        """
        fewest, most = cfg.node_range
        self.job = cfg.rdzv_id or uuid.uuid4().hex
        self._timeout, self._fewest, self._endpoint = cfg.rdzv_timeout, fewest, cfg.rdzv_endpoint
        self._silent_since: float | None = None
        self._visited: TCPStore | None = None  # where all jobs meet that have the same endpoint
        # Otherwise torch shares the first store with all later meetings, but tells its address at the first one only: a
        # machine that comes back would wait for it without end, and one that stays might use a store that is gone.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        store, backend = self._open(cfg)
        self._store = store  # after a meeting: the part of it that those have who met
        self._handler = DynamicRendezvousHandler.from_backend(
            run_id=self.job,
            store=store,
            backend=backend,
            min_nodes=fewest,
            max_nodes=most,
            local_addr=self.address,
            timeout=RendezvousTimeout(join=timedelta(seconds=cfg.rdzv_timeout), last_call=timedelta(seconds=LAST_CALL)),
        )

    def _open(self, cfg: Config) -> tuple[Store, RendezvousBackend]:
        if not cfg.rdzv_endpoint:
            self.address = "127.0.0.1"
            here = TCPStore(self.address, 0, is_master=True, wait_for_workers=False)
            return here, C10dRendezvousBackend(here, self.job)
        host, port = _parse(cfg.rdzv_endpoint)
        self.address = _own_address(host, port, alone=cfg.node_range == (1, 1))
        if cfg.rdzv_backend == "etcd-v2":
            return _open_etcd(host, port, self.job)
        store = _open_tcp(host, port, patience=cfg.rdzv_timeout)
        store.set(f"visitor/{store.add('visitors', 1)}", self.job)  # for the message should nobody come for this job
        self._visited = store
        return store, C10dRendezvousBackend(store, self.job)

    def join(self) -> NodeRank:
        """Waits until enough machines have come, and returns how many and which of them this is.

        Raises:
          InputError: when too few come in time, the job has ended, or the meeting place is lost.
        """
        try:
            with self._translated():
                info = self._handler.next_rendezvous()
        except rendezvous.RendezvousTimeoutError as error:
            raise InputError(self._nobody_comes()) from error
        except (rendezvous.RendezvousClosedError, rendezvous.RendezvousGracefulExitError) as error:
            raise InputError(
                f"the job --rdzv_id={self.job} at {self._endpoint} has ended: another of its machines finished or gave "
                "up, see its log. A new job needs another --rdzv_id."
            ) from error
        self._store = info.store
        return NodeRank(info.rank, info.world_size)

    def publish(self, topic: str, node: NodeRank, value: Any) -> None:
        """Tells the machines that have met something.

        Raises:
          InputError: when the meeting place is lost.
        """
        with self._translated():
            self._store.set(f"{topic}/{node.group_rank}", json.dumps(value))

    def collect(self, topic: str, node: NodeRank) -> list[Any] | None:
        """What all machines said on a topic, by machine; None while somebody's word is missing.

        Raises:
          InputError: when the meeting place is lost.
        """
        keys = [f"{topic}/{machine}" for machine in range(node.group_size)]
        with self._translated():
            return [json.loads(self._store.get(key)) for key in keys] if self._store.check(keys) else None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _lost_connection() as error:
            raise InputError(self._lost()) from error

    def others_wait(self) -> bool:
        """Whether a machine waits for all to meet again: it is new, or its ranks have failed.

        Raises:
          InputError: when the meeting place has been silent for ``PATIENCE``.
        """
        try:
            waiting = self._handler.num_nodes_waiting() > 0
        except rendezvous.RendezvousConnectionError as error:
            self._silent_since = self._silent_since or time.monotonic()
            if time.monotonic() - self._silent_since > PATIENCE:
                raise InputError(self._lost()) from error
            return False
        self._silent_since = None
        return waiting

    def close(self) -> None:
        """Ends the job for all machines."""
        self._handler.shutdown()

    def _nobody_comes(self) -> str:
        message = (
            f"fewer than {self._fewest} machines came to {self._endpoint} for --rdzv_id={self.job} within "
            f"{self._timeout:g} s. Start the same command on the others, or allow more time with --rdzv_timeout; their "
            "clocks must agree to a few seconds."
        )
        others = self._other_jobs()
        return message + (f" Machines came there for another --rdzv_id: {', '.join(others)}." if others else "")

    def _other_jobs(self) -> list[str]:
        if self._visited is None:
            return []
        visits = range(1, self._visited.add("visitors", 0) + 1)
        return sorted({self._visited.get(f"visitor/{visit}").decode() for visit in visits} - {self.job})

    def _lost(self) -> str:
        return (
            f"the meeting place {self._endpoint or 'of this machine'} does not answer any more: its server or machine "
            "has ended or cannot be reached from here. Start again; training goes on from the newest checkpoint with "
            "--checkpointing.load_auto_checkpoint."
        )


def interface(address: str) -> str | None:
    """The name of the network interface that has an IPv4 address, or None where that cannot be told."""
    if sys.platform != "linux":
        return None
    import fcntl

    get_address = 0x8915  # SIOCGIFADDR of linux/sockios.h
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, get_address, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def _parse(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"--rdzv_endpoint={endpoint}: not HOST:PORT, as in 10.0.0.1:29500")
    return host.strip("[]"), int(port)


def _own_address(host: str, port: int, *, alone: bool) -> str:
    """The address of this machine on the network through which it reaches ``host``: where others reach it, too.

    The machine's own name will not do: it often stands for a loopback address, or for another network.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        address = _source_address(found[0])
    except OSError as error:
        raise InputError(f"--rdzv_endpoint={host}:{port} cannot be reached from this machine: {error}") from error
    if not alone and address.startswith("127."):  # the endpoint is this machine; the others do not know it as that
        try:
            return _source_address((socket.AF_INET, 0, 0, "", ("203.0.113.1", port)))  # beyond the default gateway
        except OSError:  # without one, all agents are on this machine
            return address
    return address


def _source_address(target: tuple[Any, ...]) -> str:
    with socket.socket(target[0], socket.SOCK_DGRAM) as probe:
        probe.connect(target[4])  # of a datagram socket: chooses the route and sends nothing
        return str(probe.getsockname()[0])


def _open_tcp(host: str, port: int, *, patience: float) -> TCPStore:
    """Keeps the store if ``host`` is this machine and nobody does yet; otherwise connects, as soon as it is there."""
    taken = ""
    if _is_this_machine(host):
        try:
            return TCPStore(host, port, is_master=True, wait_for_workers=False, multi_tenant=True)
        except RuntimeError as error:  # perhaps by another agent of this job
            taken = f" ({str(error).splitlines()[0]})"
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, port), timeout=ANSWER).close()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"--rdzv_endpoint={host}:{port} does not answer within {patience:g} s ({error}). The same command "
                    f"must run on {host}, which keeps the meeting place, and no firewall may close the port."
                ) from error
            time.sleep(0.5)
    try:
        store = run_with_timeout(
            ANSWER + 1, partial(TCPStore, host, port, timeout=timedelta(seconds=ANSWER), wait_for_workers=False)
        )
        store.set_timeout(timedelta(seconds=60))
        return store
    except (RuntimeError, TimeoutError) as error:
        raise InputError(
            f"--rdzv_endpoint={host}:{port} is taken: something answers there that is no meeting place of this "
            f"program{taken}. Choose a free port."
        ) from error


def _is_this_machine(host: str) -> bool:
    for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
        with socket.socket(family, kind) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False


def _open_etcd(host: str, port: int, job: str) -> tuple[Store, RendezvousBackend]:
    """Connects to an etcd server after a look at whether it is one and speaks the old API that torch uses."""
    try:
        etcd = importlib.import_module("etcd")
    except ModuleNotFoundError as error:
        raise InputError("--rdzv_backend=etcd-v2 needs python-etcd: pip install 'ds2f[etcd]', or use c10d") from error
    from torch.distributed.elastic.rendezvous.etcd_rendezvous_backend import EtcdRendezvousBackend
    from torch.distributed.elastic.rendezvous.etcd_store import EtcdStore

    _require_etcd(host, port)
    # Without reconnecting, which would turn to the addresses that the server advertises: localhost, by default.
    client = etcd.Client(host, port, read_timeout=int(ANSWER), allow_reconnect=False)
    backend = EtcdRendezvousBackend(client, job, key_prefix="/torch/elastic/rendezvous")
    folder = f"/torch/elastic/store/{job}"
    if backend.get_state() is None:
        # What an earlier job of this name told its machines outlives its state, and would pass for this job's.
        with suppress(etcd.EtcdKeyNotFound):
            client.delete(folder, recursive=True, dir=True)
    return EtcdStore(client, folder), backend


def _require_etcd(host: str, port: int) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER)
    try:
        connection.request("GET", "/version")
        version = json.loads(connection.getresponse().read())["etcdserver"]
        connection.request("GET", "/v2/keys/")
        old_api = connection.getresponse().status == http.HTTPStatus.OK
    except OSError as error:
        raise InputError(f"--rdzv_endpoint={host}:{port}: no etcd server answers there ({error})") from error
    except (http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        raise InputError(f"--rdzv_endpoint={host}:{port}: what answers there is no etcd server") from error
    finally:
        connection.close()
    if not old_api:
        raise InputError(
            f"--rdzv_endpoint={host}:{port}: etcd {version} runs there without the v2 API, which torch uses; start it "
            "with --enable-v2 (etcd 3.4 and 3.5 have that option)"
        )


def _lost_connection() -> tuple[type[Exception], ...]:
    """What stores raise when their server is gone."""
    etcd = sys.modules.get("etcd")
    return (RuntimeError, LookupError, rendezvous.RendezvousConnectionError, *((etcd.EtcdException,) if etcd else ()))
