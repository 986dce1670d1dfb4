"""Joins the log-probabilities of pieces, and decodes each stretch between two pauses as a segment."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ds2f.inference.endpoint import surest_gap
from ds2f.inference.pieces import Piece, join

Decoded = TypeVar("Decoded")  # a segment, or the promise of one
_LONGEST = 60.0  # seconds of a segment; decoding and alignment take time and memory with the square
_TAIL = 10.0  # seconds at the end of such a stretch in which it is divided


class Grid(NamedTuple):
    """Where frames of logits lie in a recording."""

    samples: int  # per frame
    rate: int  # samples per second
    blank: int  # index of CTC's blank
    space: int | None  # index of the space among the labels


class Chain(Generic[Decoded]):
    """The segments of one recording, from its pieces in order."""

    def __init__(self, decode: Callable[[Tensor, float, float], Decoded], grid: Grid) -> None:
        """Begins a recording.

        Args:
          decode: turns a stretch of log-probabilities [T', V], its begin and its end in seconds, into a segment.
          grid: of the model and the recordings.
        """
        self._decode, self._grid = decode, grid
        self._segments: list[Decoded] = []
        self._log_probs: Tensor | None = None  # of the open segment
        self._begin = self._end = 0  # of the open segment, samples

    def add(self, piece: Piece, log_probs: Tensor) -> None:
        """Adds a piece and its log-probabilities [T', V] on the CPU."""
        if self._log_probs is None or not piece.shared:
            self._flush()
            self._begin, self._log_probs = piece.begin, log_probs
        else:
            while (before := (piece.begin - self._begin) // self._grid.samples) > self._frames(_LONGEST):
                self._divide()
            shared = len(self._log_probs) - before
            keep, drop = join(self._log_probs.numpy(), log_probs.numpy(), shared, blank=self._grid.blank)
            self._log_probs = torch.cat((self._log_probs[:keep], log_probs[drop:]))
        self._end = piece.end

    def close(self) -> tuple[Decoded, ...]:
        """Ends the recording and returns its segments."""
        self._flush()
        return tuple(self._segments)

    def _flush(self) -> None:
        while self._log_probs is not None and len(self._log_probs) > self._frames(_LONGEST):
            self._divide()
        if self._log_probs is not None:
            self._emit(self._log_probs, max(self._begin, self._end))
        self._log_probs = None

    def _divide(self) -> None:
        """Decodes the beginning of the open segment, up to a gap between words."""
        assert self._log_probs is not None
        first, last = self._frames(_LONGEST - _TAIL), self._frames(_LONGEST)
        cut = surest_gap(self._log_probs[:last].numpy(), first, blank=self._grid.blank, space=self._grid.space)
        begin = self._begin + cut * self._grid.samples
        self._emit(self._log_probs[:cut], begin)
        self._log_probs, self._begin = self._log_probs[cut:], begin

    def _emit(self, log_probs: Tensor, end: int) -> None:
        self._segments.append(self._decode(log_probs, self._begin / self._grid.rate, end / self._grid.rate))

    def _frames(self, seconds: float) -> int:
        return int(seconds * self._grid.rate) // self._grid.samples
