"""Finding and reading published corpora: tar and zip files, or the trees unpacked from them."""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from ds2f.errors import InputError

_ENDINGS = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")
_DEPTHS = ("", "*/", "*/*/")  # levels below a folder that are searched
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError),
    RuntimeError,  # zipfile's error for members that are encrypted or compressed in an unknown way
)


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


def members(path: Path, wanted: Callable[[PurePosixPath], bool]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Names and contents of the wanted files in an archive or a tree, one by one; nothing is unpacked to disk.

    Args:
      path: the result of ``locate``.
      wanted: whether to read the file with this path in the archive.

    Raises:
      InputError: ``path`` is not a tar or zip archive, or it is damaged.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = PurePosixPath(file.relative_to(path).as_posix())
            if wanted(name) and file.is_file():
                yield name, file.read_bytes()
        return
    try:
        yield from _zipped(path, wanted) if zipfile.is_zipfile(path) else _tarred(path, wanted)
    except _BROKEN as error:
        raise InputError(f"{path}: not a readable archive, or cut short ({error}); fetch it again") from error


def _tarred(path: Path, wanted: Callable[[PurePosixPath], bool]) -> Iterator[tuple[PurePosixPath, bytes]]:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            file = archive.extractfile(member) if member.isfile() and wanted(name) else None
            if file:
                yield name, file.read()


def _zipped(path: Path, wanted: Callable[[PurePosixPath], bool]) -> Iterator[tuple[PurePosixPath, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = PurePosixPath(member.filename)
            if wanted(name) and not member.is_dir():
                yield name, archive.read(member)
