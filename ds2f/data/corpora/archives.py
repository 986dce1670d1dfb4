"""Finding and reading published corpora: tar and zip files, or the trees unpacked from them.

An archive of some megabytes can hold gigabytes. ``Limits`` are compared with what is really unpacked.
"""

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import attrs

from ds2f.errors import InputError
from ds2f.files import read_bounded

_ENDINGS = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")
_BLOCK = 1 << 20  # bytes
_SHOWN = 100  # characters of a member's name that a message quotes
_ZIP_ENTRY = b"PK\x01\x02"
_COMPRESSIONS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_DEPTHS = ("", "*/", "*/*/")  # levels below a folder that are searched
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError),
    RuntimeError,  # zipfile's error for members that are encrypted or compressed in an unknown way
    ValueError,  # of both, for numbers and names that are none
)

_NO_PLACES = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)  # names that no file can have, or has


@attrs.frozen(kw_only=True)
class Limits:
    """Limits of an archive or tree."""

    unpacked_bytes: int = 1 << 29  # of all files together, decoded; AN4 has 10**8
    members: int = 20_000  # files and folders; AN4 has about 1,200


class Budget:
    """Counts unpacked bytes and members, and raises as soon as there are more than the limits allow."""

    def __init__(self, path: Path, limits: Limits) -> None:
        """Takes the archive's path, for messages."""
        self._path, self._limits = path, limits
        self.left = limits.unpacked_bytes
        self._members = 0

    def take(self, size: int) -> None:
        """Counts unpacked bytes, best before they are allocated.

        Raises:
          InputError: there are more than the limit; the message names the flag.
        """
        self.left -= size
        if self.left < 0:
            limit = self._limits.unpacked_bytes
            raise InputError(
                f"{self._path}: unpacks to {limit - self.left:,} bytes or more; the limit is {limit:,} bytes. If the "
                "file is the right one, raise the limit with --max_unpacked_bytes"
            )

    def count(self, members: int = 1) -> None:
        """Counts members.

        Raises:
          InputError: there are more than the limit; the message names the flag.
        """
        self._members += members
        if self._members > self._limits.members:
            raise InputError(
                f"{self._path}: has {self._members:,} members or more; the limit is {self._limits.members:,}. If the "
                "file is the right one, raise the limit with --max_members"
            )


