"""Uncompressed containers, whose headers say how many bytes of samples follow.

A program that writes to a pipe, or that was ended, leaves a number that is too small, zero or open. libsndfile reads so
many bytes and no more. Here the number is compared with the size of the file.
"""

import struct
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from ds2f.data.containers import mp3_frames
from ds2f.data.containers.byte_view import Stream, behind_tags, cut_short, replaced
from ds2f.errors import InputError

_OPEN = 0x7FFFF000  # programs that write WAV to a pipe declare a size from here to 2**32 - 1
_SLACK = 64  # bytes: some programs add the header to the declared size of the samples
_MP3 = b"\x55\0"  # format of a WAV file with MP3 frames
_MOST_CHUNKS = 1000  # of a file; a header full of zeros would have a chunk in every eight bytes
_NO_SIZE = "its header does not say how long it is: read to the end of the file"
_MORE_SAMPLES = "its header says fewer samples than there are: read to the end of the file"

Field = tuple[int, Callable[[int], bytes]]  # where a number of bytes stands in the file, and how it is written


class _Chunks(NamedTuple):
    """How a family of files is divided into chunks."""

    head: struct.Struct  # name and size of a chunk
    first: int  # offset of the first chunk
    samples: bytes  # beginning of the name of the chunk of samples
    align: int = 2  # chunks begin at multiples of it
    counts_head: bool = False  # the size includes the head
    inner: int = 0  # bytes between the head and the samples, which the size includes


class _Found(NamedTuple):
    """The samples, as the header describes them."""

    start: int  # first byte of the samples
    declared: int | None  # bytes of samples; None: left open
    field: Field
    is_mp3: bool = False  # MP3 frames in place of samples


_RIFF = _Chunks(struct.Struct("<4sI"), 12, b"data")
_RIFX = _Chunks(struct.Struct(">4sI"), 12, b"data")
_AIFF = _Chunks(struct.Struct(">4sI"), 12, b"SSND", inner=8)
_CAF = _Chunks(struct.Struct(">4sq"), 8, b"data", align=1, inner=4)
_W64 = _Chunks(struct.Struct("<16sQ"), 40, b"data", align=8, counts_head=True)


def is_known(magic: bytes) -> bool:
    """Whether 12 bytes begin a file of one of these containers."""
    return magic[:4] in (b".snd", b"dns.", b"caff") or magic[:7] == b"NIST_1A" or _family(magic) is not None


def examine(file: BinaryIO, start: int, end: int, label: str) -> Stream:
    """Compares the declared size of the samples with what is there.

    Args:
      file: opened for reading.
      start: the first byte of the stream.
      end: the size of the file.
      label: the recording's name in messages.

    Raises:
      InputError: there are fewer samples than declared.
    """
    file.seek(start)
    magic = file.read(12)
    family = _family(magic)
    found = _in_chunks(file, start, family, magic) if family else _in_header(file, start, magic)
    if found is None:
        return Stream((range(start, end),), end)
    there = end - found.start
    if found.declared is not None and found.declared > there + _SLACK:
        raise InputError(
            cut_short(label, f"its header says {found.declared + found.start - start} bytes, {end - start} are there")
        )
    if found.is_mp3:
        declared_end = end if not found.declared else min(end, found.start + found.declared)
        return mp3_frames.examine(file, found.start, declared_end, label)._replace(stop=end)
    at, written = found.field
    corrected = replaced(start, end, at, written(there))
    if found.declared is None:
        return Stream(corrected, end, (_NO_SIZE,))
    stop = _stop(file, start, found, end, family)
    if stop is None:
        return Stream(corrected, end, (_MORE_SAMPLES,))
    return Stream((range(start, stop),), stop)


def _family(magic: bytes) -> _Chunks | None:
    if magic[8:] == b"WAVE":
        return {b"RIFF": _RIFF, b"RF64": _RIFF, b"BW64": _RIFF, b"RIFX": _RIFX}.get(magic[:4])
    if magic[:4] == b"FORM" and magic[8:] in (b"AIFF", b"AIFC"):
        return _AIFF
    return _W64 if magic == b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb" else _CAF if magic[:4] == b"caff" else None


