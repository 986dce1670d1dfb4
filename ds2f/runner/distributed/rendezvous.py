"""The rendezvous of a job's machines: they agree on who takes part, and exchange values.

On one machine the agent alone takes part, and nothing listens. Several machines use a store on the machine that
``--rdzv_endpoint`` names (c10d), or an etcd server, which outlives each machine (etcd-v2). The protocol is torch's
``DynamicRendezvousHandler``, so that machines may leave and join. torch's registry of rendezvous handlers was decided
against: it would choose the addresses and open the servers itself (``rendezvous_stores`` says why not).
"""

import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

from torch.distributed import Store
from torch.distributed.elastic import rendezvous
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    RendezvousBackend,
    RendezvousTimeout,
)

from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.distributed.addresses import own_address, parse_endpoint
from ds2f.runner.distributed.etcd_server import open_etcd
from ds2f.runner.distributed.job_secret import SignedBackend, read_secret, sign, verify
from ds2f.runner.distributed.rendezvous_stores import connection_errors, open_tcp_store

log = logging.getLogger(__name__)

LAST_CALL = 10.0  # seconds that a rendezvous waits for more machines once the minimum has joined
MAX_SILENCE = 12.0  # seconds that the server may be silent: below the 15 after which torch drops a silent machine


class NodeRank(NamedTuple):
    """The result of a rendezvous for one machine."""

    group_rank: int  # this machine's number
    group_size: int  # number of machines


class LocalRendezvous:
    """The rendezvous of a job on one machine: its agent alone takes part, and no store is opened."""

    address = "127.0.0.1"

    def __init__(self, job: str) -> None:
        """Takes the job's name; an empty one becomes a random one."""
        self.job = job or uuid.uuid4().hex
        self._values: dict[str, Any] = {}

    def join(self) -> NodeRank:
        """This machine is the only one."""
        self._values.clear()
        return NodeRank(0, 1)

    def publish(self, topic: str, node: NodeRank, value: Any) -> None:
        """Sets this machine's value of a topic."""
        del node
        self._values[topic] = value

    def collect(self, topic: str, node: NodeRank) -> list[Any] | None:
        """The values of a topic by group rank; None while this machine has not set its value."""
        del node
        return [self._values[topic]] if topic in self._values else None

    def others_wait(self) -> bool:
        """Whether another machine waits for a new rendezvous: never."""
        return False

    def ended(self) -> bool:
        """Whether another machine has ended the job: never."""
        return False

    def close(self) -> None:
        """Ends the job; nothing is open."""


