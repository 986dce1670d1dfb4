"""Named tuples in columns: a million rows in a few arrays, which may lie in a file that all processes map.

A ``Table`` is a sequence of named tuples that makes each tuple when it is asked for. The fields' types decide the
columns:

- ``int``: the smallest unsigned integers that hold all values; with negative values 64 bits.
- ``float``, ``float | None``: 64 bits, NaN for None.
- ``str``: the UTF-8 bytes of all values, and where each begins. Lone surrogates, which stand for other bytes in paths,
  are kept.
- ``Path``: the last part as ``str``, and the number of the folder in a list of folders.
- ``tuple[int, ...]``: the numbers of all values, and where each value begins.
"""

import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, get_type_hints, overload

import numpy as np
from numpy.typing import NDArray

from ds2f.data import array_file

Row = TypeVar("Row", bound=tuple[Any, ...])
Arrays = Mapping[str, NDArray[Any]]


class Table(Sequence[Row], Generic[Row]):
    """A sequence of named tuples of one class, in columns. A slice is a list."""

    def __init__(self, kind: type[Row], arrays: Arrays) -> None:
        """Takes the class of the tuples, and the arrays of another table by name."""
        self.kind, self.arrays = kind, arrays
        self._columns = [_KINDS[hint](arrays, name) for name, hint in get_type_hints(kind).items()]

    @classmethod
    def of(cls, kind: type[Row], rows: Iterable[Row]) -> "Table[Row]":
        """The table of some rows; a table stays what it is."""
        if isinstance(rows, Table):
            return rows
        hints = get_type_hints(kind)
        writers = [_KINDS[hint].writer() for hint in hints.values()]
        for row in rows:
            for writer, value in zip(writers, row, strict=True):
                writer.add(value)
        named = zip(hints, writers, strict=True)
        return cls(kind, {f"{name}{part}": each for name, writer in named for part, each in writer.arrays().items()})

    def __len__(self) -> int:
        return len(self._columns[0])

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self.kind(*(column[place] for column in self._columns))

    def __iter__(self) -> Iterator[Row]:
        return (self.kind(*(column[place] for column in self._columns)) for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the file again, if the arrays lie in one."""
        if isinstance(self.arrays, array_file.Group):
            return _again, (self.kind, self.arrays.file, self.arrays.prefix)
        return Table, (self.kind, dict(self.arrays))

    def column(self, name: str) -> Any:
        """The column of a field: a sequence of its values."""
        return self._columns[list(get_type_hints(self.kind)).index(name)]

    def numbers(self, name: str) -> NDArray[Any]:
        """The values of a field of numbers, [N]."""
        return self.arrays[name]

    def lengths(self, name: str) -> NDArray[np.int64]:
        """The number of bytes or numbers of each value of a field of texts or tuples, [N]."""
        starts = self.arrays[f"{name}.starts"].astype(np.int64)
        return starts[1:] - starts[:-1]

    def taken(self, places: Iterable[int]) -> "Table[Row]":
        """A table of some of the rows, in the order of ``places``."""
        return Table.of(self.kind, (self[place] for place in places))


def _again(kind: type[Row], file: Path, prefix: str) -> Table[Row]:
    return Table(kind, array_file.load(file, verify=False).group(prefix))


class _Writer(Protocol):
    """Collects the values of a field."""

    def add(self, value: Any) -> None:
        """Appends a value."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the column, by the ends of their names."""


class _Column(Protocol):
    """The values of a field, from the arrays of its name."""

    writer: type[_Writer]

    def __init__(self, arrays: Arrays, name: str) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, place: int) -> Any: ...


class _IntWriter:
    def __init__(self) -> None:
        self._values = array("q")

    def add(self, value: int) -> None:
        self._values.append(value)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"": small(np.array(self._values, dtype=np.int64))}


class _FloatWriter:
    def __init__(self) -> None:
        self._values = array("d")

    def add(self, value: float | None) -> None:
        self._values.append(float("nan") if value is None else value)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"": np.array(self._values, dtype=np.float64)}


class _TupleWriter:
    def __init__(self) -> None:
        self._values, self._starts = array("q"), array("q", [0])

    def add(self, value: Iterable[int]) -> None:
        self._values.extend(value)
        self._starts.append(len(self._values))

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {".values": small(np.array(self._values)), ".starts": small(np.array(self._starts))}


class _TextWriter:
    def __init__(self) -> None:
        self._bytes, self._starts = bytearray(), array("q", [0])

    def add(self, value: str) -> None:
        self._bytes += value.encode(errors="surrogatepass")
        self._starts.append(len(self._bytes))

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {".bytes": np.frombuffer(self._bytes, dtype=np.uint8), ".starts": small(np.array(self._starts))}


class _PathWriter:
    def __init__(self) -> None:
        self._names, self._folders, self._places = _TextWriter(), dict[str, int](), _IntWriter()

    def add(self, value: Path) -> None:
        folder, slash, name = str(value).rpartition("/")
        self._names.add(name)
        self._places.add(self._folders.setdefault(folder + slash, len(self._folders)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        folders = _TextWriter()
        for folder in self._folders:
            folders.add(folder)
        listed = {f".folders{part}": each for part, each in folders.arrays().items()}
        return self._names.arrays() | listed | {".folder": self._places.arrays()[""]}


class _Ints:
    writer = _IntWriter

    def __init__(self, arrays: Arrays, name: str) -> None:
        self._values = arrays[name]

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: int) -> Any:
        return self._values[place].item()


class _Floats(_Ints):
    writer = _FloatWriter  # type: ignore[assignment]


class _MaybeFloats(_Floats):
    def __getitem__(self, place: int) -> float | None:
        value = self._values[place].item()
        return None if value != value else value


class _Tuples:
    writer = _TupleWriter

    def __init__(self, arrays: Arrays, name: str) -> None:
        self._values, self._starts = arrays[f"{name}.values"], arrays[f"{name}.starts"]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: int) -> tuple[int, ...]:
        return tuple(self._values[int(self._starts[place]) : int(self._starts[place + 1])].tolist())


class Texts:
    writer = _TextWriter

    def __init__(self, arrays: Arrays, name: str) -> None:
        self._bytes, self._starts = arrays[f"{name}.bytes"], arrays[f"{name}.starts"]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: int) -> str:
        value = self._bytes[int(self._starts[place]) : int(self._starts[place + 1])]
        return value.tobytes().decode(errors="surrogatepass")

    def encoded(self) -> Iterator[bytes]:
        """The bytes of each value."""
        content = self._bytes.tobytes()
        return (content[start:end] for start, end in itertools.pairwise(self._starts.tolist()))


class _Paths:
    writer = _PathWriter

    def __init__(self, arrays: Arrays, name: str) -> None:
        self.names, self.folders = Texts(arrays, name), Texts(arrays, f"{name}.folders")
        self._places = arrays[f"{name}.folder"]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> Path:
        return Path(self.folders[int(self._places[place])] + self.names[place])


_KINDS: Mapping[Any, Any] = {
    int: _Ints,
    float: _Floats,
    float | None: _MaybeFloats,
    str: Texts,
    Path: _Paths,
    tuple[int, ...]: _Tuples,
}


def small(values: NDArray[np.int64]) -> NDArray[Any]:
    """Integers in the smallest unsigned type that holds all of them; as they are if one is negative."""
    if len(values) and values.min() < 0:
        return values
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
