"""Transcripts as text: pure functions from a recording's name and ``Transcript`` to the content of a file.

Every format has a reader elsewhere: players read SRT and WebVTT, NIST's sclite CTM and trn, Praat TextGrid.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from ds2f.files import json_text
from ds2f.inference.transcript import Final, Result, Segment, Transcript, Word
from ds2f.scripts import width
from ds2f.text import shown

_LINE = 42  # columns of a line of subtitles, as broadcasters have it
_SHORTEST = 0.001  # seconds of an interval of Praat's
_CUE_SECONDS = 7.0  # longest time that a cue is shown


class Format(NamedTuple):
    """A format of transcripts."""

    write: Callable[[str, Transcript], str]  # (name of the recording, its transcript) -> content with a line break
    suffix: str  # of files
    header: str = ""  # what stands once before the recordings, where several share an output
    several: bool = True  # an output may hold several recordings


def text(_: str, transcript: Transcript) -> str:
    """The text alone, on one line."""
    return f"{transcript.text}\n"


def json_object(name: str, transcript: Transcript) -> str:
    """A JSON object, indented."""
    return json_text(as_dict(name, transcript), indent=2, ascii_only=False) + "\n"


def json_line(name: str, transcript: Transcript) -> str:
    """A JSON object on one line."""
    return json_text(as_dict(name, transcript), ascii_only=False) + "\n"


def srt(_: str, transcript: Transcript) -> str:
    """SubRip subtitles."""
    cues = [
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_lines(cue)}\n"
        for number, cue in enumerate(_cues(transcript), start=1)
    ]
    return "\n".join(cues)


def vtt(_: str, transcript: Transcript) -> str:
    """WebVTT subtitles, https://www.w3.org/TR/webvtt1/."""
    cues = [
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_escape_vtt(_lines(cue))}\n"
        for cue in _cues(transcript)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def ctm(name: str, transcript: Transcript) -> str:
    """NIST's time-marked words: recording, channel, start, duration, word, confidence."""
    recording = _field(PurePath(name).stem)
    return "".join(
        f"{recording} 1 {word.start:.3f} {max(0.0, word.end - word.start):.3f} {word.text} {word.confidence:.4f}\n"
        for word in transcript.words
    )


def trn(name: str, transcript: Transcript) -> str:
    """NIST's transcripts: the text, then the recording in parentheses."""
    return f"{transcript.text} ({_field(PurePath(name).stem)})\n"


def tsv(name: str, transcript: Transcript) -> str:
    """A row per word, tab-separated: recording, start and end in milliseconds, word, confidence."""
    return "".join(
        f"{shown(name)}\t{1000 * word.start:.0f}\t{1000 * word.end:.0f}\t{word.text}\t{word.confidence:.4f}\n"
        for word in transcript.words
    )


def textgrid(_: str, transcript: Transcript) -> str:
    """Praat's TextGrid with two tiers, ``segments`` and ``words``."""
    tiers = {
        "segments": [(segment.start, segment.end, segment.text) for segment in transcript.segments],
        "words": [(word.start, word.end, word.text) for word in transcript.words],
    }
    end = max([transcript.duration, *(interval[1] for tier in tiers.values() for interval in tier)])
    whole = {tier: list(_gapless(intervals, end)) for tier, intervals in tiers.items()}
    end = max([end, *(intervals[-1][1] for intervals in whole.values() if intervals)])
    whole = {tier: list(_gapless(intervals, end)) for tier, intervals in tiers.items()}
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = {end:.3f}\n'
    lines = [head + f"tiers? <exists>\nsize = {len(tiers)}\nitem []:\n"]
    for number, (tier, intervals) in enumerate(whole.items(), start=1):
        lines.append(f'    item [{number}]:\n        class = "IntervalTier"\n        name = "{tier}"\n')
        lines.append(f"        xmin = 0\n        xmax = {end:.3f}\n        intervals: size = {len(intervals)}\n")
        for index, (start, stop, spoken) in enumerate(intervals, start=1):
            quoted = spoken.replace('"', '""')
            lines.append(
                f"        intervals [{index}]:\n            xmin = {start:.3f}\n            xmax = {stop:.3f}\n"
            )
            lines.append(f'            text = "{quoted}"\n')
    return "".join(lines)


