"""The proof, at the start of a run, that checkpoints can be written to its folder and read back.

Plain files are tried at once, in milliseconds. Arrays need orbax, whose import takes a second; in a run that begins,
they are tried beside its first steps.
"""

from collections.abc import Callable
from contextlib import suppress
from threading import Event

import numpy as np
from etils import epath

from ds2f import files
from ds2f.checkpoint import storage, writing
from ds2f.checkpoint.orbax_io import ArrayStore
from ds2f.errors import CheckpointError

_PROBE = ".probe"  # no number, so never taken for a checkpoint
_PATIENCE = 5.0  # seconds that the import of orbax waits for the first step


class Proof:
    """Proves that a folder takes checkpoints.

    Attributes:
      failed: whether ``of_arrays`` has ended with an error.
    """

    def __init__(self, folder: epath.Path) -> None:
        """Takes the folder of the checkpoints, which need not exist."""
        self._folder, self._begun = folder, Event()
        self.failed = False

    def of_files(self, warn: Callable[[str], None]) -> None:
        """Writes a small checkpoint without arrays, and removes it.

        Args:
          warn: called with a message if the file system cannot flush files to the disk.

        Raises:
          CheckpointError: when the checkpoint cannot be written.
        """
        if not self._probe(None):
            warn(
                f"the file system of {self._folder} cannot flush files to the disk: a power cut may take the newest "
                "checkpoints."
            )

    def begin(self) -> None:
        """Lets ``of_arrays`` begin."""
        self._begun.set()

    def of_arrays(self, store: Callable[[], ArrayStore]) -> bool:
        """Writes a small checkpoint, reads it back, and removes it. Waits for ``begin``, at most ``_PATIENCE``.

        Args:
          store: imports orbax, and returns what writes and reads arrays.

        Raises:
          CheckpointError: when the checkpoint cannot be written or read.
        """
        self._begun.wait(_PATIENCE)
        try:
            return self._probe(store()) or True
        except BaseException:
            self.failed = True
            raise

    def _probe(self, store: ArrayStore | None) -> bool:
        """Leaves nothing. Returns whether the file system can flush files to the disk."""
        path, made = self._folder / _PROBE, not self._folder.exists()
        arrays = {} if store is None else {"probe": np.arange(2.0)}
        try:
            path.rmtree(missing_ok=True)  # of a start that was killed
            writing.write(store, path, arrays, {"probe": "probe"})
            flushes = files.flush(self._folder)
            path.rmtree()
        except Exception as error:
            reason = storage.refusal(error) or str(error).partition(" [")[0][:300]
            raise CheckpointError(
                f"checkpoints cannot be written to {self._folder}: {reason}. Repair it, or give another "
                "--checkpointing.folder or --run_dir."
            ) from error
        finally:
            with suppress(OSError):
                path.rmtree(missing_ok=True)
            with suppress(OSError):
                if made:
                    self._folder.rmdir()
        return flushes
