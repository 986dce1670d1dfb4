"""Lists of labels: the characters of transcripts, written to a file."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ds2f import text
from ds2f.config import BLANK
from ds2f.errors import InputError
from ds2f.files import json_text, write_atomically


def characters(transcripts: Sequence[str], *, language: str = "", numerals: str = "keep") -> Counter[str]:
    """The characters of transcripts, counted, in the spelling of labels.

    Args:
      transcripts: the texts.
      language: ISO 639 code, which decides how letters change their case; empty: by the texts.
      numerals: ``keep`` digits, or ``refuse`` them: they are spoken in many ways.

    Raises:
      InputError: transcripts have digits, and these are refused.
    """
    digits = [transcript for transcript in transcripts if any(map(str.isdigit, transcript))]
    if digits and numerals == "refuse":
        raise InputError(
            f"{len(digits):,} of {len(transcripts):,} transcripts have digits, such as {digits[0][:80]!r}: spell them "
            "out as they are spoken, or pass --numerals=keep"
        )
    return text.characters(transcripts, language=language)


def of(characters: Iterable[str], *, punctuation: bool = False) -> tuple[str, ...]:
    """The labels of characters: the blank, and the characters, sorted; without punctuation unless asked for."""
    return (BLANK, *sorted(each for each in characters if punctuation or not text.is_punctuation(each)))


def write(path: Path, labels: Sequence[str]) -> None:
    """Writes a list of labels, as ``--data.labels_path`` reads it: all of it or, when interrupted, none of it."""
    write_atomically(path, json_text(labels, ascii_only=False) + "\n", fsync=True)
