"""How far two computations of one model agree: on the same inputs, frame by frame."""

import math
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from torch import Tensor

from ds2f.errors import InputError
from ds2f.export.fixed_shapes import FixedShapes
from ds2f.inference.stream import StreamState
from ds2f.types import Batch, Logits


class Agreement(NamedTuple):
    """Sums over utterances; ``+`` adds the sums of others."""

    utterances: int = 0
    frames: int = 0
    same: int = 0  # frames with the same best label
    broken: int = 0  # frames with a value that is not finite in the second computation; left out of what follows
    product: float = 0.0  # sum of products of log-probabilities
    first: float = 0.0  # sum of squares of each
    second: float = 0.0
    largest: float = 0.0  # difference of a log-probability
    lowest: float = 1.0  # cosine similarity of an utterance

    def __add__(self, other: "Agreement") -> "Agreement":  # type: ignore[override]
        """Adds sums, and keeps the largest difference and the lowest similarity."""
        sums = [mine + theirs for mine, theirs in zip(self[:-2], other[:-2], strict=True)]
        return Agreement._make([*sums, max(self.largest, other.largest), min(self.lowest, other.lowest)])

    @property
    def cosine(self) -> float:
        """Cosine similarity of all log-probabilities, as of one vector."""
        return _cosine(self.product, self.first, self.second)


def compare(first: Tensor, second: Tensor) -> Agreement:
    """Compares the log-probabilities of an utterance.

    Args:
      first: [T', V], of the graph.
      second: [T', V], of the model on the NPU.

    Raises:
      InputError: the shapes differ: these are not the same model.

    >>> import torch
    >>> values = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log()
    >>> found = compare(values, values + 0.25)
    >>> found.frames, found.same, found.broken, round(found.largest, 3), found.cosine < 1
    (2, 2, 0, 0.25, True)
    """
    if first.shape != second.shape:
        raise InputError(
            f"the graph gives {list(first.shape)}, the model on the NPU {list(second.shape)}: frames and labels; "
            "compile this graph again with atc.sh"
        )
    finite = second.isfinite().all(dim=1)
    mine, theirs = first[finite].double(), second[finite].double()
    product, ours, others = (float(each.sum()) for each in (mine * theirs, mine * mine, theirs * theirs))
    return Agreement(
        utterances=1,
        frames=len(first),
        same=int((mine.argmax(dim=1) == theirs.argmax(dim=1)).sum()),
        broken=int((~finite).sum()),
        product=product,
        first=ours,
        second=others,
        largest=float((mine - theirs).abs().max()) if len(mine) else 0.0,
        lowest=_cosine(product, ours, others) if len(mine) else 0.0,
    )


class Twins:
    """An engine that computes twice and compares; its logits are those of the first.

    Attributes:
      name, longest: of the first engine.
      found: the agreement so far.
    """

    def __init__(self, first: FixedShapes, second: FixedShapes) -> None:
        """Takes two engines of the same shapes."""
        self._first, self._second = first, second
        self.name, self.longest, self.found = first.name, first.longest, Agreement()

    def logits(self, batch: Batch, /) -> Logits:
        """As of ``FixedShapes``; compares, too."""
        logits, others = self._first.logits(batch), self._second.logits(batch)
        pairs = zip(*logits, *others, strict=True)
        for values, length, other, other_length in pairs:
            self.found += compare(values[: int(length)], other[: int(other_length)])
        return logits

    def begin(self, *, streams: int = 1, block: int = 16) -> NoReturn:
        """As of ``FixedShapes``: refuses."""
        self._first.begin(streams=streams, block=block)

    def advance(self, states: Sequence[StreamState], /) -> NoReturn:
        """As of ``FixedShapes``: refuses."""
        self._first.advance(states)


def _cosine(product: float, first: float, second: float) -> float:
    size = math.sqrt(first) * math.sqrt(second)
    return product / size if size else 0.0
