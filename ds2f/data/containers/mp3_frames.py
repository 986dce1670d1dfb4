"""MPEG audio (MP3): frames, each with a header that tells its length.

Nothing but the frames tells how long a recording is. libsndfile estimates the length from the size of the file, unless
an index frame ("Xing", "Info") counts the frames, and reads no sample beyond. So the frames are counted here, and the
decoder is given an index with their number.
"""

import functools
import struct
from typing import BinaryIO, NamedTuple

from ds2f.data.containers.byte_view import Stream, behind_tags, cut_short, replaced
from ds2f.errors import InputError

_BITRATES = {  # kbit/s by (MPEG 1, layer) and the code in a frame's header
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)  # of MPEG 1; MPEG 2 has half of them, MPEG 2.5 a quarter
_SAME = 0xFFFE0C00  # bits of a header that all frames of a recording share: version, layer, rate
_SLACK = 64  # bytes that an index may count too many
_MOST_FRAMES = 4_000_000  # more than a day; small frames in a large file take long to count
_BLOCK = 1 << 16  # bytes that are read at a time
_HEAD = 64  # bytes of a frame, which hold its header and an index
_MOST_RUBBISH = 1 << 16  # bytes in which the next frame is searched
_CUT_OFF = "its last frame is cut off: read to the end of the file"
_SKIPPED = "bytes between its MP3 frames are skipped"
_MORE_FRAMES = "its index counts fewer frames than there are: read to the end of the file"


class _Frame(NamedTuple):
    length: int  # bytes
    index_at: int  # offset of an index in the frame


class _Index(NamedTuple):
    frames: int | None  # that follow the frame of the index; None: not counted
    bytes: int | None  # of all frames
    at: int  # offset of the number of frames


def is_frame(head: bytes) -> bool:
    """Whether bytes begin with the header of a frame."""
    return _frame(head) is not None


def examine(file: BinaryIO, start: int, end: int, label: str) -> Stream:
    """Counts the frames up to the end of the stream: something else, or the index of another recording.

    Args:
      file: opened for reading.
      start: the first byte of the stream, which is that of a frame.
      end: the size of the file.
      label: the recording's name in messages.

    Raises:
      InputError: the index counts more frames than there are.
    """
    file.seek(start)
    first = file.read(min(4096, end - start))
    frame = _frame(first)
    if frame is None:
        return Stream((range(start, end),), end)
    index = _index(first, frame)
    after_index = start + frame.length if index else start
    stop, count, cut_off = _walk(file, after_index, end, int.from_bytes(first[:4], "big"))
    if not count:
        return Stream((range(start, end),), end)
    if count > _MOST_FRAMES:
        raise InputError(f"{label}: more than {_MOST_FRAMES:,} MP3 frames, over a day; cut the recording")
    if index and index.bytes and index.bytes > end - start + _SLACK:
        raise InputError(cut_short(label, f"its index counts {index.bytes} bytes, {end - start} are there"))
    if index and index.frames and index.frames > count + 1:  # some programs count the frame of the index, too
        raise InputError(cut_short(label, f"its index counts {index.frames} frames, {count} are there"))
    notes: tuple[str, ...] = (_CUT_OFF,) if cut_off else ()
    beyond = _found(file, stop, end, first)
    if beyond is None:
        raise InputError(cut_short(label, f"after byte {stop} a part is missing or broken"))
    if beyond != stop:
        notes += (_SKIPPED,)
    if index and index.frames and count - index.frames <= 1:
        return Stream((range(start, stop),), beyond, notes)
    if index and index.frames:
        notes += (_MORE_FRAMES,)
        segments = replaced(start, stop, start + index.at, struct.pack(">I", count))
    else:
        segments = (_index_frame(first, frame, count), range(after_index, stop))
    return Stream(segments, beyond, notes)


