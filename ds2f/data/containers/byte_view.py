"""Which bytes of a file are a recording: parts of the file, with bytes replaced where a header is wrong."""

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple

ID3V1 = 128  # bytes of a tag at the end of a file
_MOST_ZEROS = 1 << 20  # bytes; a larger hole is a part that was never written

Segment = range | bytes  # bytes of the file from start to stop, or other bytes in their place


class Stream(NamedTuple):
    """A stream within a file, as a decoder should see it."""

    segments: tuple[Segment, ...]
    stop: int  # the byte of the file behind the stream
    notes: tuple[str, ...] = ()


class Layout(NamedTuple):
    """The streams of a file, one behind another."""

    size: int  # of the file, bytes
    streams: tuple[tuple[Segment, ...], ...]
    notes: tuple[str, ...]  # oddities, in the same words for the same oddity

    @property
    def plain(self) -> bool:
        """Whether the file itself is the stream, so that a decoder may open it."""
        return self.streams == ((range(self.size),),)


def replaced(start: int, stop: int, at: int, content: bytes) -> tuple[Segment, ...]:
    """The bytes of the file from ``start`` to ``stop``, with ``content`` in place of the bytes from ``at`` on."""
    return range(start, at), content, range(at + len(content), stop)


class ByteView(io.RawIOBase):
    """A file for reading that consists of segments of another file."""

    def __init__(self, file: BinaryIO, segments: Sequence[Segment]) -> None:
        """Takes an open file, whose position the view moves, and the segments."""
        self._file, self._segments = file, segments
        self._starts = list(accumulate(map(len, segments), initial=0))
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position and returns it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, or reads to the end. Returns the number of bytes."""
        room = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(room) and self._position < self._starts[-1]:
            index = bisect_right(self._starts, self._position) - 1
            segment, inside = self._segments[index], self._position - self._starts[index]
            count = min(len(room) - filled, len(segment) - inside)
            if isinstance(segment, bytes):
                found = segment[inside : inside + count]
            else:
                self._file.seek(segment.start + inside)
                found = self._file.read(count)
            if not found:  # the file has become shorter
                break
            room[filled : filled + len(found)] = found
            filled += len(found)
            self._position += len(found)
        return filled


def behind_tags(file: BinaryIO, position: int, end: int) -> int:
    """The first byte from ``position`` on that belongs neither to a tag nor to a filling of zeros."""
    while position < end:
        file.seek(position)
        head = file.read(32)
        if head.startswith(b"ID3") and len(head) >= 10:
            size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            position += 10 + size + (10 if head[5] & 16 else 0)
        elif head.startswith(b"TAG"):
            position += ID3V1
        elif head.startswith(b"APETAGEX"):
            position += len(head) + int.from_bytes(head[12:16], "little") * bool(head[23:24] and head[23] & 32)
        elif not head[0] and (zeros := _zeros(file, position, end)):
            position += zeros
        else:
            break
    return min(position, end)


def before_tags(content: bytes) -> bytes:
    """The end of a file without the tags and zeros at its very end."""
    while True:
        if content[-ID3V1:].startswith(b"TAG"):
            content = content[:-ID3V1]
        elif content[-32:].startswith(b"APETAGEX"):
            size = int.from_bytes(content[-20:-16], "little")  # with this footer, without a header
            if not 32 <= size <= len(content):
                return content
            content = content[:-size]
            content = content[:-32] if content[-32:].startswith(b"APETAGEX") else content
        elif content.endswith(b"\0\0\0\0"):
            content = content.rstrip(b"\0")
        else:
            return content


def _zeros(file: BinaryIO, position: int, end: int) -> int:
    """The number of zeros at a position; 0: there are too many for a filling."""
    file.seek(position)
    filling = file.read(min(_MOST_ZEROS + 1, end - position))
    count = len(filling) - len(filling.lstrip(b"\0"))
    return count if count <= _MOST_ZEROS else 0


def cut_short(label: str, evidence: str) -> str:
    """The message for a recording of which a part is missing."""
    return f"{label}: the recording is cut short: {evidence}; copy it again"
