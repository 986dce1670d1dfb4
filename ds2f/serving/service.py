"""What the routes of the server share: the recognizer's queue, limits, keys, metrics, and whether the server ends."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ds2f.config import EndpointConfig, ServingConfig
from ds2f.data.audio_blocks import Recording
from ds2f.inference import Recognizer, Transcript
from ds2f.inference.engine import can_stream
from ds2f.serving.api_errors import ApiError, client_left
from ds2f.serving.api_keys import ApiKeys
from ds2f.serving.batcher import Batcher
from ds2f.serving.live_sessions import LiveSessions, StreamingSession
from ds2f.serving.openai_forms import Asked
from ds2f.serving.paused_sessions import PausedSession
from ds2f.serving.recording_job import Decode
from ds2f.serving.serving_metrics import ServingMetrics
from ds2f.serving.upload import UploadedRecording

MakeDecode = Callable[[tuple[str, ...], int], Decode]  # (hot words, number of alternatives) -> decoder
_log = logging.getLogger(__name__)


class Service:
    """A recognizer that serves.

    Attributes:
      cfg: limits.
      model: the name of the model.
      keys: of clients; None: all may ask.
      batcher: the queue.
      metrics: what is counted.
      draining: set once the server ends: it takes no new work.
      sessions: number of streaming sessions that are open.
      connections: that are open, of uvicorn.
      held: bytes of requests that are in memory and in temporary files.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        cfg: ServingConfig,
        model: str,
        endpointing: EndpointConfig = EndpointConfig(),  # noqa: B008  immutable
        keys: ApiKeys | None = None,
        make_decode: MakeDecode | None = None,
        decoding: int = 1,
    ) -> None:
        """Starts the threads of the queue.

        Args:
          recognizer: the model.
          cfg: limits.
          model: its name.
          endpointing: where segments of streaming sessions end.
          keys: of clients; None: all may ask.
          make_decode: decodes with hot words and alternatives of a request; None: there are none.
          decoding: segments that are decoded at a time.
        """
        self.cfg, self.model, self.keys = cfg, model, keys
        self.recognizer, self.metrics = recognizer, ServingMetrics()
        self.batcher = Batcher(recognizer, cfg=cfg, metrics=self.metrics, decoding=decoding)
        self.started = int(time.time())
        self.draining = asyncio.Event()
        self.held = 0
        self._probing = asyncio.Lock()
        self._endpointing, self._make_decode = endpointing, make_decode
        self.sessions = 0
        self.connections: Collection[object] = ()
        self._live = self._streaming()

    def __enter__(self) -> "Service":
        """The service itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the threads."""
        self.batcher.__exit__()

    @property
    def streaming(self) -> bool:
        """Whether the engine computes streams, as of unidirectional models: sessions have partial results."""
        return self._live is not None

    @property
    def searches(self) -> bool:
        """Whether hot words and alternatives of a request have an effect."""
        return self._make_decode is not None

    async def transcribe(self, asked: Asked, receive: Callable[[], Any]) -> Transcript:
        """Transcribes an upload.

        Args:
          asked: the request; its file is closed here.
          receive: the ASGI function, for the end of the connection.

        Raises:
          Busy: the queue is full.
          InputError: the recording cannot be read.
          ApiError: the time is over, or the client has left.
        """
        recording = UploadedRecording(
            asked.file, sample_rate=self.recognizer.cfg.spect.sample_rate, max_seconds=3600 * self.cfg.hours
        )
        try:
            decode = self.decode_for(asked.hot_words, asked.nbest)
            job = self.batcher.submit(recording, decode=decode, close=asked.file.close)
        except Exception:
            asked.file.close()
            raise
        done, gone = asyncio.wrap_future(job.future), asyncio.ensure_future(_left(receive))
        waited: set[asyncio.Future[Any]] = {done, gone}
        try:
            await asyncio.wait(waited, timeout=self.cfg.seconds, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                return done.result()
            if gone.done():
                raise client_left()
            raise ApiError(504, f"no transcript after {self.cfg.seconds:g} s; send a shorter recording", "timeout")
        finally:
            gone.cancel()
            done.cancel()  # frees what the recording uses, if it is not done
            job.future.cancel()

    def decode_for(self, hot_words: tuple[str, ...], nbest: int) -> Decode | None:
        """The decoder of a request; None: the recognizer's. A server that does not search takes no notice of hot words.

        Raises:
          ApiError: alternatives are wanted of a server that does not search.
        """
        if self._make_decode is not None and (hot_words or nbest > 1):
            return self._make_decode(hot_words, nbest)
        if nbest > 1:
            raise ApiError(
                400, "this server has no alternatives: it needs --lm.decoder=beam", "invalid_value", param="nbest"
            )
        return None

    def require_open(self) -> None:
        """Refuses new work while the server ends, and requests of connections beyond the limit.

        Raises:
          ApiError: with the reason.
        """
        if self.draining.is_set():
            raise ApiError(503, "the server is shutting down; try again", "shutting_down")
        if len(self.connections) > self.cfg.connections:
            raise ApiError(
                503,
                f"all {self.cfg.connections} connections are taken; try again",
                "connections_full",
                headers={"connection": "close"},
            )

    @contextmanager
    def a_session(self) -> Iterator[None]:
        """The place of a streaming session.

        Raises:
          ApiError: all are taken.
        """
        if self.sessions >= self.cfg.sessions:
            raise ApiError(503, f"all {self.cfg.sessions} streaming sessions are taken; try again", "sessions_full")
        self.sessions += 1
        self.metrics.sessions.set(self.sessions)
        try:
            yield
        finally:
            self.sessions -= 1
            self.metrics.sessions.set(self.sessions)

    def open_session(self, rate: int, decode: Decode | None) -> StreamingSession:
        """Begins a recording that comes while it goes on.

        Args:
          rate: samples per second of its PCM.
          decode: as of ``decode_for``.

        Raises:
          InputError: a rate that no recording has.
        """
        if self._live is not None:
            return self._live.open(rate, decode)
        return PausedSession(self.batcher, rate, endpointing=self._endpointing, decode=decode)

    def _streaming(self) -> LiveSessions | None:
        """The sessions of an engine that streams."""
        batcher = self.batcher
        live = LiveSessions(
            self.recognizer,
            block_seconds=self.cfg.stream_block,
            endpointing=self._endpointing,
            decoders=batcher.decoders,
            metrics=self.metrics,
            wake=batcher.wake,
        )
        if not can_stream(self.recognizer.engine, block=live.block):
            return None
        batcher.take_turns(live)
        return live

    async def is_ready(self) -> str:
        """Why the server is not ready; empty if it is: its queue has room, and it has computed within a few seconds."""
        if self.draining.is_set():
            return "shutting down"
        if len(self.connections) > self.cfg.connections:
            return "all connections are taken"
        if self.batcher.waiting >= self.cfg.queue:
            return "the queue is full"
        if time.monotonic() - self.batcher.last_inference <= self.cfg.ready_seconds:
            return ""
        try:
            async with asyncio.timeout(self.cfg.ready_seconds), self._probing:
                if time.monotonic() - self.batcher.last_inference > self.cfg.ready_seconds:
                    await self.warm_up()
        except Exception:  # noqa: BLE001  whatever it is, the server is not ready
            _log.exception("an inference that was to show readiness failed")
            return "no inference within the limit"
        return ""

    async def warm_up(self) -> None:
        """Computes and decodes a second of noise, as if it were a recording."""
        rate = self.recognizer.cfg.spect.sample_rate
        noise = np.random.default_rng(0).normal(0, 0.01, rate).astype(np.float32)
        recording = Recording(noise, rate=rate, sample_rate=rate)
        job = self.batcher.submit(recording, urgent=True)
        await asyncio.wrap_future(job.future)


async def _left(receive: Callable[[], Any]) -> None:
    """Returns once the connection has ended."""
    while (await receive())["type"] != "http.disconnect":
        pass
