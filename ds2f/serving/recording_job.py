"""A recording on its way through the batching queue, from its file to its transcript."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress

from torch import Tensor

from ds2f.data.audio_blocks import Recording
from ds2f.errors import InputError
from ds2f.inference import Recognizer, Segment, Transcript
from ds2f.inference.chain import Chain
from ds2f.inference.recognizer import End, Part

Decode = Callable[[Tensor, float, float], Segment]  # ([T', V] log-probabilities, start, end in seconds) -> segment
_AHEAD = 4  # pieces of a recording that wait for the device
_log = logging.getLogger(__name__)


class RecordingJob:
    """A recording, its pieces so far, and the promise of its transcript.

    Attributes:
      future: the transcript. An error of the recording is an InputError. Cancelling it frees what the recording uses.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        recording: Recording,
        decode: Decode,
        decoders: ThreadPoolExecutor,
        *,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        """Reads nothing yet.

        Args:
          recognizer: the model.
          recording: not yet read.
          decode: turns log-probabilities into a segment, in a thread of ``decoders``.
          decoders: threads.
          close: called once nothing reads the recording any more, from any thread.
        """
        self.future: Future[Transcript] = Future()
        self._close = close
        self._parts = recognizer.parts(recording)
        self._chain: Chain[Future[Segment]] = Chain(lambda *stretch: decoders.submit(decode, *stretch), recognizer.grid)
        self._decoders = decoders
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # one thread at a time reads
        self._order: list[Part] = []  # pieces that were read and not yet added to the chain
        self._found: dict[int, Tensor] = {}  # log-probabilities that wait for those of earlier pieces, by piece
        self._end: End | None = None
        self._paused = False

    def read(self) -> Part | None:
        """The next piece; None at the end, after an error, or if nobody waits for the transcript any more."""
        with self._reading:
            item: Part | End | InputError | Exception
            try:
                if self.future.done():
                    self.close()
                    return None
                item = next(self._parts)
            except Exception as error:  # noqa: BLE001  the future tells it
                item = error
            if isinstance(item, Exception):
                self.fail(item)
                return None
            with self._lock:
                if isinstance(item, End):
                    self._end = item
                else:
                    self._order.append(item)
                ended = item is self._end and not self._order
        if ended:
            self._finish()
        return item if isinstance(item, Part) else None

    def close(self) -> None:
        """Closes the recording. ``read`` calls it once the transcript is there or nobody waits for it."""
        self._parts.close()
        self._close()

    @property
    def wants_more(self) -> bool:
        """Whether a further piece is to be read; if not, ``deliver`` says when."""
        with self._lock:
            self._paused = len(self._order) >= _AHEAD
            return not self._paused

    def deliver(self, part: Part, log_probs: Tensor) -> bool:
        """Takes the log-probabilities of a piece; returns whether a further piece is to be read."""
        with self._lock:
            self._found[part.piece.begin] = log_probs
            while self._order and (values := self._found.pop(self._order[0].piece.begin, None)) is not None:
                self._chain.add(self._order.pop(0).piece, values)
            ended = self._end is not None and not self._order
            more = self._paused and len(self._order) < _AHEAD
            self._paused = self._paused and not more
        if ended:
            self._finish()
        return more

    def fail(self, error: Exception) -> None:
        """Ends with an error."""
        with suppress(InvalidStateError):  # it has ended
            self.future.set_exception(error)

    def _finish(self) -> None:
        """Has a thread wait for the segments. It comes after them in the pool's queue, so that they are under way."""
        with suppress(RuntimeError):  # the pool is closed
            self._decoders.submit(self._transcribed, self._chain.close())

    def _transcribed(self, segments: "tuple[Future[Segment], ...]") -> None:
        assert self._end is not None
        try:
            transcript = Transcript(tuple(segment.result() for segment in segments), *self._end)
        except Exception as error:  # noqa: BLE001  the future tells it
            self.fail(error)
            return
        with suppress(InvalidStateError):
            self.future.set_result(transcript)
