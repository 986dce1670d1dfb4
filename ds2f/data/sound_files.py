"""Opens recordings with libsndfile: files, open files, pipes; one stream after another."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import soundfile

from ds2f.data import containers, shards
from ds2f.errors import InputError

_PIPE_BLOCK = 1 << 20  # bytes that are read from a pipe at a time
_BYTES_PER_SECOND = 384_000  # of a recording from a pipe: two channels of 32 bits at 48 kHz
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's length of a stream whose header gives none
_READABLE = "readable are WAV, FLAC, OGG, MP3, NIST SPHERE and others; convert it (ffmpeg -i IN OUT.wav)"
RATES = (1000, 1_000_000)  # hertz; a header with another rate is damaged, and resampling would fill the memory

Source = str | Path | BinaryIO


class NotAudio(InputError):  # noqa: N818  it says what the file is
    """The file is of no format that can be read."""


@contextmanager
def opened(
    source: Source, label: str, *, whole: bool, max_seconds: float
) -> Iterator[tuple[Iterator[soundfile.SoundFile], tuple[str, ...]]]:
    """Opens a recording.

    Args:
      source: a path, or a binary file opened for reading.
      label: the recording's name in messages.
      whole: look for more in the file than its headers tell (``containers.examine``).
      max_seconds: limit of the length; what comes from a pipe is limited by its bytes.

    Returns:
      A context, with the streams of the recording, each open until the next is asked for, and remarks about its file.

    Raises:
      InputError: the file is missing, empty, cut short or not audio, or it has an absurd header.
    """
    if isinstance(source, str | Path) and (member := shards.member(source)):
        try:
            source = shards.read(member, int(max_seconds * _BYTES_PER_SECOND))
        except OSError as error:
            raise _unreadable(label, error) from error
    if not isinstance(source, str | Path):
        if not source.seekable():
            source = _received(source, label, max_seconds)
        origin = source.tell()
        layout = containers.examine(source, label, whole=whole)
        try:
            yield _sounds(source, layout, label), layout.notes
        finally:
            source.seek(origin)  # it can be read again
        return
    path = Path(source)
    if path.suffix.lower() == ".raw":
        raise InputError(
            f"{label}: headerless samples tell neither their rate nor their format; convert the file to WAV"
        )
    try:
        kind = path.stat().st_mode
        usual = stat.S_ISREG(kind) or stat.S_ISDIR(kind)  # reading a pipe would wait; opening a folder raises
        file = path.open("rb") if usual else None
    except OSError as error:
        raise _unreadable(label, error) from error
    except ValueError as error:
        raise InputError(f"{label}: {error}; check the path") from error
    if file is None:
        raise InputError(f"{label}: neither file nor folder; check the path")
    with file:
        try:
            layout = containers.examine(file, label, whole=whole)
        except OSError as error:
            raise _unreadable(label, error) from error
        if not layout.plain:
            yield _sounds(file, layout, label), layout.notes
            return
    # libsndfile opens a path itself several times faster than it reads a Python file. A path that is not UTF-8 is
    # passed as bytes.
    yield _sounds(os.fsencode(path), layout, label), layout.notes


def _received(pipe: BinaryIO, label: str, max_seconds: float) -> BytesIO:
    """The content of a pipe, read to its end."""
    content, limit = BytesIO(), int(max_seconds * _BYTES_PER_SECOND)
    while block := pipe.read(min(_PIPE_BLOCK, limit + 1 - content.tell())):
        content.write(block)
        if content.tell() > limit:
            raise InputError(
                f"{label}: more than {limit:,} bytes came, {_BYTES_PER_SECOND:,} a second of the limit; raise the "
                "limit with --data.max_recording_seconds, or write the recording to a file"
            )
    if not content.tell():
        raise InputError(f"{label}: nothing came; check the program that writes the recording")
    content.seek(0)
    return content


def _sounds(file: bytes | BinaryIO, layout: containers.Layout, label: str) -> Iterator[soundfile.SoundFile]:
    """Opens one stream after another; a path only where the file itself is the stream."""
    lowest, highest = RATES
    for segments in layout.streams:
        try:
            viewed = file if isinstance(file, bytes) or layout.plain else containers.ByteView(file, segments)
            sound = soundfile.SoundFile(viewed)
        except soundfile.LibsndfileError as error:
            raise NotAudio(f"{label}: not audio that can be read ({error.error_string}); {_READABLE}") from error
        with sound:
            if len(sound) == _UNKNOWN_LENGTH:
                raise InputError(
                    f"{label}: its header does not say how long it is, as in output to a pipe; encode it to a file"
                )
            if not lowest <= sound.samplerate <= highest:
                raise InputError(
                    f"{label}: its header says {sound.samplerate} samples a second; copy or record it again"
                )
            yield sound


def _unreadable(label: str, error: OSError) -> InputError:
    """The error to raise; raises ``error`` itself if it is no fault of the recording."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise error
    return InputError(f"{label}: {error.strerror}; check the path")