class _Counted(io.RawIOBase):
    """The unpacked stream of a tar file: every byte counts, those of headers and of members that nobody wants too."""

    def __init__(self, stream: BinaryIO, budget: Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(min(size, _BLOCK) if size >= 0 else _BLOCK)
        self._budget.take(len(content))
        return content


def locate(path: Path, *, marker: str, pattern: str) -> Path:
    """Finds a corpus at ``path``: an archive, an unpacked tree, or a folder with either inside.

    Args:
      path: the user's --archive.
      marker: a file in ``etc/`` that identifies the corpus's tree.
      pattern: glob of an archive's name in a folder, without its ending.

    Returns:
      The archive, or the folder that contains ``etc/``.

    Raises:
      InputError: neither an archive nor a tree is there.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"--archive={path}: no such file or folder; name the archive, or the folder it is in")
    for depth in _DEPTHS:
        for found in sorted(path.glob(f"{depth}etc/{marker}")):
            return found.parent.parent
        for found in sorted(path.glob(f"{depth}{pattern}")):
            if found.is_file() and found.name.endswith(_ENDINGS):
                return found
    raise InputError(
        f"--archive={path}: neither etc/{marker} nor an archive {pattern}{{{','.join(_ENDINGS)}}} is in this folder "
        "or two levels below; name the archive itself"
    )


def members(
    path: Path, wanted: Callable[[PurePosixPath], bool], budget: Budget
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Names and contents of the wanted files in an archive or a tree, one by one; nothing is unpacked to disk.

    Args:
      path: the result of ``locate``.
      wanted: whether to read the file with this path in the archive.
      budget: counts what is unpacked.

    Raises:
      InputError: ``path`` is not a tar or zip archive, it is damaged, or it unpacks to more than the budget.
    """
    if path.is_dir():
        yield from _tree(path, wanted, budget)
        return
    with _told(path):
        yield from (_zipped if zipfile.is_zipfile(path) else _tarred)(path, wanted, budget)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Raises the errors of a damaged archive as ``InputError``."""
    try:
        yield
    except InputError:
        raise
    except _BROKEN as error:
        raise _unreadable(path, error) from error
    except OSError as error:
        if error.errno in _NO_PLACES:
            name = f"{str(error.filename)[-_SHOWN:]!r}: {error.strerror}"
            raise InputError(f"{path}: a member has no place in its folder, {name}; do not trust it") from error
        if error.errno == errno.EINVAL and not error.filename:  # of a seek
            raise InputError(f"{path}: damaged, it names places outside the file; fetch it again") from error
        raise


def _unreadable(path: Path, error: BaseException) -> InputError:
    """The error of an archive that cannot be read; many a failed download is a page for people."""
    with path.open("rb") as file:
        beginning = file.read(_BLOCK).lstrip().lower()
    if beginning.startswith((b"<!doctype html", b"<html")):
        return InputError(
            f"{path}: not a readable archive, but a web page (HTML): open it in a browser to see the server's answer, "
            "such as a sign-in or an error; fetch the archive itself again"
        )
    return InputError(f"{path}: not a readable archive, or cut short ({error}); fetch it again")


def unpack(path: Path, folder: Path, budget: Budget, *, progress: Callable[[int], None]) -> int:
    """Unpacks a tar archive into a folder: files and folders, with their contents and names alone.

    Links are left out; nothing is written through a link that is there.

    Args:
      path: the archive.
      folder: takes the files; those of the same name are written again.
      budget: counts what is unpacked.
      progress: called with the number of files.

    Returns:
      The number of links that were left out.

    Raises:
      InputError: the archive is damaged, unpacks to more than the budget, or has a member or link whose path leads out
        of the folder, or a device or pipe.
    """
    files = links = 0
    root = folder.resolve()
    with (
        _told(path),
        _decompressed(path) as stream,
        tarfile.open(fileobj=_Counted(stream, budget), mode="r|", bufsize=_BLOCK) as archive,
    ):
        for member in archive:
            budget.count()
            target = _below(root, member, path)
            if member.issym() or member.islnk():
                links += 1
            elif member.isfile():
                if member.size > budget.left:
                    budget.take(member.size)
                _extract(archive, member, target)
                progress(files := files + 1)
    return links


def _below(root: Path, member: tarfile.TarInfo, path: Path) -> Path:
    """The place of a member in the folder.

    Raises:
      InputError: it, or what it links to, is outside; or it is a device or pipe.
    """
    name = PurePosixPath(member.name)
    linked = PurePosixPath(member.linkname)
    if member.issym():
        linked = name.parent / linked
    for each in (name, *([linked] if member.issym() or member.islnk() else [])):
        inside = PurePosixPath(os.path.normpath(each))
        if each.is_absolute() or "\0" in str(each) or ".." in inside.parts or (each == name and ".." in name.parts):
            raise InputError(f"{path}: the member {str(name)[:_SHOWN]!r} leads out of its folder; do not trust it")
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        raise InputError(f"{path}: the member {str(name)[:_SHOWN]!r} is a device or pipe; do not trust it")
    target = root / name
    if target == root and member.isdir():  # as in archives of tar's -C FOLDER .
        return root
    if target == root:
        raise InputError(f"{path}: a member without a name; do not trust it")
    if not target.parent.resolve().is_relative_to(root) or target.is_symlink():
        raise InputError(f"{target}: a link is in the archive's way; remove it")
    return target


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    file = archive.extractfile(member)
    if file is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as copy:
        shutil.copyfileobj(file, copy, _BLOCK)


def _tree(path: Path, wanted: Callable[[PurePosixPath], bool], budget: Budget) -> Iterator[tuple[PurePosixPath, bytes]]:
    found = []
    for file in path.rglob("*"):
        budget.count()
        found.append(file)
    for file in sorted(found):
        name = PurePosixPath(file.relative_to(path).as_posix())
        if wanted(name) and file.is_file():
            budget.take(file.stat().st_size)
            yield name, read_bounded(file, budget.left + file.stat().st_size, remedy="Copy the tree again.")


def _tarred(
    path: Path, wanted: Callable[[PurePosixPath], bool], budget: Budget
) -> Iterator[tuple[PurePosixPath, bytes]]:
    with (
        _decompressed(path) as stream,
        tarfile.open(fileobj=_Counted(stream, budget), mode="r|", bufsize=_BLOCK) as archive,
    ):
        for member in archive:
            budget.count()
            if member.size > budget.left:
                budget.take(member.size)
            name = PurePosixPath(member.name)
            file = archive.extractfile(member) if member.isfile() and wanted(name) else None
            if file:
                yield name, file.read()


def _decompressed(path: Path) -> BinaryIO:
    """The bytes of a tar file, whatever it is compressed with."""
    with path.open("rb") as file:
        start = file.read(6)
    for magic, opener in _COMPRESSIONS.items():
        if start.startswith(magic):
            return cast(BinaryIO, opener(path))
    return path.open("rb")


def _zipped(
    path: Path, wanted: Callable[[PurePosixPath], bool], budget: Budget
) -> Iterator[tuple[PurePosixPath, bytes]]:
    budget.count(_zip_entries(path))
    with zipfile.ZipFile(path) as archive:
        chosen = [each for each in archive.infolist() if wanted(PurePosixPath(each.filename)) and not each.is_dir()]
        budget.take(sum(member.file_size for member in chosen))
        for member in chosen:
            yield PurePosixPath(member.filename), archive.read(member)  # no more than file_size bytes


def _zip_entries(path: Path) -> int:
    """The number of entries in a zip file's directory, which zipfile reads as a whole."""
    entries, before = 0, b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            entries += (before + block).count(_ZIP_ENTRY)
            before = block[1 - len(_ZIP_ENTRY) :]
    return entries
