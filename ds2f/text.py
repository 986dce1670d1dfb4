"""Transcripts to label ids and back.

A character that is not among the labels is never dropped in silence: ``encode`` stops at it, or drops what the caller
allowed it to drop, and ``unknown_characters`` counts it for the report. The blank is a label of the network's and not
of any language, so a blank character in a transcript is unknown like any other.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from ds2f.config import BLANK, DEFAULT_LABELS
from ds2f.errors import InputError


def clean(transcript: str, labels: Sequence[str] = DEFAULT_LABELS) -> str:
    """Normalises a transcript to the spelling of a label set; cleaning twice changes nothing.

    White space is stripped and collapsed to single spaces. Letters are raised to upper case when the labels know no
    lower case, and lowered when they know no upper case. Unicode is composed by NFKC (full-width letters, ligatures),
    or by NFC where NFKC would take a label itself away, as it does with the compatibility jamo of some Korean sets.

    Args:
      transcript: text of one utterance.
      labels: the characters of the model, blank included.
    """
    form: Literal["NFC", "NFKC"] = (
        "NFKC" if all(unicodedata.is_normalized("NFKC", label) for label in labels) else "NFC"
    )
    has_upper, has_lower = any(label.isupper() for label in labels), any(label.islower() for label in labels)
    text = unicodedata.normalize(form, transcript)
    if has_upper and not has_lower:
        text = text.upper()
    elif has_lower and not has_upper:
        text = text.lower()
    return " ".join(unicodedata.normalize(form, text).split())


def unknown_characters(transcript: str, labels: Sequence[str]) -> Counter[str]:
    """Counts the characters of the cleaned transcript that no label stands for; such counters can be added."""
    known = set(labels) - {BLANK}
    return Counter(character for character in clean(transcript, labels) if character not in known)


def encode(transcript: str, labels: Sequence[str], *, unknown: str = "error") -> list[int] | None:
    """Turns a transcript, after ``clean``, into the indices of its characters among the labels.

    Unlike deepspeech.pytorch's, which loses label 0 and every character that it does not know.

    Args:
      transcript: text of one utterance.
      labels: the characters of the model, blank included, in any order.
      unknown: what a character outside the labels (or the blank's) does: ``"error"`` raises, ``"drop_character"``
        leaves it out, ``"drop_utterance"`` makes the result ``None``.

    Returns:
      The indices, or ``None`` for an utterance that is to be dropped. The caller counts what is dropped, with
      ``unknown_characters``.

    Raises:
      InputError: under ``"error"``; the message names the characters and the remedies, and the caller the file.
    """
    if unknown not in ("error", "drop_character", "drop_utterance"):
        raise InputError(f"data.unknown_characters: {unknown!r} is not one of error, drop_character, drop_utterance")
    text = clean(transcript, labels)
    index = {label: position for position, label in enumerate(labels) if label != BLANK}
    strange = sorted(set(text) - index.keys())
    if strange and unknown == "error":
        raise InputError(
            f"the transcript {transcript!r} has characters outside the labels: {' '.join(map(repr, strange))}. "
            "Correct it, add them to the file of --data.labels_path, or pass "
            "--data.unknown_characters=drop_character (or drop_utterance)."
        )
    if strange and unknown == "drop_utterance":
        return None
    kept = "".join(character for character in text if character in index)
    return [index[character] for character in " ".join(kept.split())]


def decode(ids: Iterable[int], labels: Sequence[str]) -> str:
    """The text that label indices stand for: the inverse of ``encode`` on a cleaned transcript of known characters."""
    return "".join(labels[index] for index in ids)
