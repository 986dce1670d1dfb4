"""Messages between ranks: plain values come back equal and of the same types, and nothing in a message is executed."""

import os
import pickle
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds2f.runner.distributed import messages

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.sets(st.integers() | st.text())
        | st.dictionaries(st.integers() | st.text() | st.tuples(st.text(), st.integers()), inner)
    ),
    max_leaves=20,
)


def types(value):
    if isinstance(value, dict):
        return {types(key): types(item) for key, item in value.items()}
    return (type(value), *map(types, value)) if isinstance(value, (list, tuple)) else type(value)


@given(values)
def test_plain_values_come_back_equal_and_of_the_same_types(value):
    found = messages.decode(messages.encode(value))
    assert found == value
    assert str(types(found)) == str(types(value))


class Pair(NamedTuple):
    first: int
    second: str


def test_a_named_tuple_arrives_as_a_tuple():
    found = messages.decode(messages.encode(Pair(1, "a")))
    assert type(found) is tuple
    assert Pair(*found) == Pair(1, "a")


@pytest.mark.parametrize("value", [object(), b"bytes", {"a": [1, 2j]}])
def test_a_value_that_is_not_plain_is_refused_with_its_type(value):
    with pytest.raises(TypeError, match=r"of type (object|bytes|complex) cannot be sent"):
        messages.encode(value)


class Malice:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize(
    "message", [b"", b"{}x", b'["unknown", 1]', b'["dict", [[], 1]]', b'["dict", 1]', b"[" * 10**5]
)
def test_bytes_that_no_rank_has_written_are_refused(message):
    with pytest.raises(ValueError, match="is no message of a rank"):
        messages.decode(message)


def test_a_pickle_in_a_message_is_not_executed(tmp_path):
    with pytest.raises(ValueError, match="is no message of a rank"):
        messages.decode(pickle.dumps(Malice(tmp_path / "made")))
    assert not (tmp_path / "made").exists()
