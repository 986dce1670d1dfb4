"""Where in a recording the characters of a known transcript are: the best of the CTC paths that spell it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def align(log_probs: NDArray[np.floating], tokens: Sequence[int], *, blank: int = 0) -> list[int] | None:
    """Finds the most probable path of a transcript (Viterbi's algorithm over CTC's states).

    Args:
      log_probs: [T', V] of one utterance, natural log; a constant per frame does not matter.
      tokens: the labels of the transcript, none of them ``blank``.
      blank: the index of CTC's blank.

    Returns:
      The frame in which each token begins, counted from 0; None where the transcript does not fit into T' frames. Where
      greedy decoding hears this very transcript, these are its frames.

    Source: Graves et al., ICML 2006, section 4.1, with maxima for its sums.
    """
    states = np.full(2 * len(tokens) + 1, blank)  # blanks around every token
    states[1::2] = tokens
    may_skip = np.zeros(len(states), bool)  # the blank between two tokens, unless they are the same
    may_skip[3::2] = states[3::2] != states[1:-2:2]

    scores = np.full(len(states), -np.inf)
    scores[0] = 0.0  # before the first frame
    steps = np.zeros((len(log_probs), len(states)), np.int64)  # how many states on a path has come to be here
    for frame, emitted in enumerate(log_probs[:, states]):
        coming = np.full((3, len(states)), -np.inf)
        coming[0], coming[1, 1:], coming[2, 2:] = scores, scores[:-1], scores[:-2]
        coming[2, ~may_skip] = -np.inf
        steps[frame] = coming.argmax(axis=0)
        scores = coming.max(axis=0) + emitted

    state = max(range(len(states))[-2:], key=scores.__getitem__)  # the last token, or the blank after it
    if not np.isfinite(scores[state]):
        return None
    begins = [0] * len(tokens)
    for frame in range(len(log_probs) - 1, -1, -1):
        if state % 2:
            begins[state // 2] = frame
        state -= steps[frame, state]
    return begins
