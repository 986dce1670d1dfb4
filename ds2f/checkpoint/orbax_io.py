"""Named arrays in a folder, through orbax.

The only module that uses orbax, and jax, which comes with orbax and stays on the CPU. Making an ``ArrayStore`` imports
both, which takes a second. Nothing around a run decides whether its arrays can be stored:

- *Characters of a path.* orbax lists folders by patterns without escaping their names, and tensorstore takes paths as
  URLs. A folder of another name than letters, digits and ``._-`` is opened, and orbax gets ``/proc/self/fd/N``.
- *Environment.* jax is imported without the variables that it reads, and restricted to the CPU.
- *Locks.* tensorstore would lock files, which some file systems cannot. A new folder has one writer, and needs none.
- *fsync.* ``integrity.write`` flushes all files once. tensorstore's own calls would only repeat it.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from etils import epath

from ds2f.files import is_local

_PLAIN = re.compile(r"[A-Za-z0-9/._-]*")
_FILE_IO = {"file_io_locking": {"mode": "lockfile"}, "file_io_sync": False}  # in a context of tensorstore


class ArrayStore:
    """Writes and reads arrays; close it after use."""

    def __init__(self) -> None:
        """Imports orbax."""
        ocp = _import_orbax()

        class Arrays(ocp.type_handlers.NumpyHandler):  # type: ignore[name-defined]
            """orbax's handler of arrays, but it waits for all arrays before it raises the first error.

            Otherwise, after one array failed, orbax would write the others into a folder that is being removed, and
            asyncio would warn of errors that nobody retrieved.
            """

            def __init__(self) -> None:
                super().__init__(deepcopy_host_arrays=False)  # the arrays are copies already
                self._errors: list[Exception] = []

            async def _open_and_write(self, *args: Any, **kwargs: Any) -> None:
                try:
                    await super()._open_and_write(*args, **kwargs)
                except Exception as error:  # noqa: BLE001  raised below
                    self._errors.append(error)

            async def _background_serialize(self, *args: Any, **kwargs: Any) -> None:
                self._errors.clear()
                await super()._background_serialize(*args, **kwargs)
                if self._errors:
                    raise self._errors[0]

        registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, Arrays()))
        # Compression costs time and hardly shrinks weights.
        handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
        self._checkpointer, self._args = ocp.Checkpointer(handler), ocp.args

    def save(self, folder: epath.Path, arrays: dict[str, np.ndarray]) -> None:
        """Writes the arrays into a new folder. Its bytes are not flushed to the disk."""
        with _plain(folder) as path, _own_file_io():
            self._checkpointer.save(path, args=self._args.PyTreeSave(arrays))

    def shapes(self, folder: epath.Path) -> dict[str, tuple[int, ...]]:
        """The shapes of a folder's arrays by name, without reading the arrays.

        The blocks in which an array is stored count too: reading allocates one whole.
        """
        with _plain(folder) as path:
            listed = self._checkpointer.metadata(path).item_metadata.tree
        return {name: tuple(map(max, each.shape, each.storage.chunk_shape)) for name, each in listed.items()}

    def restore(self, folder: epath.Path, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Reads the arrays ``names`` of a folder."""
        wanted = dict.fromkeys(names, 0)
        with _plain(folder) as path:
            return self._checkpointer.restore(path, args=self._args.PyTreeRestore(item=wanted, partial_restore=True))

    def close(self) -> None:
        """Releases orbax's threads."""
        self._checkpointer.close()


@contextmanager
def _plain(folder: epath.Path) -> Iterator[epath.Path]:
    """A path to a local folder, which need not exist yet, without characters that orbax or tensorstore interpret."""
    if not is_local(folder) or _PLAIN.fullmatch(os.fspath(folder)):
        yield folder
        return
    descriptor = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield epath.Path(f"/proc/self/fd/{descriptor}") / folder.name
    finally:
        os.close(descriptor)


def _import_orbax() -> Any:
    """Imports orbax and starts its jax on the CPU, whatever the environment says; the environment stays as it was."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_"))}
    for name in variables:
        del os.environ[name]
    try:
        if "jax" not in sys.modules:  # otherwise it is the caller's, with the caller's devices
            import jax

            jax.config.update("jax_platforms", "cpu")
            jax.local_devices()  # a later start would read the environment
        import orbax.checkpoint as ocp
    finally:
        os.environ.update(variables)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs every file it touches, and what it raises
    return ocp


@contextmanager
def _own_file_io() -> Iterator[None]:
    """Lets tensorstore write without locks of the file system and without fsync; orbax has no argument for it."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    before = {name: getattr(tensorstore_utils, name) for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT")}
    for name, context in before.items():
        setattr(tensorstore_utils, name, {**context, **_FILE_IO})
    try:
        yield
    finally:
        for name, context in before.items():
            setattr(tensorstore_utils, name, context)
