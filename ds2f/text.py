"""Transcripts to label indices and back, and texts as people see them.

A character outside the labels is never dropped silently: ``encode`` raises, or drops only what ``unknown`` allows, and
``unknown_characters`` counts such characters for the report. The blank belongs to CTC and not to the language, so a
blank character in a transcript is unknown too.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from ds2f.config import BLANK, DEFAULT_LABELS
from ds2f.errors import InputError

_SHOWN = 20  # characters outside the labels that a message names
_BEGINNING = 200  # characters of a transcript that a message quotes


# Control characters (escape sequences begin with one), separators of lines and paragraphs, characters that reverse the
# direction of writing, and lone surrogates, which stand for the bytes of names that are not UTF-8.
_HIDDEN = r"\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_HIDDEN_IN_LINE = re.compile(rf"[{_HIDDEN}\n]")
_HIDDEN_IN_LINES = re.compile(rf"[{_HIDDEN}]|\n(?!  )")


def shown(text: str, *, lines: bool = False) -> str:
    r"""The text as people see it on a terminal, in a log or in a table: what would act or hide there is escaped.

    Names and transcripts come from outside. An escape sequence in them could rewrite the terminal, a line break could
    forge a line of the log. Applying the function twice changes nothing more.

    Args:
      text: any text; a path that is not UTF-8 has lone surrogates in place of its bytes.
      lines: keep line breaks before two spaces, with which the project's own messages continue.

    >>> shown("a\tb\x1b[31m\n") == r"a\x09b\x1b[31m\x0a"
    True
    >>> shown("caf\udce9 \u202e") == r"caf\xe9 \u202e"
    True
    """
    return (_HIDDEN_IN_LINES if lines else _HIDDEN_IN_LINE).sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # PEP 383
    return f"\\x{byte:02x}" if byte < 0x100 else f"\\u{byte:04x}"


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
