"""Writing of a checkpoint's folder. It is whole only after it was read back through the code that restores it.

The algorithm::

    write the arrays, position.json and run.json
    read the arrays back, through orbax, and compare every bit
    flush all files; write digests.json, which makes the checkpoint whole
"""

import errno
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath

from ds2f.checkpoint import integrity, storage
from ds2f.checkpoint.leaves import STATE
from ds2f.checkpoint.orbax_io import ArrayStore

_PART = 64 << 20  # bytes that are read back at a time, besides an array that is larger


def write(
    store: ArrayStore | None, path: epath.Path, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]
) -> None:
    """Writes a checkpoint into a new folder, and reads its arrays back. After an error the folder may be there.

    Args:
      store: writes and reads arrays; not needed without arrays.
      path: the folder.
      arrays: the leaves, by path.
      texts: further files, by name.

    Raises:
      OSError: when the file system refuses, or other bits come back than were written. tensorstore raises other errors
        too; see ``storage.refusal``.
    """
    path.mkdir(parents=True)
    storage.require_free(path, sum(array.nbytes for array in arrays.values()))
    if store is not None:
        store.save(path / STATE, dict(arrays))
    for name, text in texts.items():
        (path / name).write_text(text)
    if store is not None:
        _read_back(store, path, arrays)
    integrity.write(path)


def _read_back(store: ArrayStore, path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Reads the leaves of a new checkpoint back, as a restore does, and compares every bit with what was written.

    Raises:
      OSError: when a leaf cannot be read, or other bits come back.
    """
    try:
        shapes = store.shapes(path / STATE)
        wrong = [name for name, array in arrays.items() if shapes.get(name) != array.shape]
        for names in [] if wrong else _parts(arrays):
            read = store.restore(path / STATE, names)
            wrong += [name for name in names if not _same_bits(read[name], arrays[name])]
    except Exception as error:
        raise OSError(
            errno.EIO, f"it cannot be read back ({str(error).partition(' [')[0][:300]})", str(path)
        ) from error
    if wrong:
        raise OSError(errno.EIO, f"other bits than were written are read back ({', '.join(wrong[:5])})", str(path))


def _parts(arrays: Mapping[str, np.ndarray]) -> Iterator[list[str]]:
    """Names of arrays that take ``_PART`` bytes together, or a single array that is larger."""
    names: list[str] = []
    size = 0
    for name, array in arrays.items():
        if names and size + array.nbytes > _PART:
            yield names
            names, size = [], 0
        names.append(name)
        size += array.nbytes
    if names:
        yield names


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype) and np.array_equal(_bytes(one), _bytes(other))


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
