"""The process that serves: uvicorn, with a limit on the time of headers, and an end that answers what is queued."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ds2f.serving.application import make_app
from ds2f.serving.http_guard import HttpGuard
from ds2f.serving.service import Service

_HEADER_BYTES = 1 << 16
_FRAME_BYTES = 1 << 20  # of a WebSocket message: half a minute of PCM at 16 kHz
_ACCEPTING = 0.1  # seconds after the signal in which connections that wait are accepted, and refused politely
_QUIET = 0.5  # seconds without a request, after which a connection that is kept alive may be closed
_QUIET_WITHIN = 3.0  # seconds after the signal in which connections are waited for to be quiet
_SESSIONS_END = 30.0  # seconds in which streaming sessions give their last results
_KEEP_ALIVE = 15  # seconds between two requests of a connection
_log = logging.getLogger(__name__)


def serve(
    service: Service,
    sockets: list[socket.socket],
    *,
    on_listen: Callable[[], object] = lambda: None,
    access_log: bool = True,
) -> None:
    """Serves until SIGTERM or Ctrl-C; then answers what was accepted, and returns.

    Args:
      service: answers the requests.
      sockets: bound, listening or not.
      on_listen: is called once clients can connect.
      access_log: whether each request is a line of standard output.
    """
    app = HttpGuard(make_app(service, access_log=access_log), service, access_log=access_log)
    config = uvicorn.Config(
        app,
        http=_protocol(service.cfg.header_seconds),
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        ws_max_size=_FRAME_BYTES,
        ws_per_message_deflate=False,  # a small message may unpack to a large one
    )
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # its errors are those of clients; ours are logged
    Server(config, service, on_listen=on_listen).run(sockets)


class Server(uvicorn.Server):
    """uvicorn's server, which ends in order."""

    def __init__(self, config: uvicorn.Config, service: Service, *, on_listen: Callable[[], object]) -> None:
        super().__init__(config)
        self._service, self._on_listen = service, on_listen
        service.connections = self.server_state.connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens once the model has computed."""
        await self._service.warm_up()
        await super().startup(sockets)
        self._on_listen()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Ends in order at the first signal, at once at the second; the exit status is that of the command."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no new work, answers what was accepted, and ends."""
        self._service.draining.set()
        await asyncio.sleep(_ACCEPTING)
        begun = time.monotonic()
        while self._service.sessions and time.monotonic() < begun + _SESSIONS_END:  # their last results
            await asyncio.sleep(0.02)
        while self._expects_requests() and time.monotonic() < begun + _QUIET_WITHIN:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _expects_requests(self) -> bool:
        """Whether a connection that is kept alive was in use just now: the next request would meet its close."""
        now = time.monotonic()
        return any(now - getattr(each, "used", 0.0) < _QUIET for each in self.server_state.connections)


def _protocol(seconds: float) -> type[asyncio.Protocol]:
    """The HTTP protocol with a limit on the time in which the headers of a request come."""

    class TimedProtocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            self._timer: asyncio.TimerHandle | None = None
            self.used = time.monotonic()  # the last byte of a request, or the end of an answer
            super().connection_made(transport)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self.used = time.monotonic()
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            self.used = time.monotonic()
            super().on_response_complete()
            self._watch()

        def _watch(self) -> None:
            waits = self.cycle is None or (self.cycle.response_complete and self.conn.trailing_data[0])
            if not waits or self.transport.is_closing() or self.transport.get_protocol() is not self:
                self._stop()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self.transport.close)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return TimedProtocol
