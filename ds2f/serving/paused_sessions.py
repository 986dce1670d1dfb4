"""Streaming sessions of a bidirectional model: what lies between two pauses is transcribed as a recording.

A bidirectional model needs the end of a segment before its first word. The level of the sound tells the pauses. There
are no partial results.
"""

from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from threading import Lock

import numpy as np

from ds2f.config import EndpointConfig
from ds2f.data.audio_blocks import Recording
from ds2f.data.pcm import PcmDecoder
from ds2f.inference import Final, Segment, Transcript, Word
from ds2f.inference.pauses import Energy, Measurements, Samples
from ds2f.inference.transcript import Result
from ds2f.serving.batcher import Batcher
from ds2f.serving.recording_job import Decode, RecordingJob

_MARGIN = 0.25  # seconds of a pause that are left at either side of a cut
_SHORTEST_PAUSE = 0.15  # seconds
_AHEAD = 4  # pieces that wait; with more, the next answer waits for one


class PauseCutter:
    """Cuts a recording that goes on: after each long pause, and where it becomes too long."""

    def __init__(self, rate: int, endpointing: EndpointConfig) -> None:
        """Begins a recording.

        Args:
          rate: samples per second.
          endpointing: ``silence`` is the length of a pause that ends a piece, ``longest`` that of a piece.
        """
        self._rate, self._endpointing = rate, endpointing
        self._measured = Measurements(Energy(rate))
        self._held: Samples = np.zeros(0, np.float32)
        self._begin = 0  # of what is held, samples

    def feed(self, samples: Samples) -> list[tuple[int, Samples]]:
        """Takes samples; returns the pieces that end in them, each with the number of its first sample."""
        self._held = np.concatenate((self._held, samples))
        pieces = []
        while (stop := self._end()) is not None:
            pieces.append((self._begin, self._held[: stop - self._begin]))
            self._held, self._begin = self._held[stop - self._begin :], stop
        return pieces

    def finish(self) -> list[tuple[int, Samples]]:
        """Ends the recording; returns what is left, if there is anything."""
        return [(self._begin, self._held)] if len(self._held) else []

    def _end(self) -> int | None:
        """Where the first piece ends; None if it goes on."""
        rate, begin = self._rate, self._begin
        end = begin + len(self._held)
        if end - begin < self._endpointing.silence * rate:
            return None
        self._measured.measure(self._held, begin, end)
        pauses = [pause for pause in self._measured.pauses(begin, end) if pause[0] > begin]  # after sound
        for first, last in pauses:
            if last - first >= self._endpointing.silence * rate:
                return first + round(_MARGIN * rate)
        longest = round(self._endpointing.longest * rate)
        if end - begin <= longest:
            return None
        within = [
            pause for pause in pauses if _SHORTEST_PAUSE * rate <= pause[1] - pause[0] and pause[1] <= begin + longest
        ]
        if within:
            first, last = max(within, key=lambda pause: pause[1] - pause[0])
            return (first + last) // 2
        return begin + longest


class PausedSession:
    """A session, whose pieces are queued like everybody's; as of ``StreamingSession``."""

    def __init__(
        self, batcher: Batcher, rate: int, *, endpointing: EndpointConfig, decode: Decode | None = None
    ) -> None:
        """Begins a recording.

        Args:
          batcher: transcribes the pieces.
          rate: samples per second of the PCM.
          endpointing: where pieces end.
          decode: turns log-probabilities into a segment; None: as the recognizer does.

        Raises:
          InputError: a rate that no recording has.
        """
        self._batcher, self._decode = batcher, decode
        self._rate = batcher.recognizer.grid.rate
        self._pcm = PcmDecoder(rate, sample_rate=self._rate)
        self._cutter = PauseCutter(self._rate, endpointing)
        self._seconds = 0.0
        self._lock = Lock()
        self._jobs: deque[tuple[int, RecordingJob]] = deque()  # in order, each with its first sample
        self._last: Future[list[Result]] | None = None

    def feed(self, content: bytes) -> "Future[list[Result]]":
        """As of ``StreamingSession``: the segments that have been transcribed by now."""
        promise: Future[list[Result]] = Future()
        self._batcher.in_background(partial(self._feed, content, promise))
        return promise

    def _feed(self, content: bytes, promise: "Future[list[Result]]") -> None:
        """Keeps the promise at once, or once a piece is transcribed, where many wait."""
        try:
            samples = self._pcm.decode(content)
            self._seconds += len(samples) / self._rate
            self._queue(self._cutter.feed(samples))
        except Exception as error:  # noqa: BLE001  the promise tells it
            promise.set_exception(error)
            return
        if len(self._jobs) > _AHEAD:
            self._jobs[0][1].future.add_done_callback(lambda _: self._keep(promise))
        else:
            self._keep(promise)

    def _keep(self, promise: "Future[list[Result]]", *more: Result) -> None:
        with self._lock, suppress(InvalidStateError):  # its client has left
            try:
                found = self._done()
            except Exception as error:  # noqa: BLE001  the promise tells it
                promise.set_exception(error)
            else:
                promise.set_result([*found, *more])

    def finish(self) -> "Future[list[Result]]":
        """As of ``StreamingSession``."""
        samples = self._pcm.finish()
        self._seconds += len(samples) / self._rate
        self._queue([*self._cutter.feed(samples), *self._cutter.finish()])
        self._last = Future()
        for _, job in list(self._jobs):
            job.future.add_done_callback(self._when_done)
        self._when_done()
        return self._last

    def close(self) -> None:
        """As of ``StreamingSession``."""
        for _, job in self._jobs:
            job.future.cancel()
        if self._last:
            self._last.cancel()

    def _queue(self, pieces: list[tuple[int, Samples]]) -> None:
        for begin, samples in pieces:
            recording = Recording(samples, rate=self._rate, sample_rate=self._rate, name="stream")
            self._jobs.append((begin, self._batcher.submit(recording, decode=self._decode, urgent=True)))

    def _done(self) -> list[Result]:
        """The finals of the pieces that have been transcribed, in order.

        Raises:
          InputError: a piece cannot be transcribed.
        """
        results: list[Result] = []
        while self._jobs and self._jobs[0][1].future.done():
            begin, job = self._jobs.popleft()
            results += _finals(job.future.result(), begin / self._rate)
        return results

    def _when_done(self, _: object = None) -> None:
        """Keeps the promise of the last results, if all pieces are transcribed."""
        if self._last and all(job.future.done() for _, job in list(self._jobs)):
            self._keep(self._last, Final(Segment(self._seconds, self._seconds, ()), last=True))


def _finals(transcript: Transcript, begin: float) -> list[Result]:
    """The segments of a piece that begins at ``begin`` seconds."""
    return [
        Final(
            Segment(
                each.start + begin,
                each.end + begin,
                tuple(map(partial(_later, by=begin), each.words)),
                each.alternatives,
            )
        )
        for each in transcript.segments
        if each.words
    ]


def _later(word: Word, by: float) -> Word:
    return word._replace(start=word.start + by, end=word.end + by)
