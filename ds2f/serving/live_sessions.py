"""Streaming sessions of a unidirectional model: all that have samples are stepped in one batch.

The device thread computes logits; what they say is read, and segments are decoded, in the threads of the decoders, one
block of a session after another.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ds2f.config import EndpointConfig
from ds2f.data.pcm import PcmDecoder
from ds2f.inference import Final, Recognizer, Segment, endpoint, session, stream
from ds2f.inference.session import OpenSegment, Rules
from ds2f.inference.transcript import Result
from ds2f.serving.recording_job import Decode
from ds2f.serving.serving_metrics import ServingMetrics

LogProbs = NDArray[np.float32]


class StreamingSession(Protocol):
    """A recording that comes as raw PCM while it goes on."""

    def feed(self, content: bytes) -> "Future[list[Result]]":
        """Takes bytes; promises the results that they lead to, once all that they decide on is computed."""

    def finish(self) -> "Future[list[Result]]":
        """Ends the recording; promises its last results."""

    def close(self) -> None:
        """Frees what the session uses. Promises that are not kept are cancelled."""


class LiveSession:
    """A session of ``LiveSessions``, which makes it."""

    def __init__(self, owner: "LiveSessions", pcm: PcmDecoder, rules: Rules) -> None:
        """Begins a recording."""
        self.state = owner.recognizer.engine.begin(block=owner.block)
        self._owner, self._pcm, self._rules = owner, pcm, rules
        self._lock = threading.Lock()
        self._given: deque[bytes | None] = deque()  # what the device thread has not seen; None: the end
        self._blocks: deque[LogProbs | None] = deque()  # what the decoders have not seen; None: an answer is due
        self._hearing = self._ended = False
        self._results: list[Result] = []
        self._promised: deque[Future[list[Result]]] = deque()
        self._segment = OpenSegment(0, np.zeros((0, len(owner.cfg.model.labels)), np.float32))

    def feed(self, content: bytes) -> "Future[list[Result]]":
        """As of ``StreamingSession``."""
        return self._give(content)

    def finish(self) -> "Future[list[Result]]":
        """As of ``StreamingSession``."""
        return self._give(None)

    def close(self) -> None:
        """As of ``StreamingSession``."""
        self._owner.forget(self)
        with self._lock:
            for promise in self._promised:
                promise.cancel()

    def _give(self, content: bytes | None) -> "Future[list[Result]]":
        promise: Future[list[Result]] = Future()
        with self._lock:
            self._given.append(content)
            self._promised.append(promise)
        self._owner.has_work(self)
        return promise

    def take(self) -> None:
        """In the device thread: takes what was given last, and computes its spectrogram.

        Raises:
          InputError: the bytes are no samples.
        """
        with self._lock:
            content = self._given.popleft() if self._given else b""
        samples = self._pcm.finish() if content is None else self._pcm.decode(content)
        if len(samples):
            moved = torch.from_numpy(samples)[None].to(self.state.pending.device)
            self.state = stream.push(self.state, moved, cfg=self._owner.cfg)
        if content is None:
            self._ended = True
            self.state = stream.close(self.state, cfg=self._owner.cfg)

    @property
    def ready(self) -> bool:
        """Whether there is a block to compute."""
        return stream.ready(self.state, cfg=self._owner.cfg)

    def computed(self, block: LogProbs | None) -> bool:
        """In the device thread: takes the log-probabilities of a block, or None: all is computed, answer.

        Returns whether there is more to take.
        """
        with self._lock:
            self._blocks.append(block)
            begin, self._hearing = not self._hearing, True
            more = bool(self._given)
        if begin:
            self._owner.later(self._hear_all)
        return more

    def fail(self, error: Exception) -> None:
        """Breaks the promise of the next answer."""
        with self._lock:
            promise = self._promised.popleft() if self._promised else None
        if promise:
            with suppress(InvalidStateError):
                promise.set_exception(error)

    def _hear_all(self) -> None:
        """In a thread of the decoders: reads blocks until there are none."""
        while True:
            with self._lock:
                if not self._blocks:
                    self._hearing = False
                    return
                block = self._blocks.popleft()
            try:
                self._hear(block)
            except Exception as error:  # noqa: BLE001  the promise tells it
                self.fail(error)

    def _hear(self, block: LogProbs | None) -> None:
        if block is not None:
            self._segment, found = session.hear(self._segment, block, rules=self._rules)
            self._results += found
            return
        if self._ended:
            duration = self.state.windows.samples / self._rules.grid.rate
            self._segment, found = session.close(self._segment, rules=self._rules, duration=duration)
            self._results += [*found, Final(Segment(duration, duration, ()), last=True)]
        with self._lock:
            promise = self._promised.popleft() if self._promised else None
        results, self._results = self._results, []
        if promise:
            with suppress(InvalidStateError):  # its client has left
                promise.set_result(results)


class LiveSessions:
    """The sessions of a unidirectional model, which take turns with the batches of recordings."""

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        block_seconds: float,
        endpointing: EndpointConfig,
        decoders: ThreadPoolExecutor,
        metrics: ServingMetrics,
        wake: Callable[[], None],
    ) -> None:
        """No session yet.

        Args:
          recognizer: a unidirectional model.
          block_seconds: sound that is computed at once.
          endpointing: where segments end.
          decoders: threads.
          metrics: what is counted.
          wake: tells the device thread that there is something to compute.
        """
        self.recognizer, self.cfg = recognizer, recognizer.cfg
        self._frame = recognizer.grid.samples / recognizer.grid.rate
        self.block = max(1, round(block_seconds / self._frame))
        self._endpointing, self._decoders, self._metrics, self._wake = endpointing, decoders, metrics, wake
        self._lock = threading.Lock()
        self._busy: dict[LiveSession, None] = {}  # sessions with something to compute, in order

    def open(self, rate: int, decode: Decode | None = None) -> LiveSession:
        """Begins a session.

        Args:
          rate: samples per second of its PCM.
          decode: turns log-probabilities into a segment; None: as the recognizer does.

        Raises:
          InputError: a rate that no recording has.
        """
        limits = endpoint.limits(self._endpointing, self._frame)
        decode = decode or self.recognizer.segment
        rules = Rules(self.cfg.model.labels, self.recognizer.grid, decode, limits, self._endpointing.blank)
        return LiveSession(self, PcmDecoder(rate, sample_rate=self.recognizer.grid.rate), rules)

    def has_work(self, live: LiveSession) -> None:
        """Notes that a session has something to compute."""
        with self._lock:
            self._busy[live] = None
        self._wake()

    def forget(self, live: LiveSession) -> None:
        """Forgets a session."""
        with self._lock:
            self._busy.pop(live, None)

    def later(self, work: Callable[[], None]) -> None:
        """Has a thread of the decoders work."""
        with suppress(RuntimeError):  # the threads have ended
            self._decoders.submit(work)

    def ready(self) -> bool:
        """As of ``Steps``."""
        return bool(self._busy)

    def step(self) -> None:
        """Computes a block of every session that has the samples of one."""
        with self._lock:
            sessions = list(self._busy)
        ready = [live for live in sessions if live.ready or self._taken(live)]
        if ready:
            begun = time.monotonic()
            try:
                self._advance(ready)
            except Exception as error:
                for live in ready:
                    self._end(live, error)
                raise
            self._metrics.step(sound=len(ready) * self.block * self._frame, seconds=time.monotonic() - begun)
        for live in sessions:
            if not live.ready:
                with self._lock:
                    known = live in self._busy
                    self._busy.pop(live, None)
                if known and live.computed(None):
                    self.has_work(live)

    def _taken(self, live: LiveSession) -> bool:
        """Takes samples of a session; returns whether it has a block to compute."""
        try:
            live.take()
        except Exception as error:  # noqa: BLE001  it is the session's
            self._end(live, error)
            return False
        return live.ready

    def _end(self, live: LiveSession, error: Exception) -> None:
        self.forget(live)
        live.fail(error)

    def _advance(self, ready: list[LiveSession]) -> None:
        moved, values = self.recognizer.engine.advance([live.state for live in ready])
        for live, state, logits in zip(ready, moved, values, strict=True):
            live.state = state
            live.computed(logits[0].float().log_softmax(dim=1).cpu().numpy())
