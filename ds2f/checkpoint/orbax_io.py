"""Arrays by name in a folder, through orbax.

This is the only module that knows orbax, and jax, which comes with it and is kept on the CPU. Both are imported when an
``ArrayStore`` is made: it takes a second, which no first step should wait for.
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
            """How orbax writes arrays, but that the end of all of them is awaited before the first error is raised.

            Otherwise those that are still being written when one fails go on in a folder that is being removed, and
            complain that nobody waits for them.
            """

            def __init__(self) -> None:
                super().__init__(deepcopy_host_arrays=False)  # what it gets is a copy already
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
        # Without compression, which costs time and makes next to nothing of weights.
        handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
        self._checkpointer, self._args = ocp.Checkpointer(handler), ocp.args

    def save(self, folder: epath.Path, arrays: dict[str, np.ndarray]) -> None:
        """Writes the arrays into a folder, which is made."""
        self._checkpointer.save(folder, args=self._args.PyTreeSave(arrays))

    def restore(self, folder: epath.Path, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Reads some of the arrays in a folder."""
        wanted = dict.fromkeys(names, 0)
        return self._checkpointer.restore(folder, args=self._args.PyTreeRestore(item=wanted, partial_restore=True))

    def close(self) -> None:
        """Releases orbax's threads."""
        self._checkpointer.close()
