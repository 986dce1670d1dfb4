"""Labels of recordings of one's own: the characters of the transcripts, in a file."""

from collections.abc import Iterable
from pathlib import Path

from ds2f import text
from ds2f.config import BLANK
from ds2f.files import json_text, write_atomically


def write_labels(path: Path, characters: Iterable[str], *, punctuation: bool = False) -> tuple[str, ...]:
    """Writes and returns labels: the blank and the characters, sorted; without punctuation unless asked for."""
    labels = (BLANK, *sorted(each for each in characters if punctuation or not text.is_punctuation(each)))
    write_atomically(path, json_text(labels, ascii_only=False) + "\n", fsync=True)
    return labels
