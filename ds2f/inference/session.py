"""Recognition of recordings that are still going on: partial and final results, many recordings at a time.

    session = Session(recognizer)
    for samples in microphone:                      # [N] at cfg.spect.sample_rate, any N
        for result in session.feed(samples):        # Partial: the text so far; Final: a segment that has ended
            ...
    results = session.finish()                      # the last segment, then an empty Final whose ``last`` is true

A ``Final`` replaces the ``Partial`` results since the ``Final`` before it. Partials are of the best path, finals of the
recognizer's decoder. A server calls ``accept`` and ``end``, and ``step_sessions`` for all its sessions: it computes a
block of each session that is ready, as one batch.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ds2f import decode, text
from ds2f.config import EndpointConfig
from ds2f.data import audio
from ds2f.decode import BestPath
from ds2f.errors import InputError
from ds2f.inference import endpoint, stream
from ds2f.inference.chain import Grid
from ds2f.inference.endpoint import EndpointState, Limits
from ds2f.inference.recognizer import Recognizer
from ds2f.inference.stream import StreamState
from ds2f.inference.transcript import Final, Partial, Result, Segment

LogProbs = NDArray[np.float32]
Decode = Callable[[Tensor, float, float], Segment]  # ([T', V] log-probabilities, start, end in seconds) -> segment


class Rules(NamedTuple):
    """How logits become results; the same for the whole recording."""

    labels: Sequence[str]
    grid: Grid
    decode: Decode
    limits: Limits
    silent: float  # probability of the blank, or a space, above which a frame is silent


class OpenSegment(NamedTuple):
    """The segment that is going on."""

    begin: int  # its first frame of logits
    log_probs: LogProbs  # [T', V] of its frames so far
    endpoint: EndpointState = EndpointState()
    path: BestPath = BestPath()
    partial: str = ""  # text of the last Partial


def hear(segment: OpenSegment, log_probs: LogProbs, *, rules: Rules) -> tuple[OpenSegment, list[Result]]:
    """Adds frames to the open segment: the finals of all segments that end in them, and at most one partial after them.

    A pure function, as far as ``rules.decode`` is one.

    Args:
      segment: the open segment.
      log_probs: [n, V] of the next frames, natural log, normalised.
      rules: how logits become results.
    """
    results: list[Result] = []
    blank, space = rules.grid.blank, rules.grid.space
    while len(log_probs):
        silent = endpoint.silence(log_probs, blank=blank, space=space, least=rules.silent)
        named = endpoint.text(log_probs, blank=blank, space=space)
        state, read, rule = endpoint.advance(segment.endpoint, silent.tolist(), named.tolist(), limits=rules.limits)
        held = np.concatenate((segment.log_probs, log_probs[:read]))
        path = decode.extend(segment.path, log_probs[:read].argmax(axis=1).tolist(), blank=blank)
        log_probs = log_probs[read:]
        segment = segment._replace(log_probs=held, endpoint=state, path=path)
        if rule is None:
            break
        if rule == "longest" and len(held) > 1:
            cut = endpoint.surest_gap(held, max(1, 3 * len(held) // 4), blank=blank, space=space)
            segment, log_probs = segment._replace(log_probs=held[:cut]), np.concatenate((held[cut:], log_probs))
        segment, finals = close(segment, rules=rules)
        results += finals
    spelt = " ".join(text.decode(segment.path.tokens, rules.labels).split())
    if spelt and spelt != segment.partial:
        start, end = _seconds(segment, rules.grid)
        results.append(Partial(start, end, spelt))
    return segment._replace(partial=spelt), results


def close(segment: OpenSegment, *, rules: Rules, duration: float = float("inf")) -> tuple[OpenSegment, list[Result]]:
    """Ends the open segment: the next one, and a final, or none where no frame of the segment names a character.

    Args:
      segment: the open segment.
      rules: how logits become results.
      duration: of the recording, seconds, if it is known; no time is later.
    """
    held = segment.log_probs
    after = OpenSegment(segment.begin + len(held), held[:0])
    if not endpoint.text(held, blank=rules.grid.blank, space=rules.grid.space).any():
        return after, []
    start, end = _seconds(segment, rules.grid)
    found = rules.decode(torch.from_numpy(held), min(start, duration), min(end, duration))
    return after, [Final(found)]


class SessionState(NamedTuple):
    """All that changes in a session."""

    stream: StreamState
    segment: OpenSegment
    done: bool = False  # the last result has been given


class Session:
    """A recording that is still going on.

    Attributes:
      state: between two calls.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        block: int = 16,
        endpointing: EndpointConfig = EndpointConfig(),  # noqa: B008  immutable
    ) -> None:
        """Begins a recording.

        Args:
          recognizer: a unidirectional model; any number of sessions share it.
          block: frames of logits that are computed at once: more are faster and come later.
          endpointing: where segments end.

        Raises:
          InputError: the model cannot stream: it is bidirectional, or was exported for whole recordings.
        """
        cfg, grid = recognizer.cfg, recognizer.grid
        self.recognizer, self.block = recognizer, block
        limits = endpoint.limits(endpointing, grid.samples / grid.rate)
        self.rules = Rules(cfg.model.labels, grid, recognizer.segment, limits, endpointing.blank)
        self.state = SessionState(
            recognizer.engine.begin(block=block), OpenSegment(0, np.zeros((0, len(cfg.model.labels)), np.float32))
        )

    @property
    def seconds(self) -> float:
        """Duration of the samples that were accepted."""
        return self.state.stream.windows.samples / self.rules.grid.rate

    @property
    def ended(self) -> bool:
        """Whether ``end`` was called."""
        return self.state.stream.frames != stream.ENDLESS

    @property
    def ready(self) -> bool:
        """Whether ``step_sessions`` has something to compute, or the last results to give."""
        return not self.state.done and (self.ended or stream.ready(self.state.stream, cfg=self.recognizer.cfg))

    def accept(self, samples: NDArray[Any] | Tensor) -> None:
        """Takes samples without computing logits.

        Args:
          samples: [N] at ``cfg.spect.sample_rate``; floating point with full scale 1, or integers of at most
            32 bits.

        Raises:
          InputError: another shape or dtype, NaN, infinite or absurdly large samples. The session can go on.
          ValueError: the recording has ended.
        """
        if self.ended:
            raise ValueError("the recording has ended; begin another Session")
        given = samples.numpy(force=True) if isinstance(samples, Tensor) else samples
        if given.ndim != 1:
            raise InputError(f"stream: samples of shape {given.shape}; give [N], one channel")
        if not len(given):
            return
        mono = audio.scaled(given, "stream")
        audio.require_sound(np.abs(mono), "stream")
        moved = torch.from_numpy(mono)[None].to(self.state.stream.pending.device)
        begun = stream.push(self.state.stream, moved, cfg=self.recognizer.cfg)
        self.state = self.state._replace(stream=begun)

    def end(self) -> None:
        """Ends the recording; ``step_sessions`` then gives its last results. Calling again changes nothing."""
        if not self.ended:
            self.state = self.state._replace(stream=stream.close(self.state.stream, cfg=self.recognizer.cfg))

    def feed(self, samples: NDArray[Any] | Tensor) -> list[Result]:
        """Takes samples, and returns the results that they lead to; arguments and errors as of ``accept``."""
        self.accept(samples)
        return self._results()

    def finish(self) -> list[Result]:
        """Ends the recording, and returns the last results; of a session that has given them, none."""
        self.end()
        return self._results()

    def _results(self) -> list[Result]:
        results: list[Result] = []
        while self.ready:
            results += step_sessions([self])[0]
        return results


