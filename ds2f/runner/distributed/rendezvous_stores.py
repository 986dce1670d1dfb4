"""torch's TCPStore on loopback, behind a gate: for a rendezvous (c10d), and for the ranks of several machines.

torch's own backends open these servers too. They are opened here instead: torch listens on all interfaces and serves
whoever connects. And a user's mistakes have to end in one message, while torch waits without end where another service
has the port, and takes its own name for the machine's address.
"""

import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousConnectionError

from ds2f.errors import InputError
from ds2f.runner.distributed import addresses, tunnel
from ds2f.runner.distributed.job_store import ANSWER_TIMEOUT, run_with_timeout

LOOPBACK = "127.0.0.1"

_endpoints: list["ReachableStore"] = []  # hosted here: other jobs of an endpoint use it until this process ends


class ReachableStore(NamedTuple):
    """A TCPStore on this machine's loopback, or on another machine behind its gate."""

    store: TCPStore
    port: int  # on this machine's loopback, where further clients reach the store
    close: Callable[[], None]  # closes the tunnel


def host_store(listeners: list[socket.socket], secret: bytes) -> ReachableStore:
    """Hosts a store on loopback, and a gate to it on ``listeners``, which listen already."""
    with socket.create_server((LOOPBACK, 0)) as own:
        port = own.getsockname()[1]
        store = TCPStore(
            LOOPBACK,
            port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=os.dup(own.fileno()),  # otherwise torch listens on all interfaces
        )
    return ReachableStore(store, port, tunnel.Gate(listeners, port, secret).close)


def reach_store(host: str, port: int, secret: bytes, *, timeout: float) -> ReachableStore:
    """Connects to the store behind a gate of another process.

    Raises:
      RuntimeError: when the store does not answer.
      TimeoutError: likewise.
    """
    entry = tunnel.Entry(host, port, secret)
    connect = partial(TCPStore, LOOPBACK, entry.port, timeout=timedelta(seconds=timeout), wait_for_workers=False)
    try:
        return ReachableStore(run_with_timeout(timeout + 1, connect), entry.port, entry.close)
    except BaseException:
        entry.close()
        raise


def open_tcp_store(host: str, port: int, secret: bytes, *, address: str, timeout: float) -> ReachableStore:
    """Hosts the store if ``host`` is this machine and no agent hosts it yet; otherwise connects as soon as it exists.

    Args:
      host: of the rendezvous endpoint.
      port: of the rendezvous endpoint.
      secret: of the job.
      address: this machine's address on the network of the job.
      timeout: how long to wait for the store, seconds.

    Raises:
      InputError: when the store cannot be reached in time, another service answers, or the secrets differ.
    """
    taken = ""
    if addresses.is_this_machine(host):
        try:
            _endpoints.append(host_store(_listen(host, port, address), secret))
            return _endpoints[-1]
        except OSError as error:  # another agent of this job may host it
            if error.errno != errno.EADDRINUSE:
                raise InputError(f"--rdzv_endpoint={host}:{port} cannot be opened on this machine: {error}") from error
            taken = f" ({error.strerror})"
    _knock(host, port, secret, timeout=timeout, taken=taken)
    try:
        reached = reach_store(host, port, secret, timeout=ANSWER_TIMEOUT)
    except (RuntimeError, TimeoutError) as error:
        raise InputError(f"the store behind --rdzv_endpoint={host}:{port} does not answer: {error}") from error
    reached.store.set_timeout(timedelta(seconds=60))
    return reached


def _listen(host: str, port: int, address: str) -> list[socket.socket]:
    """Listens at the addresses that ``host`` has on this machine, and at ``address``, at which others know it."""
    names = {found[4][0]: found[0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    names = {str(name): family for name, family in names.items() if addresses.is_this_machine(str(name))}
    names.setdefault(address, socket.AF_INET6 if ":" in address else socket.AF_INET)
    listeners: list[socket.socket] = []
    try:
        for name, family in names.items():
            listeners.append(socket.create_server((name, port), family=family))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _knock(host: str, port: int, secret: bytes, *, timeout: float, taken: str) -> None:
    """Waits until the gate at the endpoint listens, and requires that both sides know the secret.

    Raises:
      InputError: when nothing answers in time, another service answers, or the secrets differ.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=ANSWER_TIMEOUT)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"--rdzv_endpoint={host}:{port} does not answer within {timeout:g} s ({error}). The same command "
                    f"must run on {host}, which hosts the rendezvous, and no firewall may close the port."
                ) from error
            time.sleep(0.5)
    try:
        with connection:
            tunnel.prove(connection, secret)
    except tunnel.WrongSecretError as error:
        raise InputError(
            f"--rdzv_endpoint={host}:{port}: the machine that hosts the rendezvous has another secret in its "
            "--rdzv_secret_file. All machines of a job need the same; another job needs another port."
        ) from error
    except (tunnel.NoGateError, OSError) as error:
        raise InputError(
            f"--rdzv_endpoint={host}:{port} is taken: another service answers there, not a rendezvous of this "
            f"program{taken}. Choose a free port."
        ) from error


def connection_errors() -> tuple[type[Exception], ...]:
    """The exceptions that a store raises when its server is gone."""
    etcd = sys.modules.get("etcd")
    return (RuntimeError, LookupError, RendezvousConnectionError, *((etcd.EtcdException,) if etcd else ()))
