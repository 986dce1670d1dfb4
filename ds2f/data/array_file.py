"""Arrays in one file that is mapped into memory: written whole, verified, shared by all processes of a machine.

The file: a line with the format and the CRC-32 of the next line; a line of JSON with the arrays' names, types, sizes
and places, their CRC-32, and a record of the writer's; padding; the arrays.
"""

import json
import mmap
import os
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds2f.files import json_text

_MAGIC = b"ds2f arrays 1 "
_ALIGNMENT = 64  # bytes
_BLOCK = 1 << 20  # bytes
_MOST_HEADER = 64 << 20  # bytes


class DamagedFile(ValueError):  # noqa: N818  it says what the file is
    """The file is cut short, altered, or of another format."""


class Group(Mapping[str, NDArray[Any]]):
    """The arrays of a file whose names begin with a prefix, by the rest of the names."""

    def __init__(self, file: Path, prefix: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.file, self.prefix = file, prefix
        self._arrays = arrays

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[self.prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self.prefix) for name in self._arrays if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class ArrayFile(NamedTuple):
    """An open file."""

    file: Path
    about: dict[str, Any]  # the writer's record
    arrays: Mapping[str, NDArray[Any]]  # read-only, mapped

    def group(self, prefix: str) -> Group:
        """The arrays whose names begin with a prefix."""
        return Group(self.file, prefix, self.arrays)


def write(path: Path, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
    """Writes a file through a temporary file beside it, without a copy of the arrays.

    Args:
      path: the file, in a folder that exists.
      arrays: of numbers, one-dimensional.
      about: a record, ready for JSON.

    Raises:
      OSError: the file system refused; the file is as it was.
    """
    listed, place, checksum = {}, 0, 0
    pieces: list[memoryview | bytes] = []
    for name, values in arrays.items():
        content = np.ascontiguousarray(values).data.cast("B") if values.size else b""
        padding = bytes(-len(content) % _ALIGNMENT)
        listed[name] = [values.dtype.str, values.size, place]
        pieces += [content, padding]
        place += len(content) + len(padding)
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    header = json_text({"arrays": listed, "size": place, "checksum": checksum, "about": about}).encode()
    begin = _MAGIC + b"%08x\n" % zlib.crc32(header) + header + b"\n"
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            for piece in (begin, bytes(-len(begin) % _ALIGNMENT), *pieces):
                file.write(piece)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def load(path: Path, *, verify: bool = True) -> ArrayFile:
    """Maps the arrays of a file.

    Args:
      path: written by ``write``.
      verify: compare the checksum, which reads the whole file, a gigabyte a second or more.

    Raises:
      DamagedFile: the file is not as it was written.
      OSError: the file system refused.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        first, line = file.readline(_ALIGNMENT), file.readline(_MOST_HEADER)
        if first != _MAGIC + b"%08x\n" % zlib.crc32(line[:-1]):
            raise DamagedFile(f"{path}: another format, or altered")
        start = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
        try:
            header = json.loads(line)
            if start + header["size"] != size:
                raise DamagedFile(f"{path}: cut short")
            # Read, not mapped: pages that are mapped would count as memory of this process.
            if verify and _checksum(file, start) != header["checksum"]:
                raise DamagedFile(f"{path}: altered")
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            arrays = {
                str(name): np.frombuffer(content, dtype=np.dtype(kind), count=count, offset=start + place)
                if count
                else np.empty(0, dtype=np.dtype(kind))
                for name, (kind, count, place) in header["arrays"].items()
            }
            return ArrayFile(path, header["about"], arrays)
        except DamagedFile:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DamagedFile(f"{path}: {error}") from error


def _checksum(file: Any, start: int) -> int:
    file.seek(start)
    checksum = 0
    while block := file.read(_BLOCK):
        checksum = zlib.crc32(block, checksum)
    return checksum
