"""Network addresses of this machine: the address that other machines reach, and its network interface."""

import socket
import struct
import sys
from typing import Any

from ds2f.errors import InputError


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """Splits ``--rdzv_endpoint`` into host and port.

    >>> parse_endpoint("10.0.0.1:29500")
    ('10.0.0.1', 29500)

    Raises:
      InputError: when it is not HOST:PORT.
    """
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"--rdzv_endpoint={endpoint}: not HOST:PORT, as in 10.0.0.1:29500")
    return host.strip("[]"), int(port)


def own_address(host: str, port: int, *, alone: bool) -> str:
    """This machine's address on the network that leads to ``host``; other machines reach it there.

    The machine's own name is not used: it often resolves to a loopback address, or to another network.

    Args:
      host: of the rendezvous endpoint.
      port: of the rendezvous endpoint.
      alone: whether the job has one machine, which may then use a loopback address.

    Raises:
      InputError: when ``host`` cannot be resolved or reached.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        address = _source_address(found[0])
    except OSError as error:
        raise InputError(f"--rdzv_endpoint={host}:{port} cannot be reached from this machine: {error}") from error
    if not alone and address.startswith("127."):  # the endpoint is this machine; others need its outward address
        try:
            return _source_address((socket.AF_INET, 0, 0, "", ("203.0.113.1", port)))  # beyond the default gateway
        except OSError:  # without a default gateway, all agents are on this machine
            return address
    return address


def is_this_machine(host: str) -> bool:
    """Whether ``host`` resolves to an address of this machine."""
    for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
        with socket.socket(family, kind) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False


def interface(address: str) -> str | None:
    """The name of the network interface with this IPv4 address; None where it cannot be found, and outside Linux."""
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


def _source_address(target: tuple[Any, ...]) -> str:
    with socket.socket(target[0], socket.SOCK_DGRAM) as probe:
        probe.connect(target[4])  # on a datagram socket, this chooses the route and sends nothing
        return str(probe.getsockname()[0])
