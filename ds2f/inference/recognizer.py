"""Recognition with a trained model: recordings of any length to transcripts, many at a time."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Semaphore
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ds2f import decode, features
from ds2f.config import Config
from ds2f.data.audio_blocks import Recording, Source
from ds2f.decode import Decoder, Hypothesis
from ds2f.errors import InputError, OutOfMemory
from ds2f.inference import pieces
from ds2f.inference.batches import batches_by_length, windows
from ds2f.inference.chain import Chain, Grid
from ds2f.inference.confidence import Calibration
from ds2f.inference.engine import Engine, TorchEngine, require_short
from ds2f.inference.pieces import Piece
from ds2f.inference.timed_words import timed_words
from ds2f.inference.transcript import Segment, Transcript
from ds2f.runner.device.backend import Backend, out_of_memory
from ds2f.types import Batch, Logits, Params, Stats

Alternatives = Callable[[Logits, Sequence[str]], list[list[Hypothesis]]]  # a decoder of n-best lists, as decode.beam
_AHEAD = 128  # recordings that are loaded, or segments that wait to be decoded

Given = Source | Tensor | Recording
Input = TypeVar("Input")
Output = TypeVar("Output")


class Cut(Protocol):
    """Divides a recording into pieces."""

    def __call__(self, recording: Recording, /, *, rate: int, grid: int) -> Iterator[Piece]:
        """The pieces, in the order of their beginnings; arguments as of ``pieces.cut``."""


class Part(NamedTuple):
    """A piece of a recording, ready for the model."""

    label: str  # of the recording
    piece: Piece
    features: Tensor  # [F, T]


class End(NamedTuple):
    """The end of a recording."""

    duration: float  # seconds
    notes: tuple[str, ...]


class Recognizer:
    """A trained model, ready to compute.

    Attributes:
      cfg: the configuration of the run.
      engine: computes the model.
      grid: where frames of logits lie in a recording.

    >>> recognizer = Recognizer(cfg, params, stats, backend=backend)  # doctest: +SKIP
    >>> recognizer.transcribe("call.wav").text  # doctest: +SKIP
    'GOOD MORNING'
    """

    def __init__(
        self,
        cfg: Config,
        params: Params,
        stats: Stats,
        *,
        backend: Backend,
        engine: Engine | None = None,
        decoder: Decoder = decode.greedy,
        alternatives: Alternatives | None = None,
        nbest: int = 10,
        calibration: Calibration = Calibration(),  # noqa: B008  immutable
        cut: Cut = pieces.cut,
        decoding: int = 1,
    ) -> None:
        """Moves the weights to the backend's device, unless an engine is given.

        Args:
          cfg: the configuration of the run that trained the model.
          params: parameters.
          stats: running statistics.
          backend: the device, and the dtypes of the forward pass (section ``apex``).
          engine: computes the model in place of torch; weights and backend are then not used. None: a ``TorchEngine``.
          decoder: turns logits into hypotheses.
          alternatives: a decoder of n-best lists in place of ``decoder``; segments then have alternatives.
          nbest: most alternatives of a segment.
          calibration: of the confidences and times.
          cut: divides a recording into pieces: ``pieces.cut``, with other lengths or another detector by ``partial``,
            or ``GivenCuts``.
          decoding: segments that are decoded at a time, in threads: as many as the decoder has processes.
        """
        self.cfg = cfg
        self.engine = engine or TorchEngine(cfg, params, stats, backend=backend)
        self._decoder, self._alternatives = decoder, alternatives
        self._nbest = nbest
        self._calibration, self._cut, self._decoding = calibration, cut, decoding
        labels, rate = cfg.model.labels, cfg.spect.sample_rate
        space = labels.index(" ") if " " in labels else None
        self.grid = Grid(cfg.spect.stride_samples * cfg.model.time_stride, rate, cfg.model.blank, space)

    def transcribe(self, source: Given, *, rate: int | None = None, name: str | None = None) -> Transcript:
        """Transcribes a recording.

        Args:
          source: the path of an audio file; a binary file that is open (an upload, a pipe); or samples, an array or
            tensor [N] or [N, channels], floating point with full scale 1, or integers of at most 32 bits.
          rate: sampling rate of samples, hertz. A file tells its own.
          name: what messages call the recording; by default its path.

        Raises:
          InputError: the recording cannot be read, or does not fit into memory. The next one can be transcribed.
        """
        (found,) = self.transcribe_all([self._recording(source, rate, name)])
        if isinstance(found, InputError):
            raise found
        return found

    def transcribe_all(
        self, sources: Iterable[Given | InputError], *, rate: int | None = None, workers: int = 1
    ) -> Iterator[Transcript | InputError]:
        """Transcribes recordings, batching pieces of like length, and yields the results in the order of the sources.

        Args:
          sources: as for ``transcribe``; they may be any number, and are opened some ahead of the results. An error
            among them is passed on in its place.
          rate: sampling rate of samples, hertz.
          workers: threads that read recordings and compute features.

        Yields:
          Each recording's transcript, or the error that ended its reading. Other recordings go on.
        """
        failure, waiting = None, deque[tuple[tuple[Future[Segment], ...], InputError | End]]()
        with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(self._decoding) as decoders:
            decode_later = partial(_bounded, decoders, Semaphore(_AHEAD), self.segment)
            chain = Chain(decode_later, self.grid)
            loaded = _ahead(pool, lambda source: self._load(source, rate), sources, most=_AHEAD)
            items: Iterator[Part | End | InputError] = itertools.chain.from_iterable(loaded)
            for window in windows(items, lambda item: item.features.shape[1] if isinstance(item, Part) else 0):
                found = iter(self.log_probs([item for item in window if isinstance(item, Part)]))
                for item in window:
                    if isinstance(item, Part):
                        log_probs = next(found)
                        if isinstance(log_probs, InputError):
                            failure = log_probs
                        elif failure is None:
                            chain.add(item.piece, log_probs)
                        continue
                    waiting.append((chain.close(), failure or item))
                    failure, chain = None, Chain(decode_later, self.grid)
                while waiting:
                    yield _transcript(*waiting.popleft())

    def _load(self, source: Given | InputError, rate: int | None) -> Iterable[Part | End | InputError]:
        """The parts of a recording and its end: all of a short one, a generator for a long one."""
        items = self.parts(source, rate)
        first = list(itertools.islice(items, 2))
        return itertools.chain(first, items)

    def _recording(self, source: Given | InputError, rate: int | None, name: str | None = None) -> Recording:
        if isinstance(source, InputError):
            raise source
        if isinstance(source, Recording):
            return source
        if isinstance(source, Tensor):
            source = (source.float() if source.is_floating_point() else source).numpy(force=True)  # it has no bfloat16
        return Recording(source, rate=rate, sample_rate=self.cfg.spect.sample_rate, name=name)

    def parts(self, source: Given | InputError, rate: int | None = None) -> Generator[Part | End | InputError]:
        """The pieces of a recording with their features, read while they are asked for; last its end, or its error.

        ``transcribe_all`` is made of this, ``log_probs``, a ``Chain`` and ``segment``. A server calls them by itself.
        """
        spect, label = self.cfg.spect, ""
        try:
            recording = self._recording(source, rate)
            label = recording.label
            for piece in self._cut(recording, rate=spect.sample_rate, grid=self.grid.samples):
                require_short(features.num_frames(len(piece.samples), spect), self.engine.longest, spect, label=label)
                yield Part(label, piece, features.log_spectrogram(torch.from_numpy(piece.samples), spect))
            yield End(recording.seconds, recording.notes)
        except InputError as error:
            yield error
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            yield _no_memory(label)

    def log_probs(self, parts: Sequence[Part]) -> list[Tensor | InputError]:
        """[T', V] of every part, in their order; an error for one that does not fit into memory."""
        found: dict[int, Tensor | InputError] = {}
        batches = deque(batches_by_length([part.features.shape[1] for part in parts]))
        while batches:
            batch = batches.popleft()
            try:
                logits = self._logits([parts[index].features for index in batch])
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if len(batch) == 1:
                    found[batch[0]] = _no_memory(parts[batch[0]].label)
                batches.extendleft([index] for index in batch if len(batch) > 1)
                continue
            values = logits.values.float().log_softmax(dim=2).cpu()
            for index, row, length in zip(batch, values, logits.lengths.tolist(), strict=True):
                found[index] = row[:length]
        return [found[index] for index in range(len(parts))]

    def _logits(self, spectrograms: Sequence[Tensor]) -> Logits:
        count, lengths = len(spectrograms), [each.shape[1] for each in spectrograms]
        padded = spectrograms[0].new_zeros(count, spectrograms[0].shape[0], max(lengths))
        for row, each in zip(padded, spectrograms, strict=True):
            row[:, : each.shape[1]] = each
        batch = Batch(
            features=padded,
            lengths=torch.tensor(lengths),
            labels=torch.zeros(count, 1, dtype=torch.int64),
            label_lengths=torch.zeros(count, dtype=torch.int64),
            ids=torch.zeros(count, dtype=torch.int64),
            weight=torch.ones(()),
        )
        return self.engine.logits(batch)

    def segment(
        self,
        log_probs: Tensor,
        begin: float,
        end: float,
        *,
        decoder: Decoder | None = None,
        alternatives: Alternatives | None = None,
    ) -> Segment:
        """Decodes a stretch of log-probabilities.

        Args:
          log_probs: [T', V] on the CPU.
          begin: of the stretch, seconds from the beginning of the recording.
          end: likewise.
          decoder: of this stretch, as with hot words of its own; None: the recognizer's.
          alternatives: likewise; the segment then has alternatives.
        """
        labels = self.cfg.model.labels
        logits = Logits(log_probs[None], torch.tensor([len(log_probs)]))
        if decoder is None:
            decoder, alternatives = self._decoder, alternatives or self._alternatives
        listed = alternatives(logits, labels)[0] if alternatives else decoder(logits, labels)
        words = timed_words(
            log_probs.numpy(),
            listed[0].tokens,
            labels,
            frame=self.grid.samples / self.grid.rate,
            begin=begin,
            end=end,
            calibration=self._calibration,
        )
        texts = [" ".join(each.text.split()) for each in listed[: self._nbest]] if alternatives else []
        return Segment(begin, end, words, tuple(dict.fromkeys(texts)))  # some differ in spaces only


def _no_memory(label: str) -> InputError:
    return OutOfMemory(f"{label}: does not fit into the memory that is free; free some, or take a smaller model")


def _transcript(segments: Iterable[Future[Segment]], end: InputError | End) -> Transcript | InputError:
    """The transcript of a recording, once its segments are decoded."""
    decoded = tuple(segment.result() for segment in segments)
    return end if isinstance(end, InputError) else Transcript(decoded, *end)


def _bounded(pool: ThreadPoolExecutor, places: Semaphore, fn: Callable[..., Output], *arguments: Any) -> Future[Output]:
    """Calls a function in a thread of the pool, and waits while too many calls have not ended."""
    places.acquire()
    future = pool.submit(fn, *arguments)
    future.add_done_callback(lambda _: places.release())
    return future


def _ahead(
    pool: ThreadPoolExecutor, fn: Callable[[Input], Output], inputs: Iterable[Input], *, most: int
) -> Iterator[Output]:
    """``map`` in the threads of a pool, at most so many results ahead."""
    waiting: deque[Future[Output]] = deque()
    for each in inputs:
        waiting.append(pool.submit(fn, each))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
