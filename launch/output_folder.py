"""A new folder that a command fills: it has its name when all of it is there, and never before."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ds2f.errors import InputError

_SUFFIX = ".partial"


def require_new(output: Path) -> None:
    """Raises unless there is nothing, or an empty folder, at the path.

    Raises:
      InputError: says what to give.
    """
    try:
        there = output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir())))
    except OSError as error:
        raise _refused(output, error) from error
    if there:
        raise InputError(f"--output={output} is there already; give another folder")
    if not output.name or output.name == "..":
        raise InputError(f"--output={output} has no name of its own; give a new folder, such as --output=exports/an4")


@contextmanager
def filled(output: Path) -> Iterator[Path]:
    """A folder beside the output that takes its name at the end.

    The folder is removed if anything fails. A process that is killed leaves it, and the next one for the same output
    removes it: the lock on it is gone.

    Args:
      output: as ``require_new`` accepts.

    Raises:
      InputError: the file system refuses the folder or a file in it.
    """
    with _refusals(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(output)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=_SUFFIX, dir=output.parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system locks folders
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
        with _refusals(output):
            folder.chmod(0o755)
            if output.exists():
                output.rmdir()
            folder.rename(output)
    except OSError as error:
        if error.filename is None or folder in Path(os.fsdecode(error.filename)).parents:
            raise _refused(output, error) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_left(output: Path) -> None:
    """Removes what killed processes left; a folder whose process runs is locked."""
    for folder in output.parent.iterdir():
        if not (folder.name.startswith(f".{output.name}.") and folder.name.endswith(_SUFFIX)):
            continue
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


@contextmanager
def _refusals(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refused(output, error) from error


def _refused(output: Path, error: OSError) -> InputError:
    return InputError(f"--output={output}: {error.strerror or error}; give another folder")
