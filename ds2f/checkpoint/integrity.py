"""Digests, which tell whether all files of a folder are complete and unchanged to the last bit.

``digests.json`` lists every file of its folder with its size and SHA-256. It is written last, by an atomic write: a
folder without it is unfinished, and a folder that differs from it is damaged. Folders are ``epath.Path``, local or in a
bucket.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from etils import epath

from ds2f import files, processes

FILE = "digests.json"
ADDED = "validated.json"  # may be added to a finished folder; holds its own digest
_PART = 1 << 26  # bytes that one thread digests at a time: most of a checkpoint is a single file
_READ = 1 << 18  # bytes read at once: they stay in the processor's cache


class _StrangeError(Exception):
    """A checkpoint has something else in it than files and folders."""


class _Digest(NamedTuple):
    size: int  # bytes
    sha256: list[str]  # one for every _PART bytes


def write(folder: epath.Path) -> None:
    """Writes ``digests.json`` over all files below ``folder``, after flushing them to the disk.

    One thread reads the files, so that a training step beside it keeps its processor cores.

    Raises:
      OSError: when a file cannot be read or ``digests.json`` cannot be written.
    """
    names = sorted(_walk(folder))
    for name in names:
        files.flush(folder / name)
    text = _text(dict(zip(names, _digests(folder, names, threads=1), strict=True)))
    files.write_atomically(folder / FILE, text, fsync=True)
    files.flush(folder.parent)


def finished(folder: epath.Path) -> bool:
    """Whether ``digests.json`` was written."""
    return (folder / FILE).exists()


def gone(folder: epath.Path) -> bool:
    """Whether somebody has removed a folder that was finished; false where the file system does not tell."""
    try:
        return not finished(folder)
    except OSError:
        return False


def add(folder: epath.Path, values: dict[str, Any]) -> None:
    """Adds ``validated.json`` to a finished folder, in one atomic write, with a digest of its own.

    Raises:
      OSError: when the file cannot be written.
    """
    text = files.json_text(values)
    sealed = f'{{"values": {text},\n"sha256": "{hashlib.sha256(text.encode()).hexdigest()}"}}\n'
    files.write_atomically(folder / ADDED, sealed, fsync=True)


def added(folder: epath.Path) -> dict[str, Any] | None:
    """The values in ``validated.json``; None without the file, or when a bit of it has changed.

    Raises:
      OSError: when the file exists but cannot be read.
    """
    try:
        stored = json.loads(files.read_bounded(folder / ADDED, files.RECORD_BYTES, remedy=""))
        values = stored["values"]
        text = files.json_text(values)
        whole = hashlib.sha256(text.encode()).hexdigest() == stored["sha256"]
        return values if whole and isinstance(values, dict) else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):  # from JSON with flipped bits
        return None


def fault(folder: epath.Path, *, only: Iterable[str] | None = None) -> str | None:
    """Compares a finished folder with its digests.

    Args:
      folder: the folder, with its ``digests.json``.
      only: the files to compare, relative to ``folder``; ``None``: all files, and also report files that ``write`` did
        not see.

    Returns:
      The path of a wrong file and its fault; ``None`` when every bit is as it was written.

    Raises:
      OSError: when a file exists but cannot be read, which tells nothing about its content.
    """
    if not finished(folder):
        return f"{folder / FILE}: missing, though written last; the other files may be unfinished"
    listed = _listed(folder)
    if listed is None:
        return f"{folder / FILE}: damaged"
    try:
        present = set(_walk(folder))
    except _StrangeError as error:
        return str(error)
    if only is None and present - listed.keys():
        return f"{folder / min(present - listed.keys())}: not part of what was written"
    names = sorted(listed if only is None else only)
    for name in names:
        if name not in listed or name not in present:
            return f"{folder / name}: missing"
        size = (folder / name).stat().length
        if size != listed[name].size:
            return f"{folder / name}: {size} bytes instead of {listed[name].size}"
    for name, digest in zip(names, _digests(folder, names, threads=processes.cpu_count()), strict=True):
        if digest != listed[name]:
            return f"{folder / name}: its bytes are not those that were written (SHA-256 differs)"
    return None


def _listed(folder: epath.Path) -> dict[str, _Digest] | None:
    """The entries of ``digests.json``; ``None`` when a byte differs from the text that ``write`` makes of them."""
    try:
        stored = files.read_bounded(folder / FILE, files.RECORD_BYTES, remedy="")
        listed = {name: _Digest(*entry) for name, entry in json.loads(stored)["files"].items()}
        return listed if stored == _text(listed).encode() else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # from JSON with flipped bits, or none
        return None


def _text(listed: dict[str, _Digest]) -> str:
    """The text of ``digests.json``, with a digest of the entries, so that no byte can change unnoticed."""
    entries = json.dumps(listed, indent=1, sort_keys=True, allow_nan=False)
    return f'{{"files": {entries},\n"sha256": "{hashlib.sha256(entries.encode()).hexdigest()}"}}\n'


def _walk(folder: epath.Path) -> Iterator[str]:
    """The paths of all files below ``folder``, relative to it, without ``digests.json`` and ``validated.json``.

    Raises:
      _StrangeError: at a link, which may lead anywhere, or a pipe or device, which may be read without end.
    """
    for path in folder.iterdir():
        kind = os.lstat(path).st_mode if files.is_local(path) else None
        if stat.S_ISDIR(kind) if kind is not None else path.is_dir():
            yield from (f"{path.name}/{name}" for name in _walk(path))
        elif kind is not None and not stat.S_ISREG(kind):
            what = "a link" if stat.S_ISLNK(kind) else "a pipe, socket or device"
            raise _StrangeError(f"{path}: {what}; a checkpoint has files and folders of its own only")
        elif path.name not in (FILE, ADDED):
            yield path.name


def total_bytes(folder: epath.Path) -> int:
    """The size of all files below ``folder``."""
    return sum((folder / name).stat().length for name in _walk(folder))


def _digests(folder: epath.Path, names: list[str], *, threads: int) -> list[_Digest]:
    sizes = [(folder / name).stat().length for name in names]
    parts = [(name, start) for name, size in zip(names, sizes, strict=True) for start in range(0, size, _PART)]
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda part: _sha256(folder / part[0], start=part[1]), parts))
    by_name: dict[str, list[str]] = {name: [] for name in names}
    for (name, _), digest in zip(parts, found, strict=True):
        by_name[name].append(digest)
    return [_Digest(size, by_name[name]) for name, size in zip(names, sizes, strict=True)]


def _sha256(path: epath.Path, *, start: int) -> str:
    """SHA-256 of the ``_PART`` bytes from ``start`` on, or of fewer at the end of the file."""
    digest, left = hashlib.sha256(), _PART
    with path.open("rb") as file:
        file.seek(start)
        while left and (block := file.read(min(left, _READ))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
