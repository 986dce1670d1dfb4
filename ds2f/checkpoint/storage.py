"""Where checkpoints lie: a folder of the file system or of a bucket, and what it refuses."""

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from etils import epath

from ds2f.errors import InputError
from ds2f.files import is_local

T = TypeVar("T")

_BUCKETS = ("gs", "s3", "az", "hf")  # the schemes of epath
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")


def open_folder(path: Path | str) -> epath.Path:
    """The absolute path of a folder, which need not exist. Nothing is read or written.

    Args:
      path: a path, or the URL of a bucket's folder, such as ``gs://bucket/name``.

    Raises:
      InputError: the URL has an unknown scheme, or the package that reaches such buckets cannot be imported; the
        message names the package.
    """
    scheme, _, rest = os.fspath(path).partition("://")
    if not rest:
        return epath.Path(path).resolve()
    if scheme not in _BUCKETS:
        schemes = ", ".join(f"{known}://" for known in _BUCKETS)
        raise InputError(f"--checkpointing.folder={path}: give a path, or a bucket's URL with one of {schemes}")
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except Exception as error:  # a broken package raises anything
        raise InputError(
            f"--checkpointing.folder={path} cannot be reached: {str(error).rstrip('.')}. Install the package with pip, "
            "or give a folder of the file system."
        ) from error
    return epath.Path(path)  # resolve() would change a bucket's name


def require_free(folder: epath.Path, size: int) -> None:
    """Raises when the disk cannot hold ``size`` bytes more: on a full disk, other writers would fail, too.

    Raises:
      OSError: when fewer than ``size`` bytes are free. A bucket always has enough.
    """
    if is_local(folder) and shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(folder))


def twice(write: Callable[[], T], what: str, warn: Callable[[str], None]) -> T:
    """Calls ``write``, and once more if the file system refuses: an error that passes costs nothing.

    Args:
      write: writes something anew at each call, and returns what ``twice`` returns.
      what: is written, for the message.
      warn: called with a message after the second call has succeeded.

    Raises:
      Exception: of the second call, or of the first if the file system did not cause it.
    """
    try:
        return write()
    except Exception as error:
        cause = refusal(error)
        if cause is None:
            raise
    written = write()
    warn(f"{what} was written at the second try; the first failed: {cause}")
    return written


def refusal(error: Exception) -> str | None:
    """Why the file system refused a write, in a line; None when the error has another cause.

    tensorstore raises ValueErrors, with the system's error in them or not.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if not isinstance(error, ValueError):
        return None
    code = _SYSTEM_ERROR.search(str(error))
    return os.strerror(int(code[1])) if code else str(error).partition("\n")[0].partition(" [")[0][:300].rstrip(": ")
