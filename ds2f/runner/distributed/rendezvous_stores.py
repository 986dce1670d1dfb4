"""The servers on which machines hold a rendezvous: torch's TCPStore (c10d) or etcd (etcd-v2).

torch's own backends open these servers too. They are opened here instead, since a user's mistakes have to end in one
message: torch waits without end where another service has the port, takes its own name for the machine's address, and
follows an etcd server to the address that the server advertises, by default localhost.
"""

import http.client
import importlib
import json
import socket
import sys
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial

from torch.distributed import Store, TCPStore
from torch.distributed.elastic.rendezvous import RendezvousConnectionError
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import RendezvousBackend

from ds2f.errors import InputError
from ds2f.runner.distributed import addresses
from ds2f.runner.distributed.job_store import ANSWER_TIMEOUT, run_with_timeout


def open_tcp_store(host: str, port: int, *, timeout: float) -> TCPStore:
    """Hosts the store if ``host`` is this machine and no agent hosts it yet; otherwise connects as soon as it exists.

    Args:
      host: of the rendezvous endpoint.
      port: of the rendezvous endpoint.
      timeout: how long to wait for the store, seconds.

    Raises:
      InputError: when the store cannot be reached in time, or another service answers.
    """
    taken = ""
    if addresses.is_this_machine(host):
        try:
            return TCPStore(host, port, is_master=True, wait_for_workers=False, multi_tenant=True)
        except RuntimeError as error:  # another agent of this job may host it
            taken = f" ({str(error).splitlines()[0]})"
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=ANSWER_TIMEOUT).close()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"--rdzv_endpoint={host}:{port} does not answer within {timeout:g} s ({error}). The same command "
                    f"must run on {host}, which hosts the rendezvous, and no firewall may close the port."
                ) from error
            time.sleep(0.5)
    connect = partial(TCPStore, host, port, timeout=timedelta(seconds=ANSWER_TIMEOUT), wait_for_workers=False)
    try:
        store = run_with_timeout(ANSWER_TIMEOUT + 1, connect)
        store.set_timeout(timedelta(seconds=60))
        return store
    except (RuntimeError, TimeoutError) as error:
        raise InputError(
            f"--rdzv_endpoint={host}:{port} is taken: another service answers there, not a rendezvous of this "
            f"program{taken}. Choose a free port."
        ) from error


def open_etcd(host: str, port: int, job: str) -> tuple[Store, RendezvousBackend]:
    """Connects to an etcd server, after checking that it is one and has the v2 API, which torch uses.

    Args:
      host: of the rendezvous endpoint.
      port: of the rendezvous endpoint.
      job: the job's name, ``--rdzv_id``.

    Raises:
      InputError: when python-etcd is missing, no etcd server answers, or the server lacks the v2 API.
    """
    try:
        etcd = importlib.import_module("etcd")
    except ModuleNotFoundError as error:
        raise InputError("--rdzv_backend=etcd-v2 needs python-etcd: pip install 'ds2f[etcd]', or use c10d") from error
    from torch.distributed.elastic.rendezvous.etcd_rendezvous_backend import EtcdRendezvousBackend
    from torch.distributed.elastic.rendezvous.etcd_store import EtcdStore

    _require_etcd(host, port)
    # A reconnect would use the addresses that the server advertises: localhost, by default.
    client = etcd.Client(host, port, read_timeout=int(ANSWER_TIMEOUT), allow_reconnect=False)
    backend = EtcdRendezvousBackend(client, job, key_prefix="/torch/elastic/rendezvous")
    folder = f"/torch/elastic/store/{job}"
    if backend.get_state() is None:
        # Keys of an earlier job of this name outlive its state; this job must not read them.
        with suppress(etcd.EtcdKeyNotFound):
            client.delete(folder, recursive=True, dir=True)
    return EtcdStore(client, folder), backend


def _require_etcd(host: str, port: int) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_TIMEOUT)
    try:
        connection.request("GET", "/version")
        version = json.loads(connection.getresponse().read())["etcdserver"]
        connection.request("GET", "/v2/keys/")
        has_v2_api = connection.getresponse().status == http.HTTPStatus.OK
    except OSError as error:
        raise InputError(f"--rdzv_endpoint={host}:{port}: no etcd server answers there ({error})") from error
    except (http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        raise InputError(f"--rdzv_endpoint={host}:{port}: the service that answers there is not etcd") from error
    finally:
        connection.close()
    if not has_v2_api:
        raise InputError(
            f"--rdzv_endpoint={host}:{port}: etcd {version} runs there without the v2 API, which torch uses; start it "
            "with --enable-v2 (etcd 3.4 and 3.5 have that option)"
        )


def connection_errors() -> tuple[type[Exception], ...]:
    """The exceptions that a store raises when its server is gone."""
    etcd = sys.modules.get("etcd")
    return (RuntimeError, LookupError, RendezvousConnectionError, *((etcd.EtcdException,) if etcd else ()))
