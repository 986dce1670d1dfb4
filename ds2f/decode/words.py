"""Words of a transcript: their frames, and how sure the model is of them. Pure functions of logits."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds2f.config import BLANK
from ds2f.decode.align import spans

_SPACE = " "


class WordFrames(NamedTuple):
    """A word of a decoded utterance."""

    text: str
    begin: int  # frame of logits in which its first character begins
    end: int  # frame after its last character's last
    score: float  # mean over its characters of the natural log of the character's posterior, <= 0


def words(log_probs: NDArray[np.floating], tokens: Sequence[int], labels: Sequence[str]) -> list[WordFrames]:
    """Places the words of a transcript on the frames of its utterance, by forced alignment.

    Args:
      log_probs: [T', V] of one utterance, natural log, normalised.
      tokens: label indices of the transcript.
      labels: the V characters, the blank among them at any index.

    Returns:
      As many words as ``text.decode(tokens, labels).split()`` has, in the same order. If the transcript does not fit
      into the frames, the words share them in equal parts and have a score of minus infinity.

    >>> log_probs = np.log(np.full((8, 4), 0.1) + 0.6 * np.eye(4)[[0, 1, 1, 0, 2, 3, 0, 1]])  # _AA_B _A
    >>> [(word.text, word.begin, word.end) for word in words(log_probs, [1, 2, 3, 1], "_AB ")]
    [('AB', 1, 5), ('A', 7, 8)]
    """
    pieces = _ranges(tokens, labels)
    if not pieces:
        return []
    placed = spans(log_probs, tokens, blank=labels.index(BLANK))
    spelt = ["".join(labels[token] for token in tokens[begin:end]) for begin, end in pieces]
    if placed is None:
        cuts = np.linspace(0, len(log_probs), len(pieces) + 1).astype(int).tolist()
        return [WordFrames(word, *cut, -np.inf) for word, cut in zip(spelt, pairwise(cuts), strict=True)]
    sure = [
        float(log_probs[begin:end, token].max()) for token, (begin, end) in zip(tokens, placed, strict=True)
    ]  # a character's posterior is that of its surest frame
    return [
        WordFrames(word, placed[begin][0], placed[end - 1][1], sum(sure[begin:end]) / (end - begin))
        for word, (begin, end) in zip(spelt, pieces, strict=True)
    ]


def _ranges(tokens: Sequence[int], labels: Sequence[str]) -> list[tuple[int, int]]:
    """Ranges of tokens between spaces."""
    found, begin = [], 0
    for index, token in enumerate([*tokens, None]):
        if token is None or labels[token] == _SPACE:
            if index > begin:
                found.append((begin, index))
            begin = index + 1
    return found
