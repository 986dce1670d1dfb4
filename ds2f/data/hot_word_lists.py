"""Hot words as people give them: a text file with one a line, or a list."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ds2f.decode import HotWords
from ds2f.decode.hot_words import checked_boost, spelt
from ds2f.errors import InputError
from ds2f.files import read_bounded

_LIMIT = 1 << 18  # bytes of a file; the hot words become a tree with a node per character, in every process


def read_hot_words(given: str, labels: Sequence[str], *, boost: float) -> HotWords:
    """Reads hot words for the labels of a model.

    Args:
      given: the path of a UTF-8 text file, or a list with commas. A name with a slash, or that of a file that is there,
        is a path. In the file, a phrase may have its own boost, after a tab. Empty lines are left out, and lines that
        begin with ``#``.
      labels: the characters of the model, the blank among them.
      boost: of the characters of the other phrases, natural log.

    Raises:
      InputError: the file cannot be read, there are no hot words, or one of them cannot be used; the message names the
        line or the place in the list.
    """
    is_path = os.sep in given or given.endswith(".txt") or os.path.lexists(given)
    entries = _lines(Path(given)) if is_path else _items(given)
    found: dict[str, tuple[float, str]] = {}
    for where, entry in entries:
        phrase, tab, own = entry.partition("\t")
        try:
            word, value = spelt(phrase, labels), _number(own) if tab else checked_boost(boost)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        other, place = found.setdefault(word, (value, where))
        if other != value:
            raise InputError(f"{where}: {word!r} has the boost {value:g}, but {other:g} at {place}; leave out one")
    if not found:
        raise InputError(f"{given}: no hot words; write one a line, or leave out --lm.hot_words")
    return HotWords(tuple((word, value) for word, (value, _) in found.items()), tuple(labels))


def _items(given: str) -> Iterator[tuple[str, str]]:
    for number, item in enumerate(given.split(","), 1):
        yield f"--lm.hot_words={_beginning(given)}: entry {number}", item


def _lines(path: Path) -> Iterable[tuple[str, str]]:
    try:
        content = read_bounded(path, _LIMIT, remedy="Keep the hot words that a recording may have").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start:,}; save it as UTF-8") from error
    except OSError as error:
        raise InputError(
            f"--lm.hot_words={path}: {error.strerror}; give a text file, or a list such as KOWALSKI,NEW YORK"
        ) from error
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"{path}, line {number}", line.rstrip("\r\n")


def _number(own: str) -> float:
    try:
        number = float(own)
    except ValueError:
        raise InputError(f"the boost {own[:20]!r} is no number; after a tab, write one such as 2.5") from None
    return checked_boost(number)


def _beginning(given: str) -> str:
    return given if len(given) <= 60 else f"{given[:60]}…"
