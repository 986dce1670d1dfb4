"""OpenAI's transcription form and its answers, https://platform.openai.com/docs/api-reference/audio."""

import zlib
from collections.abc import Mapping
from math import exp, log
from typing import Any, BinaryIO, NamedTuple

from starlette.datastructures import FormData, UploadFile

from ds2f.files import json_text
from ds2f.inference import Segment, Transcript, formats
from ds2f.serving.api_errors import ApiError

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
GRANULARITIES = ("word", "segment")
_MOST_CHARACTERS = 10_000  # of a field of text
_MOST_ALTERNATIVES = 20
_LEAST_CONFIDENCE = 1e-6

# Fields of the form in the OpenAPI document.
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "WAV, FLAC, OGG, MP3, NIST SPHERE and others."},
        "model": {"type": "string", "description": "Any name: the server has one model."},
        "language": {"type": "string", "description": "Given back in verbose_json; the model knows one language."},
        "prompt": {"type": "string", "description": "Hot words, separated by commas or line breaks."},
        "response_format": {"type": "string", "enum": list(FORMATS), "default": "json"},
        "timestamp_granularities[]": {
            "type": "array",
            "items": {"type": "string", "enum": list(GRANULARITIES)},
            "description": "With verbose_json: whether words, segments (the default) or both are listed.",
        },
        "stream": {
            "type": "boolean",
            "default": False,
            "description": "With json: the answer is two server-sent events, transcript.text.delta and .done.",
        },
        "temperature": {"type": "number", "minimum": 0, "maximum": 1, "description": "Has no effect."},
        "nbest": {
            "type": "integer",
            "minimum": 1,
            "maximum": _MOST_ALTERNATIVES,
            "description": "With verbose_json, alternatives of each segment; the server needs --lm.decoder=beam.",
        },
    },
}


class Asked(NamedTuple):
    """A request for a transcript."""

    file: BinaryIO
    form: str = "json"
    language: str = ""
    hot_words: tuple[str, ...] = ()
    granularities: frozenset[str] = frozenset({"segment"})
    nbest: int = 1
    stream: bool = False


def parse(form: FormData) -> Asked:
    """Reads the fields of a form; fields that are not of the schema are left out.

    Raises:
      ApiError: a field is missing or wrong.
    """
    file = _file(form, "file")
    response_format = _text(form, "response_format") or "json"
    if response_format not in FORMATS:
        raise _wrong("response_format", f"must be one of {', '.join(FORMATS)}")
    granularities = [
        value for name in ("timestamp_granularities[]", "timestamp_granularities") for value in form.getlist(name)
    ]
    if not set(granularities) <= set(GRANULARITIES):
        raise _wrong("timestamp_granularities[]", f"must be among {', '.join(GRANULARITIES)}")
    if granularities and response_format != "verbose_json":
        raise _wrong("timestamp_granularities[]", "needs response_format=verbose_json")
    _number(form, "temperature", 0, 1)
    nbest = _number(form, "nbest", 1, _MOST_ALTERNATIVES)
    if nbest is not None and (nbest != int(nbest) or response_format != "verbose_json"):
        raise _wrong("nbest", "must be a whole number, with response_format=verbose_json")
    stream = _boolean(form, "stream")
    if stream and response_format != "json":
        raise _wrong("stream", "needs response_format=json")
    _text(form, "model")
    return Asked(
        file,
        response_format,
        _text(form, "language"),
        split_hot_words(_text(form, "prompt")),
        frozenset(map(str, granularities)) or Asked._field_defaults["granularities"],
        int(nbest or 1),
        stream,
    )


def split_hot_words(prompt: str) -> tuple[str, ...]:
    """The words and phrases of a prompt.

    >>> split_hot_words("Kowalski, New York")
    ('Kowalski', 'New York')
    """
    return tuple(part.strip() for part in prompt.replace("\n", ",").split(",") if part.strip())


def answer(asked: Asked, transcript: Transcript) -> tuple[str | dict[str, Any], str]:
    """The body of the answer, a dictionary for JSON, and its media type."""
    if asked.stream:
        return _events(transcript.text), "text/event-stream; charset=utf-8"
    match asked.form:
        case "text":
            return f"{transcript.text}\n", "text/plain; charset=utf-8"
        case "srt":
            return formats.srt("", transcript), "application/x-subrip; charset=utf-8"
        case "vtt":
            return formats.vtt("", transcript), "text/vtt; charset=utf-8"
        case "verbose_json":
            return _verbose(asked, transcript), "application/json"
    return {"text": transcript.text}, "application/json"


def _events(text: str) -> str:
    """The events of OpenAI's ``stream``. The transcript is whole by then: it is one part."""
    events = ({"type": "transcript.text.delta", "delta": text}, {"type": "transcript.text.done", "text": text})
    return "".join(f"event: {event['type']}\ndata: {json_text(event)}\n\n" for event in events)


def _verbose(asked: Asked, transcript: Transcript) -> dict[str, Any]:
    found: dict[str, Any] = {
        "task": "transcribe",
        "language": asked.language or "unknown",
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
    }
    if transcript.notes:
        found["notes"] = list(transcript.notes)
    if "word" in asked.granularities:
        found["words"] = [
            {
                "word": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": round(word.confidence, 4),
            }
            for word in transcript.words
        ]
    if "segment" in asked.granularities:
        found["segments"] = [_segment(number, segment) for number, segment in enumerate(transcript.segments)]
    return found


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    """A segment with all fields of OpenAI's; fields of Whisper's decoder say what they can of this one."""
    logs = [log(max(word.confidence, _LEAST_CONFIDENCE)) for word in segment.words]
    mean = sum(logs) / len(logs) if logs else 0.0
    encoded = segment.text.encode()
    return {
        "id": number,
        "seek": round(100 * segment.start),  # hundredths of a second, as Whisper's
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": [],  # of Whisper's vocabulary
        "temperature": 0.0,
        "avg_logprob": round(mean, 4),  # of a word
        "compression_ratio": round(len(encoded) / len(zlib.compress(encoded)), 4),
        "no_speech_prob": round(1 - exp(mean), 4) if logs else 1.0,
        **({"alternatives": list(segment.alternatives)} if segment.alternatives else {}),
    }


def _file(form: FormData, name: str) -> BinaryIO:
    value = form.get(name)
    if not isinstance(value, UploadFile):
        raise _wrong(name, "is missing: send the recording as a file of the multipart form")
    return value.file


def _text(form: FormData, name: str) -> str:
    values = form.getlist(name)
    if len(values) > 1 or not all(isinstance(value, str) for value in values):
        raise _wrong(name, "must be one field of text")
    value = str(values[0]) if values else ""
    if len(value) > _MOST_CHARACTERS:
        raise _wrong(name, f"is longer than {_MOST_CHARACTERS:,} characters")
    return value


def _boolean(form: FormData, name: str) -> bool:
    text = _text(form, name).lower()
    if text not in ("", "true", "false", "1", "0"):
        raise _wrong(name, "must be true or false")
    return text in ("true", "1")


def _number(form: FormData, name: str, lowest: float, highest: float) -> float | None:
    text = _text(form, name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not lowest <= value <= highest:
        raise _wrong(name, f"must be a number from {lowest:g} to {highest:g}")
    return value


def _wrong(name: str, problem: str) -> ApiError:
    return ApiError(400, f"{name}: {problem}", "invalid_value", param=name)
