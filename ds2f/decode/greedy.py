"""Best-path decoding: the most probable label of every frame, repeats merged, blanks removed."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ds2f.config import BLANK
from ds2f.types import Logits


class Hypothesis(NamedTuple):
    """One reading of an utterance; higher scores are better."""

    text: str
    tokens: list[int]  # label indices, one per character of the text
    token_frames: list[int]  # the frame of logits in which each token begins, counted from 0
    score: float  # natural log


def greedy(logits: Logits, labels: Sequence[str]) -> list[Hypothesis]:
    """Reads off the best path of every utterance.

    Graves et al., ICML 2006, section 3.2. The best path's transcript is not always the best transcript: the
    probabilities of other paths to a transcript are not added up.

    Args:
      logits: values [B, T', V] float, unnormalised; lengths [B] int64 on the CPU, frames.
      labels: the V characters, the blank among them at any index. Of equal scores the first label's counts.

    Returns:
      A ``Hypothesis`` per utterance; its score is the log-probability of the best path. The batch is copied from the
      device once.
    """
    # Labels are compared before the softmax, whose rounding could make unequal scores equal.
    best, log_probs = logits.values.argmax(dim=2), logits.values.log_softmax(dim=2).amax(dim=2)
    # One copy for both: float32, unlike bfloat16, holds the indices exactly.
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
        _hypothesis(ids, begin, score, labels)
        for ids, begin, score in zip(tokens, frames.split(per_row), scores, strict=True)
    ]


def _hypothesis(tokens: Tensor, frames: Tensor, score: float, labels: Sequence[str]) -> Hypothesis:
    ids = tokens.tolist()
    return Hypothesis("".join(labels[index] for index in ids), ids, frames.tolist(), score)
