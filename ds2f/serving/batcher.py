"""The batching queue: pieces of many recordings, computed by one thread for the device, decoded in a pool.

    upload ──► reader threads ──► queue ──► device thread ──► decoder threads ──► answer
               samples, features            logits            text, words

A recording has a few pieces in the queue at a time, so that memory does not grow with its duration. Streaming sessions
take turns with batches.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from ds2f.config import ServingConfig
from ds2f.data.audio_blocks import Recording
from ds2f.errors import InputError
from ds2f.inference import Recognizer, Transcript
from ds2f.inference.recognizer import Part
from ds2f.serving.fair_queue import FairQueue, Queued
from ds2f.serving.recording_job import Decode, RecordingJob
from ds2f.serving.serving_metrics import ServingMetrics

_log = logging.getLogger(__name__)
_READERS = 2  # threads that decode audio and compute features
_DECODERS = 2  # threads that decode, at least
_AFTER_ERROR = 0.05  # seconds: an error that comes again and again leaves the log readable
_MEMORY = 0.9  # weight of the past in the mean time between two answers


class Busy(Exception):  # noqa: N818  # an answer
    """The queue is full."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many recordings wait; try again in {retry_after} s")
        self.retry_after = retry_after  # seconds


class Steps(Protocol):
    """Work that takes turns with batches of pieces on the device."""

    def ready(self) -> bool:
        """Whether there is something to compute."""

    def step(self) -> None:
        """Computes one step."""


class Batcher:
    """The threads, and the queue between them. Leave it as a context."""

    def __init__(
        self, recognizer: Recognizer, *, cfg: ServingConfig, metrics: ServingMetrics, decoding: int = 1
    ) -> None:
        """Starts the threads.

        Args:
          recognizer: the model.
          cfg: limits of the queue and of batches.
          metrics: what is counted.
          decoding: segments that are decoded at a time: as many as the decoder has processes.
        """
        self.recognizer, self.cfg, self.metrics = recognizer, cfg, metrics
        self.last_inference = 0.0  # monotonic time of the end of the last batch, seconds
        self._queue: FairQueue[Part] = FairQueue()
        self._changed = threading.Condition()
        self._jobs: set[RecordingJob] = set()
        self._between, self._last_answer = 1.0, 0.0  # seconds between two answers, in the mean; time of the last
        self._steps: list[Steps] = []
        self._closing = False
        self._readers = ThreadPoolExecutor(_READERS, "reader")
        self.decoders = ThreadPoolExecutor(max(_DECODERS, decoding), "decoder")
        self._device = threading.Thread(target=self._run, name="device", daemon=True)
        self._device.start()

    def __enter__(self) -> "Batcher":
        """The batcher itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the threads, after what is being computed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._device.join()
        self._readers.shutdown(cancel_futures=True)
        self.decoders.shutdown(cancel_futures=True)

    @property
    def waiting(self) -> int:
        """Recordings that wait or are transcribed."""
        return len(self._jobs)

    def take_turns(self, steps: Steps) -> None:
        """Has the device thread compute steps whenever there are any; call ``wake`` when there are."""
        self._steps.append(steps)

    def wake(self) -> None:
        """Tells the device thread that there is something to compute."""
        with self._changed:
            self._changed.notify_all()

    def require_room(self) -> None:
        """Raises Busy if the queue is full."""
        if self.waiting >= self.cfg.queue:
            raise Busy(min(60, max(1, round(self.waiting * self._between))))

    def submit(
        self,
        recording: Recording,
        *,
        decode: Decode | None = None,
        close: Callable[[], object] = lambda: None,
        urgent: bool = False,
    ) -> RecordingJob:
        """Queues a recording.

        Args:
          recording: not yet read.
          close: closes what the recording is read from, once nothing reads it any more; it may be called twice.
          decode: turns log-probabilities into a segment; None: as the recognizer does.
          urgent: whether it is queued even if the queue is full.

        Raises:
          Busy: the queue is full.
        """
        if not urgent:
            self.require_room()
        job = RecordingJob(self.recognizer, recording, decode or self.recognizer.segment, self.decoders, close=close)
        with self._changed:
            self._jobs.add(job)
        self.metrics.waiting.set(self.waiting)
        job.future.add_done_callback(lambda future: self._ended(job, future))
        self._later(job)
        return job

    def in_background(self, work: Callable[[], object]) -> None:
        """Has a reader thread work."""
        with suppress(RuntimeError):  # the threads have ended
            self._readers.submit(work)

    def _ended(self, job: RecordingJob, future: "Future[Transcript]") -> None:
        """Forgets a recording that is transcribed, has failed, or whose client has left."""
        with self._changed:
            self._queue.discard(job)
            self._jobs.discard(job)
        now = time.monotonic()
        if not future.cancelled():
            self._between = _MEMORY * self._between + (1 - _MEMORY) * min(60.0, now - self._last_answer)
            self._last_answer = now
        self.metrics.waiting.set(self.waiting)
        self._later(job)  # closes what it reads

    def _later(self, job: RecordingJob) -> None:
        """Has a reader thread read the next piece of a recording."""
        try:
            self._readers.submit(self._read, job)
        except RuntimeError:  # the threads have ended
            job.close()

    def _read(self, job: RecordingJob) -> None:
        part = job.read()
        if part is None:
            return
        with self._changed:
            if not job.future.done():
                self._queue.add(job, part.features.shape[1], part, now=time.monotonic())
                self._changed.notify_all()
        if job.wants_more:
            self._later(job)

    def _run(self) -> None:
        """The device thread."""
        while not self._closing:
            try:
                for steps in self._steps:
                    if steps.ready():
                        steps.step()
                batch = self._next_batch()
                if batch:
                    self._compute(batch)
            except Exception:  # noqa: BLE001  one recording must not end the server
                _log.exception("the device thread goes on after an error")
                time.sleep(_AFTER_ERROR)

    def _next_batch(self) -> list[Queued[Part]]:
        """The next batch, once it is full or has waited; nothing if steps are ready before, or the threads end."""
        with self._changed:
            while not self._closing:
                oldest = self._queue.oldest
                left = None if oldest is None else oldest + self.cfg.wait_ms / 1000 - time.monotonic()
                if left is not None and (left <= 0 or self._queue.fills(self.cfg.batch_frames)):
                    return self._queue.take(self.cfg.batch_frames)
                if any(steps.ready() for steps in self._steps):
                    break
                self._changed.wait(left)
        return []

    def _compute(self, batch: Sequence[Queued[Part]]) -> None:
        jobs = [each.owner for each in batch]
        begun = time.monotonic()
        try:
            found = self.recognizer.log_probs([each.content for each in batch])
        except Exception as error:
            for job in jobs:
                assert isinstance(job, RecordingJob)
                job.fail(error)
            raise
        now = time.monotonic()
        self.last_inference = now
        self.metrics.batch([(each.frames, begun - each.since) for each in batch], seconds=now - begun)
        for each, log_probs in zip(batch, found, strict=True):
            job = each.owner
            assert isinstance(job, RecordingJob)
            if isinstance(log_probs, InputError):
                job.fail(log_probs)
            elif job.deliver(each.content, log_probs):
                self._later(job)
