"""Transcripts to label indices and back.

A character outside the labels is never dropped silently: ``encode`` raises, or drops only what ``unknown`` allows, and
``unknown_characters`` counts such characters for the report. The blank belongs to CTC and not to the language, so a
blank character in a transcript is unknown too.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from ds2f.config import BLANK, DEFAULT_LABELS
from ds2f.errors import InputError

_SHOWN = 20  # characters outside the labels that a message names
_BEGINNING = 200  # characters of a transcript that a message quotes


def clean(transcript: str, labels: Sequence[str] = DEFAULT_LABELS) -> str:
    """Normalises a transcript to the spelling of a label set; idempotent.

    - White space is stripped and collapsed to single spaces.
    - Letters become upper case if the labels have no lower case, and lower case if the labels have no upper case.
    - Unicode is composed by NFKC (full-width letters, ligatures). If NFKC would change a label, such as the
      compatibility jamo of some Korean label sets, NFC is used.

    Args:
      transcript: text of one utterance.
      labels: the characters of the model, blank included.

    >>> clean("  don't\tpanic ")
    "DON'T PANIC"
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
    """Counts the characters of the cleaned transcript that are outside the labels.

    >>> unknown_characters("it's 42", DEFAULT_LABELS)
    Counter({'4': 1, '2': 1})
    """
    known = set(labels) - {BLANK}
    return Counter(character for character in clean(transcript, labels) if character not in known)


def encode(transcript: str, labels: Sequence[str], *, unknown: str = "error") -> list[int] | None:
    """Cleans a transcript and returns the indices of its characters among the labels.

    Unlike the encoder of deepspeech.pytorch, which loses label 0 and every unknown character.

    Args:
      transcript: text of one utterance.
      labels: the characters of the model, blank included, in any order.
      unknown: the effect of a character outside the labels, or of the blank's character: ``"error"`` raises,
        ``"drop_character"`` omits the character, ``"drop_utterance"`` returns ``None``.

    Returns:
      The indices, or ``None`` for an utterance to drop. The caller counts the dropped characters with
      ``unknown_characters``.

    Raises:
      InputError: under ``"error"``; the message names the characters and the remedies. The caller adds the file.

    >>> encode("a cab", ("_", "A", "B", "C", " "))
    [1, 4, 3, 1, 2]
    >>> encode("a cabin", ("_", "A", "B", "C", " "), unknown="drop_character")
    [1, 4, 3, 1, 2]
    """
    if unknown not in ("error", "drop_character", "drop_utterance"):
        raise InputError(f"data.unknown_characters: {unknown!r} is not one of error, drop_character, drop_utterance")
    text = clean(transcript, labels)
    index = {label: position for position, label in enumerate(labels) if label != BLANK}
    unlabelled = sorted(set(text) - index.keys())
    if unlabelled and unknown == "error":
        raise InputError(
            f"the transcript {_beginning(transcript)!r} has characters outside the labels: "
            f"{' '.join(map(repr, unlabelled[:_SHOWN]))}{' …' if len(unlabelled) > _SHOWN else ''}. "
            "Correct it, add them to the file of --data.labels_path, or pass "
            "--data.unknown_characters=drop_character (or drop_utterance)."
        )
    if unlabelled and unknown == "drop_utterance":
        return None
    kept = "".join(character for character in text if character in index)
    return [index[character] for character in " ".join(kept.split())]


def _beginning(transcript: str) -> str:
    return transcript if len(transcript) <= _BEGINNING else f"{transcript[:_BEGINNING]}…"


def decode(ids: Iterable[int], labels: Sequence[str]) -> str:
    """Joins the characters of label indices: the inverse of ``encode``, up to ``clean`` and dropped characters.

    >>> decode([1, 4, 3, 1, 2], ("_", "A", "B", "C", " "))
    'A CAB'
    """
    return "".join(labels[index] for index in ids)