class Rendezvous:
    """The rendezvous of a job on several machines, as one of the machines takes part."""

    def __init__(self, cfg: Config) -> None:
        """Opens the server, or waits for the machine that hosts it.

        Args:
          cfg: ``nnodes`` and ``rdzv_*`` are read.

        Raises:
          InputError: when the server cannot be reached, or is another service; the message says what to do.
        """
        fewest, most = cfg.node_range
        self.job = cfg.rdzv_id
        self._timeout, self._fewest, self._endpoint = cfg.rdzv_timeout, fewest, cfg.rdzv_endpoint
        self._silent_since: float | None = None
        self.secret = read_secret(cfg.rdzv_secret_file)
        self._endpoint_store: Store | None = None  # shared by all jobs of the same endpoint
        self._forged: set[str] = set()  # keys whose values somebody without the secret has written
        # Otherwise torch reuses its first store in every later rendezvous, and publishes the store's address in the
        # first only. A machine that joins later would wait for the address without end, and a machine that stays might
        # use a store that is gone.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        store, backend = self._open(cfg)
        self._store = store  # after a rendezvous: the namespace of the machines that joined
        self._handler = DynamicRendezvousHandler.from_backend(
            run_id=self.job,
            store=store,
            backend=SignedBackend(backend, self.secret, self.job),
            min_nodes=fewest,
            max_nodes=most,
            local_addr=self.address,
            timeout=RendezvousTimeout(join=timedelta(seconds=cfg.rdzv_timeout), last_call=timedelta(seconds=LAST_CALL)),
        )

    def _open(self, cfg: Config) -> tuple[Store, RendezvousBackend]:
        host, port = parse_endpoint(cfg.rdzv_endpoint)
        self.address = own_address(host, port, alone=cfg.node_range == (1, 1))
        if cfg.rdzv_backend == "etcd-v2":
            return open_etcd(host, port, self.job, cfg.rdzv_conf)
        store, _, self._close_tunnel = open_tcp_store(
            host, port, self.secret, address=self.address, timeout=cfg.rdzv_timeout
        )
        store.set(f"job/{store.add('jobs', 1)}", self.job)  # for the message if too few machines join
        self._endpoint_store = store
        return store, C10dRendezvousBackend(store, self.job)

    def join(self) -> NodeRank:
        """Waits until enough machines have joined; returns this machine's number and the number of machines.

        Raises:
          InputError: when too few machines join in time, the job has ended, or the server is lost.
        """
        try:
            with self._translating_errors():
                info = self._handler.next_rendezvous()
        except rendezvous.RendezvousTimeoutError as error:
            raise InputError(self._explain_timeout()) from error
        except (rendezvous.RendezvousClosedError, rendezvous.RendezvousGracefulExitError) as error:
            raise InputError(
                f"the job --rdzv_id={self.job} at {self._endpoint} has ended: another of its machines finished or gave "
                "up, see its log. A new job needs another --rdzv_id."
            ) from error
        self._store = info.store
        return NodeRank(info.rank, info.world_size)

    def publish(self, topic: str, node: NodeRank, value: Any) -> None:
        """Sets this machine's value of a topic, for the machines of this rendezvous.

        Raises:
          InputError: when the server is lost.
        """
        with self._translating_errors():
            key = f"{topic}/{node.group_rank}"
            self._store.set(key, sign(self.secret, f"{self.job}/{key}", json.dumps(value).encode()).hex())

    def collect(self, topic: str, node: NodeRank) -> list[Any] | None:
        """The values of a topic by group rank; None while a machine has not set its value.

        Raises:
          InputError: when the server is lost.
        """
        keys = [f"{topic}/{group_rank}" for group_rank in range(node.group_size)]
        with self._translating_errors():
            found = [self._store.get(key) for key in keys] if self._store.check(keys) else []
        values = [self._verify(key, signed) for key, signed in zip(keys, found, strict=False)]
        return [json.loads(value) for value in values if value is not None] if found and None not in values else None

    def _verify(self, key: str, signed: bytes) -> bytes | None:
        """The value that a machine of the job has published; None for another one's."""
        value = None
        with suppress(ValueError):  # no hexadecimal text
            value = verify(self.secret, f"{self.job}/{key}", bytes.fromhex(signed.decode()))
        if value is None and key not in self._forged:
            self._forged.add(key)
            log.warning("the rendezvous holds a value for %s that no machine of the job has written", key)
        return value

    def others_wait(self) -> bool:
        """Whether a machine waits for a new rendezvous, because it is new or its ranks have failed.

        Raises:
          InputError: when the server has been silent for ``MAX_SILENCE``.
        """
        try:
            waiting = self._handler.num_nodes_waiting() > 0
        except rendezvous.RendezvousConnectionError as error:
            self._silent_since = self._silent_since or time.monotonic()
            if time.monotonic() - self._silent_since > MAX_SILENCE:
                raise InputError(self._explain_lost_server()) from error
            return False
        self._silent_since = None
        return waiting

    def ended(self) -> bool:
        """Whether another machine has ended the job, since its ranks gave up."""
        try:
            return bool(self._handler.is_closed())
        except rendezvous.RendezvousConnectionError:  # ``others_wait`` judges how long the server is silent
            return False

    def close(self) -> None:
        """Ends the job for all machines."""
        self._handler.shutdown()

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except connection_errors() as error:
            raise InputError(self._explain_lost_server()) from error

    def _explain_timeout(self) -> str:
        message = (
            f"fewer than {self._fewest} machines joined the rendezvous at {self._endpoint} for --rdzv_id={self.job} "
            f"within {self._timeout:g} s. Start the same command on the other machines, or allow more time with "
            "--rdzv_timeout; the machines' clocks must agree to a few seconds."
        )
        others = self._other_jobs()
        return message + (f" Machines came there for another --rdzv_id: {', '.join(others)}." if others else "")

    def _other_jobs(self) -> list[str]:
        if self._endpoint_store is None:
            return []
        try:
            numbers = range(1, self._endpoint_store.add("jobs", 0) + 1)
            return sorted({self._endpoint_store.get(f"job/{number}").decode() for number in numbers} - {self.job})
        except connection_errors():  # the machine that hosts the store has given up, too
            return []

    def _explain_lost_server(self) -> str:
        return (
            f"the rendezvous at {self._endpoint} does not answer any more: its server or machine has "
            "ended or cannot be reached from here. Start again; training goes on from the newest checkpoint with "
            "--checkpointing.load_auto_checkpoint."
        )


def open_rendezvous(cfg: Config) -> Rendezvous | LocalRendezvous:
    """The rendezvous of a job: within the agent on one machine, on a server for several.

    Raises:
      InputError: as ``Rendezvous``.
    """
    return Rendezvous(cfg) if cfg.node_range[1] > 1 else LocalRendezvous(cfg.rdzv_id)