FORMATS = {
    "text": Format(text, ".txt"),
    "json": Format(json_object, ".json", several=False),
    "jsonl": Format(json_line, ".jsonl"),
    "srt": Format(srt, ".srt", several=False),
    "vtt": Format(vtt, ".vtt", several=False),
    "ctm": Format(ctm, ".ctm"),
    "trn": Format(trn, ".trn"),
    "tsv": Format(tsv, ".tsv", "recording\tstart_ms\tend_ms\tword\tconfidence\n"),
    "textgrid": Format(textgrid, ".TextGrid", several=False),
}


def as_dict(name: str, transcript: Transcript) -> dict[str, Any]:
    """The transcript as plain values, times rounded to milliseconds."""
    return {
        "audio": name,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "segments": [_segment(segment) for segment in transcript.segments],
        **({"notes": list(transcript.notes)} if transcript.notes else {}),
    }


def json_result(result: Result) -> str:
    """A result of a stream as a JSON object on one line: type ("partial" or "final"), start, end and text.

    A final also has its words as in a transcript, and ``last``, which is true at the recording's end.
    """
    if isinstance(result, Final):
        found = {"type": "final", **_segment(result.segment), "last": result.last}
    else:
        found = {"type": "partial", "start": round(result.start, 3), "end": round(result.end, 3), "text": result.text}
    return json_text(found, ascii_only=False)


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "words": [
            {
                "word": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": round(word.confidence, 4),
            }
            for word in segment.words
        ],
        **({"alternatives": list(segment.alternatives)} if segment.alternatives else {}),
    }


def _cues(transcript: Transcript) -> Iterator[Segment]:
    """Divides the segments into cues of at most two lines and seven seconds."""
    for segment in transcript.segments:
        cue: list[Word] = []
        for word in segment.words:
            if cue and (word.end - cue[0].start > _CUE_SECONDS or _rows([*cue, word]) > 2):
                yield Segment(cue[0].start, cue[-1].end, tuple(cue))
                cue = []
            cue.append(word)
        if cue:
            yield Segment(cue[0].start, cue[-1].end, tuple(cue))


def _rows(words: Sequence[Word]) -> int:
    return len(_wrapped(words))


def _lines(cue: Segment) -> str:
    return "\n".join(_wrapped(cue.words))


def _wrapped(words: Sequence[Word]) -> list[str]:
    """Words on lines of at most ``_LINE`` columns; a longer word has a line of its own."""
    lines: list[str] = []
    for word in words:
        between = "" if word.glued else " "
        if lines and width(lines[-1] + between + word.text) <= _LINE:
            lines[-1] += between + word.text
        else:
            lines.append(word.text)
    return lines


def _clock(seconds: float, point: str) -> str:
    """Hours, minutes, seconds, milliseconds: ``00:00:01.500``."""
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"


def _escape_vtt(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def unique_fields(names: Sequence[str]) -> list[str]:
    """Names of recordings for NIST's formats: without folder and suffix, numbered if two would be the same.

    >>> unique_fields(["a/one.wav", "a/two.wav"]), unique_fields(["a/one.wav", "b/one.wav"])
    (['one', 'two'], ['one_1', 'one_2'])
    """
    fields = [_field(PurePath(name).stem) for name in names]
    if len({field.lower() for field in fields}) == len(fields):  # sclite takes no notice of case
        return fields
    return [f"{field}_{number}" for number, field in enumerate(fields, start=1)]


def _field(name: str) -> str:
    """A name without what separates fields in NIST's formats."""
    return re.sub(r"[\s();]", "_", shown(name)) or "_"


def _gapless(intervals: Sequence[tuple[float, float, str]], end: float) -> Iterator[tuple[float, float, str]]:
    """The intervals with empty ones between them, from 0 to ``end`` or beyond.

    An overlap ends with the earlier interval. An interval without room has the shortest one: none is left out.
    """
    reached = 0.0
    for start, stop, spoken in intervals:
        start = max(start, reached)
        stop = max(stop, start + _SHORTEST)
        if start > reached:
            yield reached, start, ""
        yield start, stop, spoken
        reached = stop
    if reached < end:
        yield reached, end, ""
