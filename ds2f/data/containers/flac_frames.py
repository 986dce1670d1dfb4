"""FLAC: the last frame tells where the stream ends and how many samples it has.

libsndfile refuses a file with something behind the last frame, and a header without the number of samples, which
programs write that encode to a pipe.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ds2f.data.containers.byte_view import Stream, before_tags, cut_short, replaced
from ds2f.errors import InputError

MAGIC = b"fLaC"
_BEGINNING = MAGIC + b"\0\0\0\x22"  # with the head of the first block of metadata
_BLOCK = 1 << 20  # bytes that are read at a time
_MOST_BLOCKS = 1000  # of metadata
_TAILS = (1 << 16, 1 << 21)  # bytes at the end in which the last frame is searched; the second, if the first lacks it
_MOST_FRAMES = 64  # that are tried: sound may look like the header of a frame
_MOST_ZEROS = 3  # that may belong to a frame: the last byte of its sound, and its checksum
_NO_LENGTH = "its header does not say how long it is: read to the end of the file"
_MORE_SAMPLES = "its header says fewer samples than there are: read to the end of the file"
_SIZES = {1: 192} | {code: 576 << code - 2 for code in range(2, 6)} | {code: 256 << code - 8 for code in range(8, 16)}


class _Info(NamedTuple):
    samples_at: int  # byte of the file where the number of samples stands; its first four bits are others
    samples: int
    block: int  # samples of a frame
    frames_at: int  # byte of the file where the frames begin


class _Frame(NamedTuple):
    start: int  # in the bytes that were searched
    samples: int  # number of samples up to the frame's end


def examine(file: BinaryIO, start: int, end: int, label: str, *, whole: bool) -> Stream:
    """Finds the last frame, and puts the number of samples into a header without it.

    Args:
      file: opened for reading.
      start: the first byte of the stream.
      end: the size of the file.
      label: the recording's name in messages.
      whole: read the whole file, to find another recording behind this one that has the same length.

    Raises:
      InputError: the last frame is missing or cut off.
    """
    info = _info(file, start)
    if info is None or info.frames_at >= end:
        return Stream((range(start, end),), end)
    stop, frame = _last_frame(file, _next_recording(file, info.frames_at, end) if whole else end, info)
    if not whole and (frame is None or frame.samples != info.samples):
        stop, frame = _last_frame(file, _next_recording(file, info.frames_at, end), info)
    if frame is None:
        raise InputError(cut_short(label, "its last frame is missing, cut off or damaged"))
    if info.samples > frame.samples:
        raise InputError(cut_short(label, f"its header says {info.samples} samples, {frame.samples} are there"))
    if info.samples == frame.samples:
        return Stream((range(start, stop),), stop)
    file.seek(info.samples_at)
    kept = file.read(1)[0] & 0xF0
    number = (kept << 32 | frame.samples).to_bytes(5, "big")
    note = _MORE_SAMPLES if info.samples else _NO_LENGTH
    return Stream(replaced(start, stop, info.samples_at, number), stop, (note,))


def _info(file: BinaryIO, start: int) -> _Info | None:
    """The stream's own description; None if there is none."""
    position, stream_info = start + 4, b""
    for _ in range(_MOST_BLOCKS):
        file.seek(position)
        head = file.read(4)
        if len(head) < 4:
            return None
        if not head[0] & 127:
            stream_info = file.read(34)
            if len(stream_info) < 34:
                return None
            samples_at = position + 4 + 13
        position += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 128 and stream_info:
            samples = int.from_bytes(stream_info[13:18], "big") & (1 << 36) - 1
            return _Info(samples_at, samples, int.from_bytes(stream_info[2:4], "big"), position)
    return None


def _next_recording(file: BinaryIO, position: int, end: int) -> int:
    """Where another FLAC recording begins; the end, if none does."""
    before = b""
    file.seek(position)
    while block := file.read(min(_BLOCK, end - position)):
        at = (before + block).find(_BEGINNING)
        if at >= 0:
            return position - len(before) + at
        before = (before + block)[1 - len(_BEGINNING) :]
        position += len(block)
    return end


def _last_frame(file: BinaryIO, end: int, info: _Info) -> tuple[int, _Frame | None]:
    """Where the stream ends, and its last frame; None: it is missing or damaged.

    The checksum of a whole frame takes long in Python. It is left to the decoder where header and frame agree.
    """
    for size in _TAILS:
        tail_at = max(info.frames_at, end - size)
        file.seek(tail_at)
        tail = file.read(end - tail_at)
        content = before_tags(tail)
        last = next(_frames_from_the_end(content, info.block), None)
        if last and last.samples == info.samples and content[-1:] != b"\0":
            return tail_at + len(content), last
        content = content.rstrip(b"\0")
        zeros = min(len(tail) - len(content), _MOST_ZEROS)
        for frame in _frames_from_the_end(content, info.block):
            checksum = _Checksum(content[frame.start :])
            for stop in range(len(content), len(content) + zeros + 1):
                if not checksum.value:  # a frame ends with its own checksum, so that the checksum of all of it is 0
                    return tail_at + stop, frame
                checksum.add(b"\0")
    return end, None


def _frames_from_the_end(content: bytes, block: int) -> Iterator[_Frame]:
    """Whatever looks like the header of a frame, the last first."""
    at, most = len(content), _MOST_FRAMES
    while most and (at := content.rfind(b"\xff", 0, at)) >= 0:
        samples = _samples(content[at : at + 16], block)
        if samples:
            most -= 1
            yield _Frame(at, samples)


def _samples(head: bytes, block: int) -> int:
    """The number of samples up to the end of the frame with this header; 0: not a header."""
    if len(head) < 6 or head[1] not in (0xF8, 0xF9) or head[3] & 1:
        return 0
    size_code, rate_code = head[2] >> 4, head[2] & 15
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # as in UTF-8: the number of bytes, if it is not one
    width = max(1, ones)
    if ones == 1 or width > 7:
        return 0
    number = head[4] & (0x7F >> ones)
    for byte in head[5 : 4 + width]:
        number = number << 6 | byte & 0x3F
    position = 4 + width
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    size = int.from_bytes(head[position : position + size_bytes], "big") + 1 if size_bytes else _SIZES.get(size_code, 0)
    position += size_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if len(head) <= position or not size or _crc8(head[:position]) != head[position]:
        return 0
    return (number if head[1] & 1 else number * block) + size


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 128 else 0)
    return crc


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = crc << 1 ^ (0x18005 if crc & 0x8000 else 0)
        table.append(crc)
    return table


class _Checksum:
    """FLAC's CRC-16, to which bytes can be added."""

    _TABLE = _table()

    def __init__(self, content: bytes) -> None:
        self.value = 0
        self.add(content)

    def add(self, content: bytes) -> None:
        table, crc = self._TABLE, self.value
        for byte in content:
            crc = (crc << 8 & 0xFFFF) ^ table[crc >> 8 ^ byte]
        self.value = crc
