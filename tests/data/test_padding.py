import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.data.padding import choose, longest_within, padded

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=30)


def _frames(lengths, shapes):
    return sum(min(shape for shape in shapes if shape >= length) for length in lengths)


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 72), min_size=1, max_size=30), count=st.integers(1, 5))
def test_no_other_choice_of_as_many_shapes_pads_less(lengths, count):
    multiples = range(8, 80, 8)
    longest = max(lengths)
    everything = itertools.chain.from_iterable(itertools.combinations(multiples, k) for k in range(1, count + 1))
    least = min(_frames(lengths, shapes) for shapes in everything if shapes[-1] >= longest)
    chosen = choose(lengths, count=count)
    assert 1 <= len(chosen) <= count
    assert _frames(lengths, chosen) == least


@given(lengths=LENGTHS, count=st.integers(1, 40))
def test_shapes_are_different_multiples_of_8_that_hold_every_length(lengths, count):
    chosen = choose(lengths, count=count)
    assert list(chosen) == sorted(set(chosen))
    assert all(shape % 8 == 0 for shape in chosen)
    assert chosen[-1] - 8 < max(lengths) <= chosen[-1]
    assert chosen == choose(lengths[::-1], count=count)


@given(lengths=LENGTHS)
def test_enough_shapes_pad_no_more_than_the_multiples_of_8(lengths):
    chosen = choose(lengths, count=50)
    assert [padded(length, chosen) for length in lengths] == [padded(length) for length in lengths]


def test_the_shapes_of_two_clusters_are_their_longest():
    assert choose([96, 100, 104] * 5 + [290, 300, 304], count=2) == (104, 304)


@pytest.mark.parametrize(("frames", "expected"), [(0, 8), (1, 8), (8, 8), (9, 16), (100, 104)])
def test_padding_goes_to_the_next_multiple_of_8(frames, expected):
    assert padded(frames) == expected


@given(frames=st.integers(1, 500), shapes=st.sets(st.integers(1, 60).map(lambda eighth: 8 * eighth), max_size=5))
def test_the_shortest_shape_that_holds_an_utterance_is_taken(frames, shapes):
    fitting = [shape for shape in shapes if shape >= frames]
    assert padded(frames, sorted(shapes)) == (min(fitting) if fitting else padded(frames))


@given(limit=st.integers(0, 500), shapes=st.sets(st.integers(1, 60).map(lambda eighth: 8 * eighth), max_size=5))
def test_room_is_the_longest_that_is_padded_to_no_more_than_the_limit(limit, shapes):
    shapes = sorted(shapes)
    longest = shapes[-1] if shapes else 600
    fitting = [frames for frames in range(1, longest + 1) if padded(frames, shapes) <= limit]
    assert longest_within(limit, shapes) == max(fitting, default=0)
