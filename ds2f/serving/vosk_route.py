"""``/v1/stream``: a WebSocket with the messages of Vosk's server, https://alphacephei.com/vosk/server.

Every binary message is answered by one message, a ``partial`` or, where a segment has ended, a ``result``. The end is
asked for by ``{"eof": 1}``, answered by the last ``result``, and the server closes the connection.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import unquote

from fastapi import FastAPI, WebSocket
from starlette.websockets import WebSocketDisconnect

from ds2f.errors import InputError
from ds2f.inference import Final, Word
from ds2f.inference.transcript import Result, joined
from ds2f.serving.api_errors import ApiError
from ds2f.serving.http_guard import require_key, write_log
from ds2f.serving.live_sessions import StreamingSession
from ds2f.serving.service import Service

PATH = "/v1/stream"
KEY_PROTOCOL = "key."  # begins a subprotocol whose rest is a key, percent-encoded: browsers send no other header
_PROTOCOL = "ds2f"  # the subprotocol that is chosen if it is offered
_NORMAL, _GOING_AWAY, _UNREADABLE, _REFUSED, _ERROR = 1000, 1001, 1007, 1008, 1011  # RFC 6455, section 7.4.1
_MOST_PHRASES = 1000
_RATES = 1000, 1e6  # hertz
_REASON_BYTES = 120  # of a closing message
_log = logging.getLogger(__name__)


class StreamConfig(NamedTuple):
    """What a client has configured."""

    sample_rate: int
    phrases: tuple[str, ...] = ()
    words: bool = True
    alternatives: int = 0


class Refused(Exception):  # noqa: N818  an answer
    """A message that cannot be understood, or comes at the wrong time."""

    def __init__(self, reason: str, code: int = _REFUSED) -> None:
        super().__init__(reason)
        self.code = code


def add_stream(app: FastAPI, service: Service, *, access_log: bool = True) -> None:
    """Adds the route.

    Args:
      app: the application.
      service: opens sessions.
      access_log: whether each session is a line of standard output.
    """

    @app.websocket(PATH)
    async def stream(websocket: WebSocket) -> None:
        begun, identity, status = time.monotonic(), uuid.uuid4().hex, 101
        exchange = _Exchange(websocket, service)
        try:
            await exchange.run()
        except ApiError as error:
            status = error.status
            await websocket.send_denial_response(error.response())
        finally:
            service.metrics.requests.labels(PATH, str(status)).inc()
            if access_log:
                write_log(
                    id=identity,
                    client=websocket.client.host if websocket.client else "",
                    method="WEBSOCKET",
                    path=PATH,
                    status=status,
                    seconds=round(time.monotonic() - begun, 4),
                    received=exchange.received,
                )


class _Exchange:
    """A connection from its first message to its last."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self._websocket, self._service = websocket, service
        self._config = StreamConfig(service.recognizer.grid.rate)
        self._session: StreamingSession | None = None
        self._partial = ""  # of the last answer
        self.received = 0  # bytes of PCM

    async def run(self) -> None:
        """Answers messages until either side ends.

        Raises:
          ApiError: the connection is refused; it has not been accepted.
        """
        protocol = self._require_allowed()
        with self._service.a_session():
            await self._websocket.accept(subprotocol=protocol)
            code, reason = _NORMAL, ""
            try:
                await self._answer_all()
            except (WebSocketDisconnect, asyncio.CancelledError):
                return
            except Refused as error:
                code, reason = error.code, str(error)
            except (InputError, ApiError) as error:
                code, reason = _REFUSED, str(error)
            except Exception:  # noqa: BLE001  the client is told no details
                _log.exception("a streaming session ends")
                code, reason = _ERROR, "the server failed"
            finally:
                if self._session:
                    self._session.close()
            with suppress(RuntimeError, WebSocketDisconnect):  # the client has closed it
                await self._websocket.close(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))

    def _require_allowed(self) -> str | None:
        """Checks key and limits; returns the subprotocol to accept."""
        offered = self._websocket.scope.get("subprotocols", [])
        keys = [unquote(name.removeprefix(KEY_PROTOCOL)) for name in offered if name.startswith(KEY_PROTOCOL)]
        scheme, _, token = self._websocket.headers.get("authorization", "").partition(" ")
        require_key(
            self._websocket.scope, self._service, token.strip() if scheme.lower() == "bearer" else "".join(keys)
        )
        self._service.require_open()
        return _PROTOCOL if _PROTOCOL in offered else None

    async def _answer_all(self) -> None:
        """Answers messages until the end is asked for, or the server ends."""
        while True:
            message = await self._next()
            if message is None or _is_eof(message):
                await self._send(await self._results(None), last=True)
                if message is None:
                    raise Refused("the server is shutting down", _GOING_AWAY)
                return
            if isinstance(message, bytes):
                self.received += len(message)
                await self._send(await self._results(message))
            elif message.get("reset"):
                await self._send(await self._results(None), last=True)
                self._close_session()
            else:
                self._configure(message)

    async def _next(self) -> dict[str, Any] | bytes | None:
        """The next message; None once the server ends.

        Raises:
          Refused: it cannot be understood, or none comes for a long time.
        """
        ending = asyncio.ensure_future(self._service.draining.wait())
        coming = asyncio.ensure_future(self._websocket.receive())
        try:
            waited: set[asyncio.Future[Any]] = {ending, coming}
            await asyncio.wait(waited, timeout=self._service.cfg.idle_seconds, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                message = coming.result()
            elif ending.done():
                return None
            else:
                raise Refused(f"no message for {self._service.cfg.idle_seconds:g} s")
        finally:
            ending.cancel()
            coming.cancel()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        content = message.get("bytes")
        return content if content is not None else _parsed(message.get("text") or "")

    async def _results(self, content: bytes | None) -> list[Result]:
        """The results of PCM, or of the end of the recording."""
        if self._session is None:
            if content is None:
                return []
            self._session = self._service.open_session(self._config.sample_rate, self._decode())
        promise: Future[list[Result]] = self._session.finish() if content is None else self._session.feed(content)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(promise), self._service.cfg.seconds)
        except TimeoutError:
            raise Refused("no result within the limit of time", _ERROR) from None

    def _decode(self) -> Any:
        return self._service.decode_for(self._config.phrases, max(1, self._config.alternatives))

    def _close_session(self) -> None:
        if self._session:
            self._session.close()
        self._session = None

    def _configure(self, message: dict[str, Any]) -> None:
        if self._session is not None:
            raise Refused("config comes before the first samples")
        self._config = _configured(message.get("config"), self._config)

    async def _send(self, results: Sequence[Result], *, last: bool = False) -> None:
        """Sends one message for all results."""
        finals: list[Final] = []
        for result in results:
            if not isinstance(result, Final):
                self._partial = result.text
            elif result.segment.words:
                finals.append(result)
                self._partial = ""
        if not finals and not last:
            await self._websocket.send_text(_json({"partial": self._partial}))
            return
        words = [word for final in finals for word in final.segment.words]
        await self._websocket.send_text(_json(self._result(finals, words)))

    def _result(self, finals: Sequence[Final], words: Sequence[Word]) -> dict[str, Any]:
        text = joined(words)
        timed = {"result": [_word(word) for word in words]} if self._config.words and words else {}
        if not self._config.alternatives:
            return {**timed, "text": text}
        confidence = min((word.confidence for word in words), default=1.0)
        texts = finals[0].segment.alternatives if len(finals) == 1 else ()
        others = [{"text": each, "confidence": 0.0} for each in texts[1 : self._config.alternatives]]
        return {"alternatives": [{**timed, "text": text, "confidence": round(confidence, 4)}, *others]}


