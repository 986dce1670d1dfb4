"""Forced alignment: the most probable CTC path of a known transcript, hence the frames of its characters."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def align(log_probs: NDArray[np.floating], tokens: Sequence[int], *, blank: int = 0) -> list[int] | None:
    """Finds where each token begins on the most probable path of a transcript; see ``spans``.

    Args:
      log_probs: [T', V] of one utterance, natural log. Unnormalised logits give the same result.
      tokens: label indices of the transcript, without ``blank``.
      blank: the index of CTC's blank.

    Returns:
      The frame in which each token begins, counted from 0; None if the transcript does not fit into T' frames. If
      greedy decoding returns the same transcript, its ``token_frames`` are the same.

    >>> align(np.eye(3)[[0, 1, 1, 0, 1, 2]], [1, 1, 2])  # the path is _ 1 1 _ 1 2
    [1, 4, 5]
    """
    found = spans(log_probs, tokens, blank=blank)
    return None if found is None else [begin for begin, _ in found]


def spans(log_probs: NDArray[np.floating], tokens: Sequence[int], *, blank: int = 0) -> list[tuple[int, int]] | None:
    """Finds the frames of each token on the most probable path (Viterbi's algorithm over CTC's states).

    Time and memory grow with frames times tokens: a byte per frame and state, with two states per token.

    Args:
      log_probs: [T', V] of one utterance, natural log. Unnormalised logits give the same result.
      tokens: label indices of the transcript, without ``blank``.
      blank: the index of CTC's blank.

    Returns:
      Per token, the frame in which it begins, and the frame after its last, counted from 0; None if the transcript does
      not fit into T' frames.

    Source: Graves et al., ICML 2006, section 4.1, with maxima in place of the sums.

    >>> spans(np.eye(3)[[0, 1, 1, 0, 1, 2]], [1, 1, 2])  # the path is _ 1 1 _ 1 2
    [(1, 3), (4, 5), (5, 6)]
    """
    states = np.full(2 * len(tokens) + 1, blank)  # blanks around every token
    states[1::2] = tokens
    # States that a path may reach past a blank: a token unlike the previous token.
    may_skip = np.zeros(len(states), bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]

    scores = np.full(len(states), -np.inf)
    scores[0] = 0.0  # before the first frame
    # By how many states the best path advanced into each state.
    steps = np.zeros((len(log_probs), len(states)), np.int8)
    for frame, emitted in enumerate(log_probs[:, states]):
        reached = np.full((3, len(states)), -np.inf)  # scores by the number of states advanced
        reached[0], reached[1, 1:], reached[2, 2:] = scores, scores[:-1], scores[:-2]
        reached[2, ~may_skip] = -np.inf
        steps[frame] = reached.argmax(axis=0)
        scores = reached.max(axis=0) + emitted

    state = max(range(len(states))[-2:], key=scores.__getitem__)  # the last token, or the blank after it
    if not np.isfinite(scores[state]):
        return None
    begins, ends = [0] * len(tokens), [0] * len(tokens)
    for frame in range(len(log_probs) - 1, -1, -1):
        if state % 2:
            token = state // 2
            begins[token], ends[token] = frame, max(ends[token], frame + 1)
        state -= int(steps[frame, state])
    return list(zip(begins, ends, strict=True))
