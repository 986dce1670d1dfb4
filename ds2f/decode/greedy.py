"""Best-path decoding: the most probable label of every frame, repeats merged, blanks removed."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ds2f import text
from ds2f.config import BLANK
from ds2f.types import Logits


class Hypothesis(NamedTuple):
    """A transcript that a decoder proposes for an utterance."""

    text: str
    tokens: list[int]  # label indices, one per character of the text
    token_frames: list[int]  # the frame of logits in which each token begins, counted from 0
    score: float  # natural log; higher is better


class BestPath(NamedTuple):
    """The best path of an utterance that is still going on; the default is its beginning."""

    tokens: tuple[int, ...] = ()  # label indices, one per character
    last: int | None = None  # label of the last frame; None before the first


def extend(path: BestPath, best: Sequence[int], *, blank: int) -> BestPath:
    """Adds frames to a path: afterwards, its tokens are those of ``greedy`` for all frames at once.

    Args:
      path: the path so far.
      best: the most probable label of each further frame.
      blank: the index of CTC's blank.

    >>> extend(extend(BestPath(), [0, 1, 1], blank=0), [1, 0, 1, 2], blank=0)
    BestPath(tokens=(1, 1, 2), last=2)
    """
    before = (path.last, *best)
    begun = tuple(label for label, last in zip(best, before, strict=False) if label not in (last, blank))
    return BestPath(path.tokens + begun, before[-1])


def greedy(logits: Logits, labels: Sequence[str]) -> list[Hypothesis]:
    """Returns the transcript of the most probable path of every utterance.

    Graves et al., ICML 2006, section 3.2. The transcript is not always the most probable transcript, since a
    transcript's probability is the sum over all of its paths.

    Args:
      logits: values [B, T', V] float, unnormalised; lengths [B] int64 on the CPU, frames.
      labels: the V characters, the blank among them at any index. Of labels with equal scores, the first is taken.

    Returns:
      A ``Hypothesis`` per utterance; its score is the log-probability of the best path. The device is read once per
      batch.

    >>> path = torch.tensor([[0, 1, 1, 0, 1, 2]])  # _AA_AB
    >>> logits = Logits(10.0 * torch.nn.functional.one_hot(path, 3), torch.tensor([6]))
    >>> [hypothesis] = greedy(logits, ("_", "A", "B"))
    >>> hypothesis.text, hypothesis.tokens, hypothesis.token_frames
    ('AAB', [1, 1, 2], [1, 4, 5])
    """
    # The labels are compared before the softmax: its rounding could make unequal scores equal.
    best, log_probs = logits.values.argmax(dim=2), logits.values.log_softmax(dim=2).amax(dim=2)
    # Indices and scores are copied together, as float32: bfloat16 could not hold the indices exactly.
    log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
    best, log_probs = torch.stack((best.to(log_probs.dtype), log_probs)).cpu().unbind()
    best, lengths = best.long(), logits.lengths

    valid = torch.arange(best.shape[1], device="cpu") < lengths[:, None]
    begins = torch.ones_like(valid)
    begins[:, 1:] = best[:, 1:] != best[:, :-1]
    rows, frames = (valid & begins & (best != labels.index(BLANK))).nonzero(as_tuple=True)
    per_row = torch.bincount(rows, minlength=len(best)).tolist()
    tokens = best[rows, frames].split(per_row)
    scores = torch.where(valid, log_probs, 0.0).sum(dim=1, dtype=torch.float64).tolist()
    return [
        Hypothesis(text.decode(ids.tolist(), labels), ids.tolist(), begin.tolist(), score)
        for ids, begin, score in zip(tokens, frames.split(per_row), scores, strict=True)
    ]