def _word(word: Word) -> dict[str, Any]:
    return {
        "conf": round(word.confidence, 4),
        "end": round(word.end, 3),
        "start": round(word.start, 3),
        "word": word.text,
    }


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def _is_eof(message: dict[str, Any] | bytes) -> bool:
    return isinstance(message, dict) and bool(message.get("eof"))


def _parsed(text: str) -> dict[str, Any]:
    """A message of text.

    Raises:
      Refused: it is none of Vosk's.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not {"config", "eof", "reset"} & set(message):
        raise Refused('a text message is {"config": {...}}, {"eof": 1} or {"reset": 1}', _UNREADABLE)
    return message


def _configured(given: Any, before: StreamConfig) -> StreamConfig:
    """The configuration of a message.

    Raises:
      Refused: a value is wrong.
    """
    if not isinstance(given, dict):
        raise Refused("config is an object", _UNREADABLE)
    rate, phrases = given.get("sample_rate", before.sample_rate), given.get("phrase_list", before.phrases)
    alternatives = given.get("max_alternatives", before.alternatives)
    if not _is_number(rate, *_RATES):
        raise Refused("config.sample_rate is a number of hertz from {:g} to {:.0f}".format(*_RATES))
    if not isinstance(phrases, list | tuple) or len(phrases) > _MOST_PHRASES:
        raise Refused(f"config.phrase_list is a list of at most {_MOST_PHRASES} phrases")
    if not all(isinstance(phrase, str) for phrase in phrases):
        raise Refused("config.phrase_list is a list of phrases, each of them text")
    if not _is_number(alternatives, 0, 20):
        raise Refused("config.max_alternatives is a number from 0 to 20")
    words = bool(given.get("words", before.words))
    return StreamConfig(int(rate), tuple(phrases), words, int(alternatives))


def _is_number(value: Any, lowest: float, highest: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest
