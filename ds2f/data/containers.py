"""Finds audio files that are cut short or damaged, from the sizes and checksums in their headers.

libsndfile decodes a recording that is cut short without an error. The transcript then has words that the recording
lacks.
"""

import io
import os
import struct
import zlib
from typing import BinaryIO

from ds2f.errors import InputError

_UNKNOWN_SIZE = 0x7FFFF000  # programs that write WAV to a pipe declare a size from here to 2**32 - 1
_SLACK = 64  # bytes: some programs add the header to the declared size of the samples
_MOST_CHUNKS = 1000  # of a WAV file before its samples; a header full of zeros would have a chunk in every eight bytes
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # every byte with its bits in the other order
_LAST_PAGE = 4  # flag of an Ogg page


def check(file: BinaryIO, label: str, *, whole: bool) -> None:
    """Raises if a file is empty, shorter than declared or damaged; leaves the file position as it was.

    Args:
      file: opened for reading, at the beginning of the recording.
      label: the recording's name in messages.
      whole: also compare the checksums of an Ogg file, which reads it to its end.

    Raises:
      InputError: the message names the recording, the fault and the remedy.
    """
    start = file.tell()
    size = file.seek(0, io.SEEK_END) - start
    if not size:
        raise InputError(f"{label}: the file is empty; copy or record it again")
    file.seek(start)
    magic = file.read(12)
    declared = 0
    if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
        declared = _riff_data_end(file)
    elif magic[:7] == b"NIST_1A":
        file.seek(start)
        declared = _sphere_data_end(file)
    elif magic[:3] == b"ID3" or (len(magic) > 1 and magic[0] == 0xFF and magic[1] >= 0xE0):
        file.seek(start)
        declared = _mp3_end(file, magic)
    elif magic[:4] == b"OggS" and whole:
        file.seek(start)
        _check_pages(file, label)
    file.seek(start)
    if declared > size + _SLACK:
        raise InputError(cut_short(label, f"its header says {declared} bytes, {size} are there"))


def cut_short(label: str, evidence: str) -> str:
    """The message for a recording of which a part is missing."""
    return f"{label}: the recording is cut short: {evidence}; copy it again"


def _riff_data_end(file: BinaryIO) -> int:
    """The declared end of the ``data`` chunk, in bytes from the file's beginning; 0: not declared."""
    position = 12
    for _ in range(_MOST_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            break
        kind, size = struct.unpack("<4sI", header)
        position += 8
        if kind == b"data":
            return position + size if size < _UNKNOWN_SIZE else 0
        position += size + size % 2
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0


def _sphere_data_end(file: BinaryIO) -> int:
    """The declared end of a SPHERE file's samples, in bytes; 0: not declared, or compressed."""
    header = file.read(1024)
    if b"shorten" in header or b"shortpack" in header:
        return 0
    fields = {words[0]: words[2] for line in header.split(b"\n") if len(words := line.split()) == 3}
    try:
        header_bytes = int(header.split(b"\n", 2)[1])
        frames, width = int(fields[b"sample_count"]), int(fields[b"sample_n_bytes"])
        return header_bytes + frames * width * int(fields.get(b"channel_count", b"1"))
    except (KeyError, ValueError, IndexError):
        return 0


def _mp3_end(file: BinaryIO, magic: bytes) -> int:
    """The declared end of an MP3's frames, from the index that encoders write into the first frame; 0: no index."""
    tag = 0
    if magic[:3] == b"ID3" and len(magic) >= 10:
        tag = 10 + sum(byte << shift for byte, shift in zip(magic[6:10], (21, 14, 7, 0), strict=True))
    file.seek(tag, os.SEEK_CUR)
    frame = file.read(64)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    fields = frame[at + 4 : at + 16]
    if at < 0 or len(fields) < 12:
        return 0
    flags, first, second = struct.unpack(">III", fields)
    counts_frames, counts_bytes = flags & 1, flags & 2
    return tag + (second if counts_frames else first) if counts_bytes else 0


def _check_pages(file: BinaryIO, label: str) -> None:
    """Checks every page of an Ogg file: decoders skip damaged pages, and the rest sounds complete.

    Pages of at most 64 KiB are read one by one, whatever the size of the file.
    """
    position, flags = 0, 0
    while header := file.read(27):
        sizes = file.read(header[26]) if len(header) == 27 else b""
        body = file.read(sum(sizes))
        if header[:4] != b"OggS" or len(header) < 27 or len(sizes) < header[26] or len(body) < sum(sizes):
            break
        checksum = struct.unpack("<I", header[22:26])[0]
        if _ogg_crc(header[:22] + bytes(4) + header[26:] + sizes + body) != checksum:
            raise InputError(f"{label}: damaged: the checksum of the page at byte {position} is wrong; copy it again")
        position, flags = position + 27 + len(sizes) + len(body), header[5]
    if header or not flags & _LAST_PAGE:
        raise InputError(cut_short(label, f"after byte {position} a page is missing or broken"))


def _ogg_crc(page: bytes) -> int:
    """Ogg's CRC-32: zlib's polynomial, most significant bit first, initial value 0."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
