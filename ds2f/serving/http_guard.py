"""The guard around all routes, an ASGI application: sizes, times, keys, the end of the server, log and metrics."""

import asyncio
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from ds2f.serving.api_errors import ApiError, as_api_error
from ds2f.serving.service import Service

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/health", "/ready")  # paths that are answered while the server ends, and on connections beyond the limit
KEYED = ("/v1/", "/transcribe")  # beginnings of paths that need a key, if there are keys
_MOST_HEADERS = 100
_LINGER = 5.0  # seconds in which the rest of a refused body is dropped, so that its sender reads the answer
_ID = re.compile(r"[\w.-]{1,64}")
_SHOWN = 200  # characters of a path in the log
_log = logging.getLogger(__name__)


class HttpGuard:
    """Wraps the application."""

    def __init__(self, app: App, service: Service, *, access_log: bool = True) -> None:
        """Wraps an application.

        Args:
          app: of ASGI.
          service: with limits, keys and metrics.
          access_log: whether each request is a JSON object on a line of standard output.
        """
        self._app, self._service, self._access_log = app, service, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":  # routes of WebSockets guard themselves
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._service)
        try:
            exchange.require_allowed()
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001  every request is answered
            answer = as_api_error(error)
            if answer.status == 500:
                _log.exception("request %s", exchange.id)
            if not exchange.status:
                with suppress(OSError):
                    await answer.response()(scope, receive, exchange.send)
        finally:
            exchange.close()
            self._record(exchange)

    def _record(self, exchange: "Exchange") -> None:
        route, seconds = exchange.route, time.monotonic() - exchange.begun
        self._service.metrics.requests.labels(route, str(exchange.status)).inc()
        self._service.metrics.request_seconds.labels(route).observe(seconds)
        if self._access_log:
            write_log(
                id=exchange.id,
                client=(exchange.scope.get("client") or [""])[0],
                method=exchange.scope["method"],
                path=exchange.scope["path"][:_SHOWN],
                status=exchange.status,
                seconds=round(seconds, 4),
                received=exchange.received,
            )


def write_log(**fields: Any) -> None:
    """Writes a line of the access log; one that cannot be written is no reason to refuse a request."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
    with suppress(OSError, ValueError):
        print(json.dumps(line, allow_nan=False), flush=True, file=sys.stdout)


def require_key(scope: Scope, service: Service, token: str) -> None:
    """Refuses a client without a key.

    Raises:
      ApiError: the server has keys, the path needs one, and the token is none.
    """
    if service.keys is not None and scope["path"].startswith(KEYED) and not service.keys.known(token):
        raise ApiError(
            401,
            "send a key of this server: Authorization: Bearer KEY",
            "invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


class Exchange:
    """A request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, service: Service) -> None:
        self.scope, self._receive, self._send, self._service = scope, receive, send, service
        self.begun = time.monotonic()
        self.status, self.received = 0, 0  # status 0: nothing was answered
        self._ended = False  # the body
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self._headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = given if _ID.fullmatch(given) else uuid.uuid4().hex

    @property
    def route(self) -> str:
        """The route in metrics; paths that are none share one name."""
        return getattr(self.scope.get("route"), "path", "other")

    def require_allowed(self) -> None:
        """Refuses what the headers tell to be refused.

        Raises:
          ApiError: with the status and the reason.
        """
        path, limit = self.scope["path"], int(self._service.cfg.upload_mb * 1e6)
        if len(self.scope["headers"]) > _MOST_HEADERS:
            raise ApiError(431, f"more than {_MOST_HEADERS} headers", "too_many_headers")
        if path not in OPEN:
            self._service.require_open()
        scheme, _, token = self._headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        require_key(self.scope, self._service, token.strip() if scheme.lower() == "bearer" else "")
        length = self._headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise self._too_large()

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part of the body, within the limits of size and time.

        Raises:
          ApiError: a limit is passed.
        """
        if self._ended:
            return await self._receive()
        left = self.begun + self._service.cfg.receive_seconds - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except TimeoutError:
            raise ApiError(408, "the request did not come within the limit of time; try again", "timeout") from None
        self._ended = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self.received += size
        self._service.held += size
        if self.received > self._service.cfg.upload_mb * 1e6:
            raise self._too_large()
        if self._service.held > self._service.cfg.spool_mb * 1e6:
            raise ApiError(429, "too many uploads at a time; try again", "busy", headers={"retry-after": "5"})
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Sends a part of the answer, with the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status != HTTPStatus.REQUEST_TIMEOUT:
                await self._drop_body()
            more = [(b"x-request-id", self.id.encode()), (b"x-content-type-options", b"nosniff")]
            headers = message.get("headers", [])
            # While the server ends, a client must not send its next request on a connection that is about to close.
            closes = not self._ended or self._service.draining.is_set()
            if closes and b"connection" not in dict(headers):
                more.append((b"connection", b"close"))
            message = {**message, "headers": [*headers, *more]}
        await self._send(message)

    async def _drop_body(self) -> None:
        """Drops the rest of a refused body, for a short time: a client that is still sending reads no answer."""
        if b"expect" in self._headers and not self.received:  # it sends after "100 Continue" only
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while not self._ended:
                    message = await self._receive()
                    self._ended = message["type"] == "http.disconnect" or not message.get("more_body", False)

    def close(self) -> None:
        """Ends the exchange."""
        self._service.held -= self.received

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the request is larger than {self._service.cfg.upload_mb:g} MB; send the recording in parts",
            "too_large",
        )
