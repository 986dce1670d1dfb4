"""The etcd server as the place of a rendezvous: access, and the check that it is an etcd server with the v2 API.

torch's own code follows an etcd server to the address that the server advertises, by default localhost, and does not
say that the v2 API is missing.
"""

import http.client
import json
import re
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed import Store
from torch.distributed.elastic.rendezvous import RendezvousConnectionError
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import RendezvousBackend

from ds2f.errors import InputError
from ds2f.extras import import_extra
from ds2f.runner.distributed.job_store import ANSWER_TIMEOUT


class EtcdAccess(NamedTuple):
    """``--rdzv_conf``: how to reach an etcd server that requires TLS or a password."""

    protocol: str = "http"
    ca_cert: str = ""  # file of the authority that has signed the server's certificate
    ssl_cert: str = ""  # file of this client's certificate
    ssl_cert_key: str = ""  # file of the certificate's key
    username: str = ""
    password_file: str = ""

    @classmethod
    def parse(cls, conf: str) -> "EtcdAccess":
        """Reads ``KEY=VALUE,KEY=VALUE``.

        Raises:
          InputError: for an unknown key, TLS without ``ca_cert``, or a file that does not exist.
        """
        pairs = dict(pair.partition("=")[::2] for pair in conf.split(",") if pair)
        access = cls(**pairs) if set(pairs) <= set(cls._fields) else None
        if access is None or access.protocol not in ("http", "https"):
            raise InputError(f"--rdzv_conf={conf}: keys are {', '.join(cls._fields)}, protocol is http or https")
        if access.protocol == "https" and not access.ca_cert:
            raise InputError(f"--rdzv_conf={conf}: https needs ca_cert=FILE, or any server would be taken for etcd")
        for name in ("ca_cert", "ssl_cert", "ssl_cert_key", "password_file"):
            file = getattr(access, name)
            if file and not Path(file).is_file():
                raise InputError(f"--rdzv_conf: {name}={file}: no such file")
        return access

    def password(self) -> str:
        """The password, without spaces and line ends around it."""
        return Path(self.password_file).read_text(encoding="utf-8").strip() if self.password_file else ""

    def client_options(self) -> dict[str, Any]:
        """The keyword arguments of ``etcd.Client``."""
        options: dict[str, Any] = {"protocol": self.protocol}
        if self.protocol == "https":
            options["ca_cert"] = self.ca_cert
            options["cert"] = (self.ssl_cert, self.ssl_cert_key) if self.ssl_cert else None
        return options | ({"username": self.username, "password": self.password()} if self.username else {})

    def connection(self, host: str, port: int) -> http.client.HTTPConnection:
        """A connection for single requests."""
        if self.protocol == "http":
            return http.client.HTTPConnection(host, port, timeout=ANSWER_TIMEOUT)
        context = ssl.create_default_context(cafile=self.ca_cert)
        if self.ssl_cert:
            context.load_cert_chain(self.ssl_cert, self.ssl_cert_key or None)
        return http.client.HTTPSConnection(host, port, timeout=ANSWER_TIMEOUT, context=context)


def open_etcd(host: str, port: int, job: str, conf: str = "") -> tuple[Store, RendezvousBackend]:
    """Connects to an etcd server, after checking that it is one and has the v2 API, which torch uses.

    Args:
      host: of the rendezvous endpoint.
      port: of the rendezvous endpoint.
      job: the job's name, ``--rdzv_id``.
      conf: ``--rdzv_conf``.

    Raises:
      InputError: when python-etcd is missing, no etcd server answers, it refuses access or lacks the v2 API.
    """
    etcd = import_extra(
        "etcd", need="--rdzv_backend=etcd-v2 needs python-etcd", remedy="pip install 'ds2f[etcd]', or use c10d"
    )
    from torch.distributed.elastic.rendezvous.etcd_rendezvous_backend import EtcdRendezvousBackend
    from torch.distributed.elastic.rendezvous.etcd_store import EtcdStore

    access = EtcdAccess.parse(conf)
    _require_etcd(host, port, access)
    # A reconnect would use the addresses that the server advertises: localhost, by default.
    timeout = int(ANSWER_TIMEOUT)
    client = etcd.Client(host, port, read_timeout=timeout, allow_reconnect=False, **access.client_options())
    backend = EtcdRendezvousBackend(client, job, key_prefix="/torch/elastic/rendezvous")
    folder = f"/torch/elastic/store/{job}"
    try:
        if backend.get_state() is None:
            # Keys of an earlier job of this name outlive its state; this job must not read them.
            with suppress(etcd.EtcdKeyNotFound):
                client.delete(folder, recursive=True, dir=True)
    except (RendezvousConnectionError, etcd.EtcdException) as error:
        raise InputError(
            f"--rdzv_endpoint={host}:{port}: etcd refuses access ({error.__cause__ or error}); --rdzv_conf takes "
            "username and password_file"
        ) from error
    return EtcdStore(client, folder), backend


def _require_etcd(host: str, port: int, access: EtcdAccess) -> None:
    connection = access.connection(host, port)
    try:
        connection.request("GET", "/version")
        version = json.loads(connection.getresponse().read())["etcdserver"]
        connection.request("GET", "/v2/keys/")
        has_v2_api = connection.getresponse().status != http.HTTPStatus.NOT_FOUND
    except OSError as error:
        raise InputError(f"--rdzv_endpoint={host}:{port}: no etcd server answers there ({error})") from error
    except (http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        raise InputError(f"--rdzv_endpoint={host}:{port}: the service that answers there is not etcd") from error
    finally:
        connection.close()
    if not has_v2_api:
        raise InputError(
            f"--rdzv_endpoint={host}:{port}: etcd {version} runs there without the v2 API, which torch uses. "
            f"{_without_v2_api(str(version))}"
        )


def _without_v2_api(version: str) -> str:
    """What to do about an etcd server of this version that lacks the v2 API."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    removed = numbers is not None and (int(numbers[1]), int(numbers[2])) >= (3, 6)
    start = "etcd 3.6 and newer have none: run etcd 3.5 with --enable-v2" if removed else "Start it with --enable-v2"
    return f"{start}, or do without a server: --rdzv_backend=c10d, with one of the machines as --rdzv_endpoint"
