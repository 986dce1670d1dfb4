"""Words of a decoded stretch with times and confidences, and which of them are right. Pure functions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds2f import decode, scripts
from ds2f.inference.confidence import Calibration, confidence
from ds2f.inference.transcript import Word
from ds2f.metrics import count_errors, edit_path

_Span = tuple[float, float]  # start and end, seconds


def timed_words(
    log_probs: NDArray[np.floating],
    tokens: Sequence[int],
    labels: Sequence[str],
    *,
    frame: float,
    begin: float = 0.0,
    end: float = float("inf"),
    calibration: Calibration = Calibration(),  # noqa: B008  immutable
) -> tuple[Word, ...]:
    """Places the words of a transcript in time, by forced alignment.

    Args:
      log_probs: [T', V] of one stretch, natural log, normalised.
      tokens: label indices of the transcript.
      labels: the V characters, the blank among them.
      frame: seconds of a frame of logits.
      begin: beginning of the stretch, seconds.
      end: its end; no word lasts longer. A word lasts a frame at least: at an edge of the stretch, where a correction
        would cut it off, it is moved less.
      calibration: of the confidences and times.

    Returns:
      The words of the text, ``ds2f.scripts.words``, each confidence strictly between 0 and 1.
    """
    found = decode.words(log_probs, tokens, labels)
    spans = [(begin + word.begin * frame, begin + word.end * frame) for word in found]
    spans = _earlier(spans, max(calibration.delay, 0.0), bound=begin, least=frame)
    spans = _mirrored(_earlier(_mirrored(spans), max(-calibration.delay, 0.0), bound=-end, least=frame))
    return tuple(
        Word(word.text, max(start, begin), max(stop, begin), confidence(word.score, calibration), word.glued)
        for word, (start, stop) in zip(found, spans, strict=True)
    )


def _earlier(spans: Sequence[_Span], seconds: float, *, bound: float, least: float) -> list[_Span]:
    """Moves spans to the left, none past the bound or into another; one that is cut off there keeps ``least`` seconds.

    >>> _earlier([(0.1, 0.2), (0.3, 0.5)], 0.25, bound=0.0, least=0.125)
    [(0.0, 0.125), (0.125, 0.25)]
    """
    moved = []
    for start, stop in spans:
        begin = max(start - seconds, bound)
        bound = max(stop - seconds, begin + least)
        moved.append((begin, bound))
    return moved


def _mirrored(spans: Sequence[_Span]) -> list[_Span]:
    return [(-stop, -start) for start, stop in reversed(spans)]


def are_right(reference: str, words: Sequence[str]) -> list[bool]:
    """Whether each word of a transcript is right, by the edit path to its reference.

    >>> are_right("ONE TWO THREE", ["ONE", "TOO", "TWO"])
    [True, False, True]
    """
    return [pair.is_hit for pair in edit_path(scripts.words(reference), words) if pair.heard is not None]


def scored_transcript(audio: str, reference: str, transcript: str, words: Sequence[Word]) -> dict[str, Any]:
    """An utterance with its errors as plain values, for JSON.

    Args:
      audio: path of the recording.
      reference: the correct transcript.
      transcript: the recognised one.
      words: the words of ``transcript``.

    Returns:
      Both texts, counts of errors, and the edit path. Of its pairs, ``said`` is null for an insertion and ``heard`` for
      a deletion. A word that was heard has start, end (seconds) and confidence.
    """
    heard = iter(words)
    pairs = []
    for pair in edit_path(scripts.words(reference), [word.text for word in words]):
        placed: dict[str, Any] = {}
        if pair.heard is not None:
            word = next(heard)
            placed = {
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": round(word.confidence, 4),
            }
        pairs.append(pair._asdict() | placed)
    texts = {"audio": audio, "reference": reference, "transcript": transcript}
    return texts | count_errors(reference, transcript)._asdict() | {"alignment": pairs}