def _in_chunks(file: BinaryIO, start: int, family: _Chunks, magic: bytes) -> _Found | None:
    """The chunk of samples; None if there is none."""
    position, long_size, is_mp3 = start + family.first, None, False
    for _ in range(_MOST_CHUNKS):
        file.seek(position)
        head = file.read(family.head.size)
        if len(head) < family.head.size:
            return None
        name, size = family.head.unpack(head)
        counted = family.head.size if family.counts_head else 0
        if name.startswith(family.samples):
            break
        if name == b"ds64":  # sizes of a WAV file in 64 bits: of the file, of the samples
            long_size = (position + 16, int.from_bytes(file.read(16)[8:], "little"))
        if name == b"fmt ":
            is_mp3 = file.read(2) == _MP3
        position += max(family.head.size, _aligned(family.head.size + size - counted, family.align))
    else:
        return None
    inner = counted + family.inner
    number = struct.Struct(family.head.format[0] + ("I" if family.head.size == 8 else "Q"))
    at = position + family.head.size - number.size
    if long_size and magic[:4] in (b"RF64", b"BW64") and size == 0xFFFFFFFF:
        number, (at, size) = struct.Struct("<Q"), long_size
    elif size == -1 or (number.size == 4 and size >= _OPEN):
        size = None

    def written(count: int) -> bytes:
        return number.pack(min(count + inner, 256**number.size - 1))

    samples_at = position + family.head.size + family.inner
    return _Found(samples_at, None if size is None else max(0, size - inner), (at, written), is_mp3)


def _in_header(file: BinaryIO, start: int, magic: bytes) -> _Found | None:
    """The samples of an AU or SPHERE file; None: compressed, or not declared."""
    if magic[:4] in (b".snd", b"dns."):
        order = ">" if magic[:4] == b".snd" else "<"
        offset, size = struct.unpack(f"{order}II", magic[4:])
        return _Found(
            start + offset,
            None if size == 0xFFFFFFFF else size,
            (start + 8, lambda count: struct.pack(f"{order}I", min(count, 0xFFFFFFFF))),
        )
    return _in_sphere(file, start)


def _in_sphere(file: BinaryIO, start: int) -> _Found | None:
    file.seek(start)
    header = file.read(1024)
    if b"shorten" in header or b"shortpack" in header:
        return None
    lines = header.split(b"\n")
    fields = {words[0]: words[2] for line in lines if len(words := line.split()) == 3}
    try:
        header_bytes = int(lines[1])
        frames, width = int(fields[b"sample_count"]), int(fields[b"sample_n_bytes"])
        frame = width * int(fields.get(b"channel_count", b"1"))
    except (KeyError, ValueError, IndexError):
        return None
    end_of_header = header.find(b"end_head")

    def written(count: int) -> bytes:
        """The header with another number of samples, filled with spaces behind its end."""
        changed = header[:end_of_header].replace(
            b"sample_count -i " + fields[b"sample_count"], b"sample_count -i %d" % (count // max(1, frame)), 1
        )
        return (changed + header[end_of_header : end_of_header + 9])[:1024].ljust(1024, b"\0")

    return _Found(start + header_bytes, frames * frame, (start, written))


def _stop(file: BinaryIO, start: int, found: _Found, end: int, family: _Chunks | None) -> int | None:
    """Where the recording ends if its samples end where the header says; None: more samples follow there.

    Behind the samples there may be chunks, a few bytes, a tag, zeros or another recording.
    """
    behind = found.start + (found.declared or 0)
    aligned = start + _aligned(behind - start, family.align if family else 1)
    # Some programs leave out the byte that should fill a chunk of odd size.
    ends = (_behind_samples(file, start, at, found, end, family) for at in dict.fromkeys((aligned, behind)))
    return next((at for at in ends if at is not None), None)


def _behind_samples(
    file: BinaryIO, start: int, position: int, found: _Found, end: int, family: _Chunks | None
) -> int | None:
    for _ in range(_MOST_CHUNKS):
        if end - position <= _SLACK:
            return end
        if found.declared:  # otherwise zeros are silence
            behind = behind_tags(file, position, end)
            file.seek(behind)
            if behind == end or is_known(file.read(12)):
                return position
        file.seek(position)
        head = file.read(24)
        if family is None or not all(32 <= byte < 127 for byte in head[:4]):
            return None
        size = family.head.unpack(head[: family.head.size])[1] - (family.head.size if family.counts_head else 0)
        if not 0 <= size <= end + family.align - position:
            return None
        position = start + _aligned(position + family.head.size + size - start, family.align)
    return None


def _aligned(size: int, align: int) -> int:
    return -(-size // align) * align
