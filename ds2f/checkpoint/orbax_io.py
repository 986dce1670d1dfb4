"""Named arrays in a folder, through orbax.

The only module that uses orbax, and jax, which comes with orbax and stays on the CPU. Making an ``ArrayStore`` imports
both. The import takes a second, so it waits until after the first training step.
"""

import logging
import os
from collections.abc import Iterable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported: it must not claim an accelerator

import numpy as np
from etils import epath


class ArrayStore:
    """Writes and reads arrays; close it after use."""

    def __init__(self) -> None:
        """Imports orbax."""
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs every file it touches, and what it raises

        class Arrays(ocp.type_handlers.NumpyHandler):
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
        """Writes the arrays into a new folder."""
        self._checkpointer.save(folder, args=self._args.PyTreeSave(arrays))

    def shapes(self, folder: epath.Path) -> dict[str, tuple[int, ...]]:
        """The shapes of a folder's arrays by name, without reading the arrays.

        The blocks in which an array is stored count too: reading allocates one whole.
        """
        listed = self._checkpointer.metadata(folder).item_metadata.tree
        return {name: tuple(map(max, each.shape, each.storage.chunk_shape)) for name, each in listed.items()}

    def restore(self, folder: epath.Path, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Reads the arrays ``names`` of a folder."""
        wanted = dict.fromkeys(names, 0)
        return self._checkpointer.restore(folder, args=self._args.PyTreeRestore(item=wanted, partial_restore=True))

    def close(self) -> None:
        """Releases orbax's threads."""
        self._checkpointer.close()
