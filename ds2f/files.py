"""Atomic writes: a file holds its old content or its new content, never a part of either."""

import os
import uuid
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: str | bytes | memoryview, *, fsync: bool = False) -> None:
    """Writes a file through a temporary file beside it, which then takes its name.

    The temporary name is new for every call, so that processes that write the same file do not disturb each other.

    Args:
      path: the file, in a folder that exists; an ``etils.epath.Path`` may lie in a bucket.
      content: text is written as UTF-8, without a change of its line ends.
      fsync: wait until the content and the name are on the disk, so that a power cut cannot take them back.

    Raises:
      OSError: the file system refused; ``path`` is as it was, and no temporary file stays.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
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


def flush(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk; a bucket needs no call."""
    if is_local(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_local(path: os.PathLike[str]) -> bool:
    """Whether a path belongs to this machine's file system, not to a bucket."""
    return "://" not in os.fspath(path)
