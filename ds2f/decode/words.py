"""Words of a transcript: their frames, and how sure the model is of them. Pure functions of logits."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds2f.config import BLANK
from ds2f.decode.align import spans
from ds2f.scripts import ends_word

_SPACE = " "


class WordFrames(NamedTuple):
    """A word of a decoded utterance."""

    text: str
    begin: int  # frame of logits in which its first character begins
    end: int  # frame after its last character's last
    score: float  # mean over its characters of the natural log of the character's posterior, <= 0
    glued: bool = False  # no space stands before the word


def words(log_probs: NDArray[np.floating], tokens: Sequence[int], labels: Sequence[str]) -> list[WordFrames]:
    """Places the words of a transcript on the frames of its utterance, by forced alignment.

    Args:
      log_probs: [T', V] of one utterance, natural log, normalised.
      tokens: label indices of the transcript.
      labels: the V characters, the blank among them at any index.

    Returns:
      The words of the text, ``ds2f.scripts.words``, in the same order: each character of Chinese and Japanese is a
      word. If the transcript does not fit into the frames, the words share them in equal parts and have a score of
      minus infinity.

    >>> log_probs = np.log(np.full((8, 4), 0.1) + 0.6 * np.eye(4)[[0, 1, 1, 0, 2, 3, 0, 1]])  # _AA_B _A
    >>> [(word.text, word.begin, word.end) for word in words(log_probs, [1, 2, 3, 1], "_AB ")]
    [('AB', 1, 5), ('A', 7, 8)]
    """
    pieces = _ranges(tokens, labels)
    if not pieces:
        return []
    placed = spans(log_probs, tokens, blank=labels.index(BLANK))
    spelt = ["".join(labels[token] for token in tokens[begin:end]) for begin, end in pieces]
    glued = [_is_glued(labels, tokens, begin) for begin, _ in pieces]
    if placed is None:
        cuts = np.linspace(0, len(log_probs), len(pieces) + 1).astype(int).tolist()
        return [
            WordFrames(word, *cut, -np.inf, joins)
            for word, cut, joins in zip(spelt, pairwise(cuts), glued, strict=True)
        ]
    sure = [
        float(log_probs[begin:end, token].max()) for token, (begin, end) in zip(tokens, placed, strict=True)
    ]  # a character's posterior is that of its surest frame
    return [
        WordFrames(word, placed[begin][0], placed[end - 1][1], sum(sure[begin:end]) / (end - begin), joins)
        for word, (begin, end), joins in zip(spelt, pieces, glued, strict=True)
    ]


def _ranges(tokens: Sequence[int], labels: Sequence[str]) -> list[tuple[int, int]]:
    """Ranges of tokens of words."""
    found, begin = [], 0
    for index, token in enumerate([*tokens, None]):
        at_space = token is None or labels[token] == _SPACE
        if at_space or (index > begin and token is not None and ends_word(labels[tokens[index - 1]], labels[token])):
            if index > begin:
                found.append((begin, index))
            begin = index + at_space
    return found


def _is_glued(labels: Sequence[str], tokens: Sequence[int], begin: int) -> bool:
    """Whether a word follows the one before without a space; the first word, if its script writes none."""
    if begin:
        return labels[tokens[begin - 1]] != _SPACE
    first = labels[tokens[0]]
    return _SPACE not in labels and ends_word(first, first)
