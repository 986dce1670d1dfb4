"""The ends of segments against a search of all frames."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ds2f.config import EndpointConfig
from ds2f.inference import endpoint
from ds2f.inference.endpoint import EndpointState, Limits

FRAMES = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60)  # silent, text
LIMITS = st.builds(Limits, st.integers(1, 5), st.integers(1, 12), st.integers(1, 20))


def expected(frames: list[tuple[bool, bool]], limits: Limits) -> tuple[int, str] | None:
    """The first frames of which a rule holds, each tried anew."""
    for end in range(1, len(frames) + 1):
        told = any(text for _, text in frames[:end])
        pause = frames[max(0, end - limits.silence) : end]
        if told and len(pause) == limits.silence and all(silent and not text for silent, text in pause):
            return end, "silence"
        if not told and end >= limits.no_text:
            return end, "no_text"
        if end >= limits.longest:
            return end, "longest"
    return None


@given(FRAMES, LIMITS, st.lists(st.integers(0, 60), max_size=5))
def test_a_segment_ends_at_the_first_frame_of_which_a_rule_holds(
    frames: list[tuple[bool, bool]], limits: Limits, cuts: list[int]
) -> None:
    state, read, rule = EndpointState(), 0, None
    bounds = [0, *sorted(min(cut, len(frames)) for cut in cuts), len(frames)]
    for begin, end in itertools.pairwise(bounds):
        if rule is None:
            silent, text = ([frame[side] for frame in frames[begin:end]] for side in (0, 1))
            state, count, rule = endpoint.advance(state, silent, text, limits=limits)
            read += count
    found = expected(frames, limits)
    assert (read, rule) == (found or (len(frames), None))
    assert (state.frames, state.has_text) == (read, any(text for _, text in frames[:read]))


@given(st.floats(0.001, 100), st.floats(0.01, 0.1))
def test_limits_are_at_least_a_frame(seconds: float, frame: float) -> None:
    found = endpoint.limits(EndpointConfig(silence=seconds, no_text=seconds, longest=seconds), frame)
    assert found == Limits(*[max(1, round(seconds / frame))] * 3)


def test_blank_and_space_are_silence_and_other_labels_text() -> None:
    probabilities = np.array([[0.9, 0.05, 0.05], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.45, 0.1, 0.45]])
    log_probs = np.log(probabilities)  # blank, space, a character
    assert endpoint.silence(log_probs, blank=0, space=1, least=0.8).tolist() == [True, True, False, False]
    assert endpoint.silence(log_probs, blank=0, space=None, least=0.8).tolist() == [True, False, False, False]
    assert endpoint.text(log_probs, blank=0, space=1).tolist() == [False, False, True, False]
    assert endpoint.text(log_probs[:, [1, 0, 2]], blank=1, space=None).tolist() == [False, False, True, False]


def test_a_stretch_is_divided_at_its_surest_space_else_at_its_surest_blank() -> None:
    def at(*labels: tuple[int, float]) -> np.ndarray:
        rows = np.full((len(labels), 3), 0.01)
        for row, (label, probability) in zip(rows, labels, strict=True):
            row[label] = probability
        return np.log(rows)

    spaces = at((1, 0.99), (2, 0.9), (0, 0.98), (1, 0.6), (2, 0.9), (1, 0.7))
    assert endpoint.surest_gap(spaces, 1, blank=0, space=1) == 5
    assert endpoint.surest_gap(spaces, 1, blank=0, space=None) == 2
    assert endpoint.surest_gap(spaces[:3], 1, blank=0, space=1) == 2
