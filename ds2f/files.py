"""Files that are whole and of a known size: atomic writes, reads up to a limit, JSON that every program reads.

- ``write_atomically``: a file holds its old content or its new content, never a part of either.
- ``read_bounded``, ``open_regular``: a file from outside is a regular file and no larger than its limit. A pipe or a
  device in its place is refused; it is not waited for.
- ``files_below``: all files of a folder, also those in linked folders; none is left out in silence.
- ``json_text``: numbers that are not finite become ``null``; JSON has no others.
"""

import errno
import json
import math
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from ds2f.errors import InputError

RECORD_BYTES = 16 << 20  # limit of a file that describes a run or checkpoint; the usual size is some kilobytes
_NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # from file systems without the call
_SURROGATE = re.compile("[\ud800-\udfff]")


def write_atomically(path: Path, content: str | bytes | memoryview, *, fsync: bool = False) -> None:
    """Writes a file through a temporary file beside it, which then takes its name.

    The temporary name is new for every call, so that processes that write the same file do not disturb each other.

    Args:
      path: the file, in a folder that exists; an ``etils.epath.Path`` may lie in a bucket.
      content: text is written as UTF-8, without a change of its line ends.
      fsync: wait until the content and the name are on the disk, so that a power cut cannot take them back.

    Raises:
      OSError: the file system refused, with ``path`` as its ``filename``; the file is as it was, and no temporary
        one stays.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with naming(path):
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            if fsync:
                flush(temporary)
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if fsync:
        flush(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in errors of the file system: those of a write to an open file, such as a full disk, name none."""
    try:
        yield
    except OSError as error:
        error.filename = os.fspath(path)
        raise


def flush(path: Path) -> bool:
    """Waits until a file's bytes, or a folder's names, are on the disk; a bucket needs no call.

    Returns:
      Whether the file system can flush, as ``fsync`` does.
    """
    if not is_local(path):
        return True
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync(descriptor: int) -> bool:
    """Waits until the bytes of an open file are on the disk.

    Returns:
      False if the file system has no such call: then its files are as safe as they can be.

    Raises:
      OSError: the bytes could not be written.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _NO_FSYNC:
            return False
        raise
    return True


def is_local(path: os.PathLike[str] | str) -> bool:
    """Whether a path belongs to this machine's file system, not to a bucket."""
    return "://" not in os.fspath(path)


def open_regular(path: Path) -> BufferedReader:
    """Opens a file for reading in binary. A file in a bucket is opened as it is.

    Raises:
      InputError: the path is neither a file nor a link to a file: a folder, a pipe, a socket or a device.
      OSError: the file system refused.
    """
    if not is_local(path):
        return path.open("rb")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # otherwise a pipe without a writer would wait here
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe, socket or device"
        raise InputError(f"{path}: {what}, not a file; name a file, or copy the content into one")
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, limit: int, *, remedy: str) -> bytes:
    """Reads a whole file, if it is a regular file of at most ``limit`` bytes.

    A larger file is refused by its size, without being read.

    Args:
      path: the file; an ``etils.epath.Path`` may lie in a bucket.
      limit: bytes.
      remedy: ends the message about a file that is too large: the flag that raises the limit, or the way to a file of a
        usual size.

    Raises:
      InputError: another kind of file, or a larger one; the message has path, size, limit and remedy.
      OSError: the file system refused.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size if is_local(path) else limit
        content = b"" if size > limit else file.read(size + 1)
    size = max(size, len(content))
    if size > limit:
        raise InputError(f"{path}: {size:,} bytes or more; the limit is {limit:,} bytes. {remedy}")
    return content


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and in the folders below it, sorted; a link without a target counts as a file.

    Linked folders are entered, as ``find -L`` does. A folder with several names is read once, by its own name if that
    is below ``folder``, so that a link to a folder above it makes no circle.

    Raises:
      InputError: a folder cannot be read.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [os.fspath(folder)]
    while waiting:
        for parent, folders, names in os.walk(waiting.pop(0), onerror=_refuse_folder):
            status = Path(parent).stat()
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            found += [Path(parent, name) for name in names]
            waiting += sorted(str(path) for name in folders if (path := Path(parent, name)).is_symlink())
    return sorted(found)


def _refuse_folder(error: OSError) -> None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):  # it has been removed meanwhile
        return
    raise InputError(f"{error.filename}: {error.strerror}; make the folder readable, or move it away") from error


def expand_home(name: str) -> str:
    """The path of a name that may begin with ``~``, a home folder; the name itself where nobody has this home.

    >>> expand_home("a~b.wav"), expand_home("~").startswith("~")
    ('a~b.wav', False)
    """
    try:
        return str(Path(name).expanduser()) if name.startswith("~") else name
    except RuntimeError:
        return name


def json_text(value: Any, *, indent: int | None = None, ascii_only: bool = True) -> str:
    """The JSON text of a value. Numbers that are not finite become ``null``.

    Args:
      value: dicts, lists, tuples, strings, numbers, booleans and None.
      indent: spaces per level; None: a single line.
      ascii_only: write other characters as escapes. Lone surrogates, from names that are not UTF-8, always are.

    >>> json_text({"score": float("inf"), "losses": [1.5, float("nan")]})
    '{"score": null, "losses": [1.5, null]}'
    """
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