def _walk(file: BinaryIO, position: int, end: int, like: int) -> tuple[int, int, bool]:
    """Follows the frames.

    Returns:
      The byte behind the last frame, the number of whole frames, and whether the file ends within another frame.
    """
    count, block, block_at = 0, b"", position
    while position < end and count <= _MOST_FRAMES:
        at = position - block_at
        if at + _HEAD > len(block) and block_at + len(block) < end:
            file.seek(position)
            block, block_at, at = file.read(_BLOCK), position, 0
        head = block[at : at + _HEAD]
        frame = _frame(head)
        if frame is None or (int.from_bytes(head[:4], "big") ^ like) & _SAME:
            break
        if count and _index(head, frame):  # the beginning of another recording
            break
        if position + frame.length > end:
            return end, count, True
        position += frame.length
        count += 1
    return position, count, False


def _found(file: BinaryIO, position: int, end: int, first: bytes) -> int | None:
    """The position, if another recording, a tag or zeros at the end follow; otherwise that of the next frame.

    Without another frame, rubbish at the end of the file may be as long as between frames; None: it is longer.
    """
    behind = behind_tags(file, position, end)
    file.seek(behind)
    if behind >= end or is_frame(file.read(4)):
        return position
    file.seek(position)
    rubbish = file.read(_MOST_RUBBISH)
    at = rubbish.find(b"\xff")
    while at >= 0:
        if _starts_two_frames(file, position + at, end, int.from_bytes(first[:4], "big")):
            return position + at
        at = rubbish.find(b"\xff", at + 1)
    return end if position + len(rubbish) == end else None


def _starts_two_frames(file: BinaryIO, position: int, end: int, like: int) -> bool:
    for _ in range(2):
        file.seek(position)
        head = file.read(4)
        frame = _frame(head)
        if frame is None or (int.from_bytes(head, "big") ^ like) & _SAME:
            return False
        position += frame.length
        if position >= end:
            return position == end
    return True


def _frame(head: bytes) -> _Frame | None:
    """The frame that bytes begin with, or None."""
    return _parsed(int.from_bytes(head[:4], "big")) if len(head) >= 4 and head[0] == 0xFF else None


@functools.lru_cache(maxsize=4096)
def _parsed(header: int) -> _Frame | None:
    version, layer_code = header >> 19 & 3, header >> 17 & 3
    bitrate_code, rate_code, padding = header >> 12 & 15, header >> 10 & 3, header >> 9 & 1
    if header >> 21 != 0x7FF or version == 1 or not layer_code or bitrate_code in (0, 15) or rate_code == 3:
        return None
    layer, first_version = 4 - layer_code, version == 3
    bits = 1000 * _BITRATES[first_version, layer][bitrate_code]
    rate = _RATES[rate_code] >> {3: 0, 2: 1, 0: 2}[version]
    if layer == 1:
        length = 4 * (12 * bits // rate + padding)
    else:
        length = (72 if layer == 3 and not first_version else 144) * bits // rate + padding
    mono = header >> 6 & 3 == 3
    side = (17 if mono else 32) if first_version else (9 if mono else 17)
    return _Frame(length, 4 + side)


def _index(head: bytes, frame: _Frame) -> _Index | None:
    """The index in a frame, or None. Fraunhofer's ("VBRI") counts as one without a number, since decoders ignore it."""
    if head[36:40] == b"VBRI":
        return _Index(None, None, 0)
    at = frame.index_at
    if head[at : at + 4] not in (b"Xing", b"Info"):
        at += 2  # a checksum of two bytes may precede the index
        if head[at : at + 4] not in (b"Xing", b"Info"):
            return None
    fields = head[at + 4 : at + 16].ljust(12, b"\0")
    flags, first, second = struct.unpack(">III", fields)
    counts_frames, counts_bytes = flags & 1, flags & 2
    return _Index(
        first if counts_frames else None, (second if counts_frames else first) if counts_bytes else None, at + 8
    )


def _index_frame(first: bytes, frame: _Frame, count: int) -> bytes:
    """A frame without sound that counts the frames behind it."""
    header = bytearray(first[:4])
    header[1] |= 1  # no checksum
    found = _frame(bytes(header))
    while found is not None and found.length < frame.index_at + 12:  # too small for the index
        header[2] += 0x10
        found = _frame(bytes(header))
    assert found is not None
    content = bytes(header) + bytes(frame.index_at - 4) + b"Info" + struct.pack(">II", 1, count)
    return content.ljust(found.length, b"\0")
