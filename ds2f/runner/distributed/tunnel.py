"""A tunnel to torch's TCPStore: only machines that know the job's secret reach the store.

torch's TCPStore serves whoever connects: it lists, reads and overwrites its keys. So the store listens on loopback, and
a gate on the network of the job relays connections to it, after both sides have proved that they know the secret. On
other machines an entry on loopback leads to the gate, since torch's client speaks to a host and port alone.

    rank -> TCPStore client -> entry (loopback) -> network -> gate -> TCPStore server (loopback)

The proof is a challenge and HMAC-SHA256 over both sides' nonces. What follows is neither encrypted nor signed: see
SECURITY.md.
"""

import asyncio
import hmac
import os
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

GREETING = b"ds2f-store-1\n"
NONCE_BYTES = 32
HANDSHAKE_TIMEOUT = 5.0  # seconds for the proof
MAX_UNPROVED = 512  # connections that may be under proof at once; further ones are closed
ATTEMPTS = 3  # of an entry to reach its gate
CHUNK = 2**16  # bytes that are relayed at once


class WrongSecretError(Exception):
    """The gate does not accept this machine's secret, or does not know it itself."""


class NoGateError(Exception):
    """Another service than a gate answers."""


def prove(connection: socket.socket, secret: bytes) -> None:
    """Proves to a gate that this side knows the secret, and requires the same of the gate.

    Args:
      connection: connected, with a timeout.
      secret: of the job.

    Raises:
      NoGateError: when another service answers.
      WrongSecretError: when the gate has another secret.
      OSError: when the connection breaks or times out.
    """
    hello = _receive(connection, len(GREETING) + NONCE_BYTES)
    if not hello.startswith(GREETING):
        raise NoGateError(f"it says {hello[:20]!r}")
    theirs, ours = hello[len(GREETING) :], secrets.token_bytes(NONCE_BYTES)
    connection.sendall(ours + _proof(secret, b"entry", theirs, ours))
    answer = _receive(connection, NONCE_BYTES)
    if not hmac.compare_digest(answer, _proof(secret, b"gate", theirs, ours)):
        raise WrongSecretError


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            return received
        received += piece
    return received


def _proof(secret: bytes, side: bytes, gates_nonce: bytes, entrys_nonce: bytes) -> bytes:
    return hmac.digest(secret, b"ds2f store " + side + gates_nonce + entrys_nonce, "sha256")


class Gate:
    """Relays connections of those who know the secret to a port on loopback."""

    def __init__(self, listeners: Sequence[socket.socket], target: int, secret: bytes) -> None:
        """Serves on sockets that listen already, from a thread, until ``close``."""
        self._secret, self._target, self._unproved = secret, target, 0
        self._server = _Server(listeners, self._admit)

    def close(self) -> None:
        """Takes no more connections."""
        self._server.close()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._unproved >= MAX_UNPROVED:
            return
        self._unproved += 1
        try:
            admitted = await asyncio.wait_for(self._check(reader, writer), HANDSHAKE_TIMEOUT)
        finally:
            self._unproved -= 1
        if admitted:
            await _relay((reader, writer), await asyncio.open_connection("127.0.0.1", self._target))

    async def _check(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        ours = secrets.token_bytes(NONCE_BYTES)
        writer.write(GREETING + ours)
        answer = await reader.readexactly(2 * NONCE_BYTES)
        theirs, proof = answer[:NONCE_BYTES], answer[NONCE_BYTES:]
        if not hmac.compare_digest(proof, _proof(self._secret, b"entry", ours, theirs)):
            return False
        writer.write(_proof(self._secret, b"gate", ours, theirs))
        await writer.drain()
        return True


class Entry:
    """A port on loopback that leads to a gate on another machine."""

    def __init__(self, host: str, port: int, secret: bytes) -> None:
        """Takes the gate's address, and serves from a thread until ``close``."""
        self._gate, self._secret = (host, port), secret
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self._server = _Server([listener], self._forward)

    def close(self) -> None:
        """Takes no more connections."""
        self._server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gate = await asyncio.to_thread(self._connect)
        await _relay((reader, writer), await asyncio.open_connection(sock=gate))

    def _connect(self) -> socket.socket:
        for _ in range(ATTEMPTS - 1):
            with suppress(OSError, NoGateError):  # strangers may keep the gate busy
                return self._connect_once()
        return self._connect_once()

    def _connect_once(self) -> socket.socket:
        connection = socket.create_connection(self._gate, timeout=HANDSHAKE_TIMEOUT)
        try:
            prove(connection, self._secret)
        except BaseException:
            connection.close()
            raise
        return connection


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Server:
    """Accepts connections on listening sockets, in the thread of all tunnels of this process."""

    def __init__(self, listeners: Sequence[socket.socket], serve: Serve) -> None:
        self._serve = serve
        self._loop = _event_loop(os.getpid())
        self._servers: list[asyncio.Server] = asyncio.run_coroutine_threadsafe(
            self._start(listeners), self._loop
        ).result()

    def close(self) -> None:
        for server in self._servers:
            self._loop.call_soon_threadsafe(server.close)

    async def _start(self, listeners: Sequence[socket.socket]) -> list[asyncio.Server]:
        return [await asyncio.start_server(self._accept, sock=listener) for listener in listeners]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A connection that breaks, stays silent or proves nothing is closed; the store's client reports its own end.
        with suppress(OSError, EOFError, TimeoutError, NoGateError, WrongSecretError):
            await self._serve(reader, writer)
        writer.close()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _relay(one: Stream, other: Stream) -> None:
    """Copies bytes both ways until one side ends."""
    for _, writer in (one, other):
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tasks = [asyncio.create_task(_copy(one[0], other[1])), asyncio.create_task(_copy(other[0], one[1]))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        other[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()


@cache
def _event_loop(process: int) -> asyncio.AbstractEventLoop:
    """The event loop of all tunnels of a process, in a thread of its own."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # of connections that break

    def run() -> Any:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    threading.Thread(target=run, name=f"ds2f-tunnel-{process}", daemon=True).start()
    return loop
