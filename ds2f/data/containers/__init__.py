"""What a recording's file holds, from the sizes and checksums in its headers, before a decoder sees it.

libsndfile decodes a recording that is cut short without an error, and so it does with a header that promises less than
there is. The transcript then has words that the samples lack. ``examine`` refuses the one, and lays out the other
so that it is read to its end.
"""

import io
from typing import BinaryIO

from ds2f.data.containers import flac_frames, mp3_frames, ogg_pages, sample_sizes
from ds2f.data.containers.byte_view import ByteView, Layout, Segment, Stream, before_tags, behind_tags, cut_short
from ds2f.errors import InputError

__all__ = ["ByteView", "Layout", "cut_short", "examine"]

_MOST_STREAMS = 1000  # of a file
_MOST_TAGS = 1 << 20  # bytes behind a recording
_JOINED = "several recordings behind one another in a file: read as one"


def examine(file: BinaryIO, label: str, *, whole: bool) -> Layout:
    """Finds the streams of a file; leaves the file position as it was.

    Tags and zeros before and behind a stream are skipped. A header that says less than there is, and an end mark that
    lacks, are replaced. Read are all pages of Ogg, the headers of all MP3 frames, the last frame of FLAC, and the
    headers of WAV and similar files.

    Args:
      file: opened for reading, at the beginning of the recording.
      label: the recording's name in messages.
      whole: read all of a FLAC file, to find another recording behind one of the same length.

    Raises:
      InputError: the file is empty, shorter than declared or damaged. The message names the recording, the fault and
        the remedy.
    """
    origin = file.tell()
    end = file.seek(0, io.SEEK_END)
    if end <= origin:
        raise InputError(f"{label}: the file is empty; copy or record it again")
    try:
        return _examined(file, origin, end, label, whole)
    finally:
        file.seek(origin)


def _examined(file: BinaryIO, origin: int, end: int, label: str, whole: bool) -> Layout:
    streams: list[tuple[Segment, ...]] = []
    notes: dict[str, None] = {}  # in their order, each once
    position = origin
    while (position := behind_tags(file, position, end)) < end and len(streams) <= _MOST_STREAMS:
        stream = _stream(file, position, end, label, whole)
        if stream is None:
            if streams and not _only_tags(file, position, end):
                raise InputError(cut_short(label, f"after byte {position} a part is missing or broken"))
            break
        streams.append(stream.segments)
        notes.update(dict.fromkeys(stream.notes))
        position = stream.stop
    if len(streams) > _MOST_STREAMS:
        raise InputError(f"{label}: damaged: more than {_MOST_STREAMS} recordings in a file; copy it again")
    if not streams:  # a container that is not examined; the decoder knows it, or refuses it
        return Layout(end, ((range(origin, end),),), ())
    return Layout(end, tuple(streams), (*notes, _JOINED) if len(streams) > 1 else tuple(notes))


def _only_tags(file: BinaryIO, position: int, end: int) -> bool:
    """Whether the rest of a file is tags that only their ends tell, such as an APE tag without a header."""
    file.seek(position)
    return end - position <= _MOST_TAGS and not before_tags(file.read(end - position))


def _stream(file: BinaryIO, position: int, end: int, label: str, whole: bool) -> Stream | None:
    """The stream that begins at a position; None: no known container does."""
    file.seek(position)
    magic = file.read(12)
    if magic.startswith(ogg_pages.MAGIC):
        return ogg_pages.examine(file, position, end, label)
    if magic.startswith(flac_frames.MAGIC):
        return flac_frames.examine(file, position, end, label, whole=whole)
    if sample_sizes.is_known(magic):
        return sample_sizes.examine(file, position, end, label)
    return mp3_frames.examine(file, position, end, label) if mp3_frames.is_frame(magic) else None
