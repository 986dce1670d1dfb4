"""Cuts recordings at given times, from a file: of a program for diarization, of Kaldi or NeMo, or marked by hand."""

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ds2f.data.audio_blocks import Recording
from ds2f.errors import InputError
from ds2f.files import read_bounded
from ds2f.inference.pauses import Samples
from ds2f.inference.pieces import Cutting, Piece, cut
from ds2f.text import shown

_MAX_BYTES = 2**28
_ANY = ""  # the name of every recording
_OTHER_LINES = re.compile(  # of RTTM, that are no speech
    r"(NOSCORE|NO_RT_METADATA|NON-LEX|NON-SPEECH|LEXEME|FILLER|SEGMENT|SPKR-INFO|EDIT|SU|IP|CB|A/P)(\s+\S+){8,}\s*"
)
_FORMS = (
    "a line is RECORDING START END, or START END as Audacity exports labels, or a line of Kaldi's segments, of an RTTM "
    "file or of a NeMo manifest; times in seconds"
)


class Span(NamedTuple):
    """A part of a recording, seconds."""

    begin: float
    end: float
    where: str  # file and line, for messages


def read(path: Path) -> dict[str, list[Span]]:
    """Reads the parts of recordings, by their names; the name "" stands for every recording.

    Args:
      path: a text file, UTF-8. Its lines are of RTTM, Kaldi's ``segments`` (UTTERANCE RECORDING START END), JSON with
        ``audio_filepath``, ``offset`` and ``duration``, or RECORDING START END with tabs or spaces between; START END,
        perhaps with a label, stands for every recording. Lines that begin with # or ;; are left out.

    Raises:
      InputError: the file cannot be read, or a line is none of these or has no duration.
    """
    try:
        content = read_bounded(path, _MAX_BYTES, remedy="Divide it.").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"--segments={path}: {error.strerror}; give a file of segments") from error
    found: dict[str, list[Span]] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip() and not line.startswith(("#", ";;")):
            where = f"{path}:{number}"
            try:
                parsed = _parsed(line)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise InputError(f"{where}: {shown(line[:60])}: {_FORMS}") from error
            if parsed is None:
                continue
            name, begin, end = parsed
            if not 0 <= begin < end < math.inf:
                raise InputError(f"{where}: the part from {begin:g} to {end:g} s is empty; write the line again")
            found.setdefault(name, []).append(Span(begin, end, where))
    if not found:
        raise InputError(f"{path}: no segments; {_FORMS}")
    return {name: sorted(spans) for name, spans in found.items()}


class GivenCuts:
    """Divides a recording into the given parts; one that is too long for a piece is cut further, as ``pieces.cut``.

    Parts may overlap: each is a segment of its own. The memory grows with the longest overlap. A part that lasts beyond
    the end of the recording ends there.
    """

    def __init__(self, spans: Mapping[str, Sequence[Span]], *, cutting: Cutting = Cutting()) -> None:  # noqa: B008
        """Takes the parts as of ``read``, by the path of the recording, its file name, or the name without suffix."""
        self._spans, self._cutting = spans, cutting

    def __call__(self, recording: Recording, /, *, rate: int, grid: int) -> Iterator[Piece]:
        """The pieces, in the order of the parts' beginnings.

        Raises:
          InputError: no part belongs to the recording, or one begins after its end; as reading the recording.
        """
        spans = self._of(recording.label)
        reader = _Reader(recording)
        for span, following in itertools.zip_longest(spans, spans[1:]):
            begin, end = round(span.begin * rate), round(span.end * rate)
            blocks = reader.between(begin, end, keep=round(following.begin * rate) if following else end)
            for piece in cut(blocks, rate=rate, grid=grid, cutting=self._cutting):
                yield piece._replace(begin=begin + piece.begin, end=begin + piece.end)
            if reader.read <= begin:
                raise InputError(
                    f"{recording.label}: {span.where}: the part from {span.begin:g} s begins after the end of the "
                    f"recording, {reader.read / rate:.2f} s"
                )
        reader.finish()

    def _of(self, label: str) -> Sequence[Span]:
        path = Path(label)
        for name in (label, path.name, path.stem, _ANY):
            if name in self._spans:
                return self._spans[name]
        raise InputError(f"{label}: has no line in the file of segments; name it there {path.stem}, or leave it out")


class _Reader:
    """Reads blocks once, and holds the samples that are still needed.

    Attributes:
      read: samples read so far.
    """

    def __init__(self, blocks: Iterable[Samples]) -> None:
        """Reads nothing yet."""
        self._blocks = iter(blocks)
        self._held: list[Samples] = []  # the last blocks, whole
        self.read = 0

    def between(self, begin: int, end: int, *, keep: int) -> Iterator[Samples]:
        """The samples from ``begin`` to ``end``, fewer at the end; holds those from ``keep`` on for the next call."""
        position = begin
        while position < end:
            held_from = self.read - sum(map(len, self._held))
            if position >= self.read:
                block = next(self._blocks, None)
                if block is None:
                    return
                self._held.append(block)
                self.read += len(block)
                while self._held and held_from + len(self._held[0]) <= min(keep, position):
                    held_from += len(self._held.pop(0))
                continue
            for block in list(self._held):
                part = block[max(position - held_from, 0) : max(end - held_from, 0)]
                held_from += len(block)
                if len(part) and held_from > position:
                    position += len(part)
                    yield part

    def finish(self) -> None:
        """Reads to the end: a fault there is a fault of the recording."""
        self._held.clear()
        for block in self._blocks:
            self.read += len(block)


def _parsed(line: str) -> tuple[str, float, float] | None:
    """Name, begin and end of a line; None for lines of RTTM that are no speech."""
    if line.lstrip().startswith("{"):
        entry = json.loads(line)
        begin = float(entry.get("offset", 0.0))
        return str(entry["audio_filepath"]), begin, begin + float(entry["duration"])
    fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
    if _OTHER_LINES.fullmatch(line):
        return None
    if fields[0] == "SPEAKER":
        begin = float(fields[3])
        return fields[1], begin, begin + float(fields[4])
    if len(fields) == 4 and _is_number(fields[2]) and _is_number(fields[3]):
        return fields[1], float(fields[2]), float(fields[3])
    if _is_number(fields[0]) and _is_number(fields[1]) and not (len(fields) == 3 and _is_number(fields[2])):
        return _ANY, float(fields[0]), float(fields[1])
    if len(fields) != 3:
        raise ValueError(line)
    return fields[0], float(fields[1]), float(fields[2])


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
