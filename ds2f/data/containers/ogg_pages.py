"""Ogg files: pages with sequence numbers and checksums.

Decoders skip damaged and missing pages, and the rest sounds complete.
"""

import struct
import zlib
from typing import BinaryIO, NamedTuple

from ds2f.data.containers.byte_view import ID3V1, Segment, Stream, cut_short
from ds2f.errors import InputError

MAGIC = b"OggS"
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # every byte with its bits in the other order
_FIRST_PAGE, _LAST_PAGE = 2, 4  # flags
_NO_END_MARK = "its last page lacks the end mark: read to the end of the file"


class _Page(NamedTuple):
    start: int
    stop: int
    flags: int
    serial: int  # number of the logical stream
    sequence: int  # number of the page in the logical stream
    content: bytes  # header and body, with zeros in place of the checksum


def examine(file: BinaryIO, start: int, end: int, label: str) -> Stream:
    """Checks every page up to the end of the stream. An end mark that lacks is put there.

    Pages of at most 64 KiB are read one by one, whatever the size of the file.

    Args:
      file: opened for reading.
      start: the first byte of the stream.
      end: the size of the file.
      label: the recording's name in messages.

    Raises:
      InputError: a page is missing, cut off or damaged.
    """
    last: dict[int, _Page] = {}  # by serial number
    position, headers = start, True
    while position < end and (page := _page(file, position, end, label)) is not None:
        if page.flags & _FIRST_PAGE:
            if not headers:  # another recording, put behind this one
                break
        else:
            headers = False
            before = last.get(page.serial)
            if before is None or page.sequence != before.sequence + 1:
                raise InputError(cut_short(label, f"a page before byte {position} is missing"))
        last[page.serial] = page
        position = page.stop
    unmarked = [page for page in last.values() if not page.flags & _LAST_PAGE]
    if (
        position < end
        and (not last or (unmarked and not _is_tag(file, position, end)))
        and not _is_page(file, position)
    ):
        raise InputError(cut_short(label, f"after byte {position} a page is missing or broken"))
    return Stream(_marked(start, position, unmarked), position, (_NO_END_MARK,) if unmarked else ())


def _marked(start: int, stop: int, unmarked: list[_Page]) -> tuple[Segment, ...]:
    """The stream with an end mark on these pages."""
    segments: list[Segment] = []
    for page in sorted(unmarked):
        content = bytearray(page.content)
        content[5] |= _LAST_PAGE
        content[22:26] = checksum(bytes(content)).to_bytes(4, "little")
        segments += [range(start, page.start), bytes(content)]
        start = page.stop
    return (*segments, range(start, stop))


def _is_tag(file: BinaryIO, position: int, end: int) -> bool:
    """Whether a whole tag, of the kinds that players put behind a recording, is at a position."""
    file.seek(position)
    head = file.read(8)
    return (head.startswith(b"TAG") and end - position == ID3V1) or head == b"APETAGEX"


def _is_page(file: BinaryIO, position: int) -> bool:
    file.seek(position)
    return file.read(4) == MAGIC


def _page(file: BinaryIO, position: int, end: int, label: str) -> _Page | None:
    """The page at a position; None if there is none."""
    file.seek(position)
    header = file.read(min(27, end - position))
    if not header.startswith(MAGIC):
        return None
    sizes = file.read(header[26]) if len(header) == 27 else b""
    body = file.read(sum(sizes))
    if len(header) < 27 or len(sizes) < header[26] or len(body) < sum(sizes):
        raise InputError(cut_short(label, f"after byte {position} a page is missing or broken"))
    stop = position + len(header) + len(sizes) + len(body)
    serial, sequence, expected = struct.unpack("<III", header[14:26])
    content = header[:22] + bytes(4) + header[26:] + sizes + body
    if checksum(content) != expected:
        raise InputError(f"{label}: damaged: the checksum of the page at byte {position} is wrong; copy it again")
    return _Page(position, stop, header[5], serial, sequence, content)


def checksum(page: bytes) -> int:
    """Ogg's CRC-32 of a page whose own checksum is zero: zlib's polynomial, most significant bit first, from 0."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
