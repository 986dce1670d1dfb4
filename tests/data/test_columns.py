"""Rows in columns: the same rows, in memory, in a file, in another process."""

import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds2f.data import array_file
from ds2f.data.columns import Table, small


class Mixed(NamedTuple):
    number: int
    size: float
    start: float | None
    text: str
    path: Path
    labels: tuple[int, ...]


TEXTS = st.text(st.characters(exclude_characters="\0"), max_size=12)  # with lone surrogates
PATHS = st.builds(Path, st.sampled_from(["a.wav", "x/a.wav", "/x/y/ü.flac", "/b.wav", "s3:/bucket/c\udce9.ogg", "."]))
ROWS = st.lists(
    st.builds(
        Mixed,
        number=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300),
        size=st.floats(allow_nan=False),
        start=st.none() | st.floats(allow_nan=False),
        text=TEXTS,
        path=PATHS | TEXTS.map(Path),
        labels=st.lists(st.integers(0, 70000), max_size=5).map(tuple),
    ),
    max_size=8,
)


@given(rows=ROWS)
def test_a_table_has_the_rows_that_it_was_made_of(rows):
    table = Table.of(Mixed, rows)
    assert len(table) == len(rows)
    assert list(table) == rows == [table[place] for place in range(len(rows))] == table[:]
    assert all(isinstance(row, Mixed) and type(row.number) is int for row in table)
    assert table == rows
    assert pickle.loads(pickle.dumps(table)) == rows
    assert table.lengths("labels").tolist() == [len(row.labels) for row in rows]
    assert table.taken(range(len(rows))[::-1]) == rows[::-1]
    assert rows == [] or table != rows[1:]


def test_a_table_in_a_file_is_mapped_again_by_another_process(tmp_path):
    rows = [Mixed(row, row / 3, None if row % 2 else 0.5, f"täxt {row}", Path(f"/a/{row}"), (row,)) for row in range(9)]
    array_file.write(tmp_path / "rows", {f"p.{name}": each for name, each in Table.of(Mixed, rows).arrays.items()}, {})
    table = Table(Mixed, array_file.load(tmp_path / "rows").group("p."))
    assert table == rows
    sent = pickle.dumps(table)
    assert len(sent) < 400, "the file's name, not the rows"
    assert pickle.loads(sent) == rows
    with pytest.raises(ValueError, match="read-only"):
        table.numbers("number")[0] = 1


def test_places_outside_a_table_are_refused():
    table = Table.of(Mixed, [Mixed(1, 1.0, None, "a", Path("a"), ())])
    assert table[-1] == table[0]
    for place in (1, -2):
        with pytest.raises(IndexError):
            table[place]


@pytest.mark.parametrize(("values", "dtype"), [([], "u1"), ([255], "u1"), ([256], "u2"), ([2**32], "u8"), ([-1], "i8")])
def test_integers_take_as_few_bytes_as_hold_them(values, dtype):
    assert small(np.array(values, dtype=np.int64)).dtype == np.dtype(dtype)
