"""Forced alignment: the most probable CTC path of a known transcript, hence the frames of its characters."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def align(log_probs: NDArray[np.floating], tokens: Sequence[int], *, blank: int = 0) -> list[int] | None:
    """Finds the most probable path of a transcript (Viterbi's algorithm over CTC's states).

    Args:
      log_probs: [T', V] of one utterance, natural log. Unnormalised logits give the same result.
      tokens: label indices of the transcript, without ``blank``.
      blank: the index of CTC's blank.

    Returns:
      The frame in which each token begins, counted from 0; None if the transcript does not fit into T' frames. If
      greedy decoding returns the same transcript, its ``token_frames`` are the same.

    Source: Graves et al., ICML 2006, section 4.1, with maxima in place of the sums.

    >>> align(np.eye(3)[[0, 1, 1, 0, 1, 2]], [1, 1, 2])  # the path is _ 1 1 _ 1 2
    [1, 4, 5]
    """
    states = np.full(2 * len(tokens) + 1, blank)  # blanks around every token
    states[1::2] = tokens
    may_skip = np.zeros(
        len(states), bool
    )  # states that a path may reach past a blank: a token unlike the previous token
    may_skip[3::2] = states[3::2] != states[1:-2:2]

    scores = np.full(len(states), -np.inf)
    scores[0] = 0.0  # before the first frame
    steps = np.zeros(
        (len(log_probs), len(states)), np.int64
    )  # by how many states the best path advanced into each state
    for frame, emitted in enumerate(log_probs[:, states]):
        reached = np.full((3, len(states)), -np.inf)  # scores by the number of states advanced
        reached[0], reached[1, 1:], reached[2, 2:] = scores, scores[:-1], scores[:-2]
        reached[2, ~may_skip] = -np.inf
        steps[frame] = reached.argmax(axis=0)
        scores = reached.max(axis=0) + emitted

    state = max(range(len(states))[-2:], key=scores.__getitem__)  # the last token, or the blank after it
    if not np.isfinite(scores[state]):
        return None
    begins = [0] * len(tokens)
    for frame in range(len(log_probs) - 1, -1, -1):
        if state % 2:
            begins[state // 2] = frame
        state -= steps[frame, state]
    return begins
