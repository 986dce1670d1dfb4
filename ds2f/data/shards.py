"""Tar shards: many recordings in one file, in WebDataset's layout, read where they lie.

A sample is two members, ``KEY.flac`` (or another suffix of a recording) and ``KEY.json`` with ``text``, ``duration``
and what else a row of a manifest may have. The address of a recording in a shard is a path, so that everything that
knows paths of recordings knows members: ``train-000000.tar/1536+48211+KEY.flac`` are the 48,211 bytes from byte 1536
on. Nothing is unpacked, and no name of a member becomes the name of a file. A loader process needs no index of a shard:
one read gets a recording, with the tar header before it, which must be as the address says.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from ds2f.data import object_store
from ds2f.data.manifest_rows import Listing, Row, from_fields
from ds2f.data.problems import Problem
from ds2f.data.suffixes import is_recording
from ds2f.errors import InputError
from ds2f.files import open_regular

SUFFIX = ".tar"
BLOCK = tarfile.BLOCKSIZE  # bytes; headers have as many, and members begin at multiples of them
_ADDRESS = re.compile(r"(.+\.tar)/(\d{1,18})\+(\d{1,18})\+([^/]+)", re.DOTALL)
MOST_BYTES = 1 << 31  # of a recording
_MOST_TEXT = 1 << 20  # bytes of a member with a text, or with a member's long name
_MOST_MEMBERS = 2_000_000  # of a shard
_HEADER_NAME = 100  # bytes of a name in a header; a longer one lies in a member before it
_BESIDE = (".jsonl", ".json", ".txt", ".csv", ".md")  # files that may lie beside shards
_AGAIN = "write the shard again"
_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE}
_LONG_NAMES = {tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE}


class Member(NamedTuple):
    """A file in a shard."""

    shard: Path
    offset: int  # of its first byte
    size: int  # bytes
    name: str  # the last part

    @property
    def path(self) -> Path:
        """The address."""
        return self.shard / f"{self.offset}+{self.size}+{self.name}"


def member(path: Path | str) -> Member | None:
    """The member that a path is the address of; None: it is the path of a file.

    >>> member("a/b.tar/1536+20+x.flac")
    Member(shard=PosixPath('a/b.tar'), offset=1536, size=20, name='x.flac')
    >>> member("a/b.tar"), member("a/x.flac")
    (None, None)
    """
    found = _ADDRESS.fullmatch(str(path))
    return Member(Path(found[1]), int(found[2]), int(found[3]), found[4]) if found else None


def read(asked: Member, limit: int) -> io.BytesIO:
    """Reads a recording of a shard, named by its address.

    Args:
      asked: the recording.
      limit: bytes of a recording, at most.

    Raises:
      InputError: the recording is too large, or the shard has something else there.
      OSError: the file system refused.
    """
    if asked.size > limit:
        raise InputError(f"{asked.path}: {asked.size:,} bytes; the limit is {limit:,} bytes")
    if asked.offset < BLOCK:
        raise InputError(f"{asked.path}: no member begins there; write its manifest again")
    if object_store.is_remote(asked.shard):
        content = object_store.read(asked.shard, asked.offset - BLOCK, BLOCK + asked.size)
        _require(content[:BLOCK], asked)
        content = content[BLOCK:]
    else:
        with open_regular(asked.shard) as file:
            file.seek(asked.offset - BLOCK)
            _require(file.read(BLOCK), asked)
            content = file.read(asked.size)
    if len(content) < asked.size:
        raise InputError(f"{asked.path}: the shard is cut short; copy it again")
    return _Named(content, str(asked.path))


def size(shard: Path) -> int | InputError:
    """The size of a shard on a disk, bytes, or why it cannot be read."""
    try:
        return shard.stat().st_size
    except OSError as error:
        return InputError(f"{shard}: {error.strerror}; copy the shard again")


def open_recording(path: Path) -> io.BytesIO | io.BufferedReader:
    """Opens a recording for reading: a file, or a member of a shard.

    Raises:
      InputError: the path is none of them, or as ``read``.
      OSError: the file system refused.
    """
    found = member(path)
    return read(found, MOST_BYTES) if found else open_regular(path)


class _Named(io.BytesIO):
    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def _require(block: bytes, asked: Member) -> None:
    """Requires that a block is the header of a member, with its size and name."""
    header = _header(block)
    if header is None or header.size != asked.size or header.type not in _FILES:
        raise InputError(f"{asked.path}: the shard has no such member there; write its manifest again")
    name = header.name.rpartition("/")[2]
    if name != asked.name and len(header.name.encode(errors="surrogateescape")) < _HEADER_NAME:
        raise InputError(f"{asked.path}: the shard has {name[:100]!r} there; write its manifest again")


def _header(block: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def are_shards(path: Path) -> bool:
    """Whether a path is a shard, or a folder of shards and manifests alone."""
    if not path.is_dir():
        return path.suffix == SUFFIX
    suffixes = {each.suffix for each in path.iterdir() if not each.name.startswith(".")}
    return SUFFIX in suffixes and suffixes <= {SUFFIX, *_BESIDE}


def listing(path: Path) -> Listing:
    """The rows of a shard, or of all shards of a folder, in the order of their names and members.

    Raises:
      InputError: a shard cannot be read.
    """
    shards = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    rows: list[Row] = []
    problems: list[Problem] = []
    others = 0
    for shard in shards:
        samples: dict[str, dict[str, Member]] = {}
        for full, found in members(shard):
            key, _, suffix = full.partition(".") if "/" not in full else _key_and_suffix(full)
            samples.setdefault(key, {})[suffix.lower()] = found
        for key, files in samples.items():
            where = f"{shard}: {key}"
            sounds = [each for suffix, each in files.items() if is_recording(Path(f"x.{suffix}"))]
            if len(sounds) != 1:
                others += not sounds
                problems += [Problem(where, f"{len(sounds)} recordings; {_AGAIN}")] * (len(sounds) > 1)
                continue
            try:
                rows.append(_row(shard, sounds[0], files, where))
            except InputError as error:
                problems.append(Problem.of(where, error))
    remarks = [f"{path}: {others} sample(s) without a recording"] if others else []
    return Listing(rows, problems, remarks)


def _key_and_suffix(full: str) -> tuple[str, str, str]:
    folder, _, name = full.rpartition("/")
    key, dot, suffix = name.partition(".")
    return f"{folder}/{key}", dot, suffix


def _row(shard: Path, sound: Member, files: Mapping[str, Member], where: str) -> Row:
    """The row of a sample: its recording, and the fields of its ``.json`` or the text of its ``.txt``."""
    if "json" in files:
        try:
            fields: Any = json.loads(_text(files["json"]))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON: {error}; {_AGAIN}") from error
    elif "txt" in files:
        fields = {"text": _text(files["txt"])}
    else:
        raise InputError(f"{where}: no .json or .txt beside the recording; {_AGAIN}")
    if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
        raise InputError(f'{where}: no "text" in the .json of the recording; {_AGAIN}')
    known = {name: fields[name] for name in ("text", "duration", "speaker", "lang") if name in fields}
    row = from_fields(known | {"audio_filepath": sound.path.name}, shard, where)
    return row._replace(audio=sound.path)


def _text(found: Member) -> str:
    if found.size > _MOST_TEXT:
        raise InputError(f"{found.path}: {found.size:,} bytes; the limit of a text is {_MOST_TEXT:,} bytes")
    try:
        return read(found, _MOST_TEXT).read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{found.path}: byte {error.start} is not UTF-8; {_AGAIN}") from error


def members(shard: Path) -> Iterator[tuple[str, Member]]:
    """The files of a shard, with their whole names, from its headers; links, folders and devices are left out.

    Raises:
      InputError: the shard cannot be read, is damaged or cut short, or has too many members or too long a name.
    """
    try:
        with object_store.opened(shard) if object_store.is_remote(shard) else open_regular(shard) as file:
            yield from _members(file, shard)
    except OSError as error:
        raise InputError(f"{shard}: {error.strerror or error}; check the path") from error


def _members(file: IO[bytes], shard: Path) -> Iterator[tuple[str, Member]]:
    end, position, name = file.seek(0, io.SEEK_END), 0, ""
    for _ in range(_MOST_MEMBERS):
        file.seek(position)
        block = file.read(BLOCK)
        if not block.strip(b"\0"):  # two blocks of zeros end a shard; some programs leave them out
            return
        header = _header(block) if len(block) == BLOCK else None
        if header is None or header.size < 0 or (begin := position + BLOCK) + header.size > end:
            raise InputError(f"{shard}: damaged or cut short at byte {position:,}; copy it again, or {_AGAIN}")
        position = begin + -(-header.size // BLOCK) * BLOCK
        if header.type in _LONG_NAMES:
            if header.size > _MOST_TEXT:
                raise InputError(f"{shard}: a name of {header.size:,} bytes at byte {begin:,}; {_AGAIN}")
            name = _long_name(file.read(header.size), header.type) or name
            continue
        full, name = name or header.name, ""
        if header.type in _FILES and (last := full.rpartition("/")[2]):
            yield full, Member(shard, begin, header.size, last)
    raise InputError(f"{shard}: more than {_MOST_MEMBERS:,} members; {_AGAIN} in parts")


def _long_name(content: bytes, kind: bytes) -> str:
    """The name of the next member: the whole content (GNU), or a record ``LENGTH path=NAME`` of it (POSIX)."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return content.rstrip(b"\0").decode(errors="surrogateescape")
    found = re.search(rb"(?:\A|\n)\d+ path=([^\n]*)\n", content)
    return found[1].decode(errors="surrogateescape") if found else ""