def step_sessions(sessions: Sequence[Session]) -> list[list[Result]]:
    """Computes one block of every session that is ready, as one batch, wherever each session is in its recording.

    Sessions of one recognizer and of equal blocks are in one batch.

    Args:
      sessions: any number, each once.

    Returns:
      The results of each session, in the order of the sessions; empty for one that is not ready. Call again while a
      session is ``ready``.
    """
    results: dict[int, list[Result]] = defaultdict(list)
    batches: dict[tuple[int, int], list[Session]] = defaultdict(list)
    for session in sessions:
        if stream.ready(session.state.stream, cfg=session.recognizer.cfg):
            batches[id(session.recognizer), session.block].append(session)
    for batch in batches.values():
        moved, values = batch[0].recognizer.engine.advance([session.state.stream for session in batch])
        for session, begun, logits in zip(batch, moved, values, strict=True):
            log_probs = logits[0].float().log_softmax(dim=1).cpu().numpy()
            segment, found = hear(session.state.segment, log_probs, rules=session.rules)
            session.state = SessionState(begun, segment)
            results[id(session)] += found
    for session in sessions:
        state = session.state
        if session.ready and session.ended and not stream.ready(state.stream, cfg=session.recognizer.cfg):
            duration = session.seconds
            segment, found = close(state.segment, rules=session.rules, duration=duration)
            results[id(session)] += [*found, Final(Segment(duration, duration, ()), last=True)]
            session.state = SessionState(state.stream, segment, done=True)
    return [results[id(session)] for session in sessions]


def _seconds(segment: OpenSegment, grid: Grid) -> tuple[float, float]:
    """Where the segment begins, and where its last frame so far ends."""
    frame = grid.samples / grid.rate
    return segment.begin * frame, (segment.begin + len(segment.log_probs)) * frame
