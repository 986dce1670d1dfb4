"""Where a segment of a stream ends: after a pause that follows text, after a time without text, at its longest length.

Pure functions of a state and of what each frame of logits says. Frames are read one by one, so that the ends do not
depend on the blocks in which frames come.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds2f.config import EndpointConfig

Rule = Literal["silence", "no_text", "longest"]


class Limits(NamedTuple):
    """The three lengths in frames of logits, each at least 1."""

    silence: int  # after text
    no_text: int
    longest: int


class EndpointState(NamedTuple):
    """What is known of the open segment; the default is its beginning."""

    frames: int = 0  # of the segment
    silent: int = 0  # its last frames, all of them silent
    has_text: bool = False


def limits(cfg: EndpointConfig, frame_seconds: float) -> Limits:
    """The lengths of the section ``endpoint`` in frames of so many seconds.

    >>> limits(EndpointConfig(silence=1.0, no_text=5.0, longest=20.0), 0.02)
    Limits(silence=50, no_text=250, longest=1000)
    """
    return Limits(*(max(1, round(seconds / frame_seconds)) for seconds in (cfg.silence, cfg.no_text, cfg.longest)))


def advance(
    state: EndpointState, silent: Sequence[bool], text: Sequence[bool], *, limits: Limits
) -> tuple[EndpointState, int, Rule | None]:
    """Reads frames until the segment ends, or all of them.

    Args:
      state: of the segment so far.
      silent: of each frame, whether it is silent, as of ``silence``.
      text: of each frame, whether it names a character other than a space.
      limits: the lengths.

    Returns:
      The state after the frames that were read, their number, and the rule that ended the segment after the last of
      them; None if the segment goes on. If several rules hold, the first of "silence", "no_text", "longest".

    >>> lengths = Limits(silence=2, no_text=4, longest=9)
    >>> advance(EndpointState(), [False, True, True, True], [True, False, False, False], limits=lengths)
    (EndpointState(frames=3, silent=2, has_text=True), 3, 'silence')
    """
    frames, quiet, has_text = state
    for read, (is_silent, is_text) in enumerate(zip(silent, text, strict=True), start=1):
        frames, has_text = frames + 1, has_text or is_text
        quiet = quiet + 1 if is_silent and not is_text else 0
        rule: Rule | None = None
        if has_text and quiet >= limits.silence:
            rule = "silence"
        elif not has_text and frames >= limits.no_text:
            rule = "no_text"
        elif frames >= limits.longest:
            rule = "longest"
        if rule:
            return EndpointState(frames, quiet, has_text), read, rule
    return EndpointState(frames, quiet, has_text), len(silent), None


def silence(log_probs: NDArray[np.floating], *, blank: int, space: int | None, least: float) -> NDArray[np.bool_]:
    """[T'] bool: the frames in which blank and space together have a probability above ``least``.

    A space counts as silence: many models name it in the middle of a pause.

    Args:
      log_probs: [T', V], natural log, normalised.
      blank: index of CTC's blank.
      space: index of the space; None: the labels have none.
      least: probability.
    """
    columns = [blank] if space is None else [blank, space]
    return np.exp(log_probs[:, columns]).sum(axis=1) > least


def text(log_probs: NDArray[np.floating], *, blank: int, space: int | None) -> NDArray[np.bool_]:
    """[T'] bool: the frames whose most probable label is a character other than the space; arguments of ``silence``."""
    best = log_probs.argmax(axis=1)
    return (best != blank) & (best != (blank if space is None else space))


def surest_gap(log_probs: NDArray[np.floating], first: int, *, blank: int, space: int | None) -> int:
    """The frame at which to divide a stretch without a pause: its surest space; without one, its surest blank.

    Args:
      log_probs: [T', V], natural log, normalised.
      first: earliest frame, less than T'.
      blank: index of CTC's blank.
      space: index of the space; None: the labels have none.

    Returns:
      A frame, ``first`` or later. The part after the division begins with this frame.
    """
    tail = log_probs[first:]
    if space is not None and (tail.argmax(axis=1) == space).any():
        return first + int(tail[:, space].argmax())
    return first + int(tail[:, blank].argmax())
