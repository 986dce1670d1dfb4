"""The lease of what a command writes into a folder: two commands do not write it at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ds2f.runner import lease


@contextmanager
def hold(folder: Path, name: str, *, flag: str, what: str) -> Iterator[None]:
    """Holds the lease of a name in a folder inside a ``with`` statement, where the folder can be written at all.

    Args:
      folder: takes the output; made if missing.
      name: of the output.
      flag: the flag that names the folder, for messages.
      what: the work in the folder, for messages.

    Raises:
      InputError: another command holds the name.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield  # the command itself says so, if it has to write
        return
    with lease.hold(folder, flag=flag, file=f".{name}_lease.json", what=what) as held:
        held.keep()
        yield
