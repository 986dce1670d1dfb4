"""Transcripts to label indices and back, and texts as people see them.

A label is a character, or several code points that belong together, such as a letter with a combining mark that Unicode
has no single character for. A character outside the labels is never dropped silently: ``encode`` raises, or drops only
what ``unknown`` allows, and ``unknown_characters`` counts such characters for the report. The blank belongs to CTC and
not to the language, so a blank character in a transcript is unknown too.
"""

# ruff: noqa: RUF001, RUF002  # characters that look alike are the subject

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from ds2f.config import BLANK, DEFAULT_LABELS
from ds2f.errors import InputError
from ds2f.scripts import clusters

_ALIKE = ("'’‘ʼ′`´‛", '"“”„″«»‟', "-‐‑‒–—−")  # characters that stand for each other
_SPACED_DASH = re.compile(rf"(?<!\S)[{re.escape(_ALIKE[2])}]+(?!\S)")  # between words, so no part of a word
_TURKISH = {"i": "İ", "ı": "I", "I": "ı", "İ": "i"}  # the other case of a letter
_TURKISH_LOWER = str.maketrans({"I": "ı", "İ": "i"})
_SHOWN = 20  # characters outside the labels that a message names
_JAMO = re.compile("[\u3131-\u318f]")  # letters of Hangul by themselves, which NFKC would change
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
    - Unicode is composed by NFKC (full-width letters, ligatures). If NFKC would change a label, such as the
      compatibility jamo of some Korean label sets, NFC is used.
    - Letters that are no labels take the other case if that is a label. If both cases of any letter are labels, the
      labels tell the cases apart, and no letter changes. Labels with I and İ follow Turkish: i becomes İ, and ı I.
    - Typographic quotation marks, apostrophes and dashes become the label of their kind, if there is exactly one.

    Args:
      transcript: text of one utterance.
      labels: the characters of the model, blank included.

    >>> clean("  don’t\tpanic ")
    "DON'T PANIC"
    >>> clean("straße", tuple("_ABCDEFGHIJKLMNOPQRSTUVWXYZß ")), clean("iyi ılık", tuple("_IİKLY "))
    ('STRAßE', 'İYİ ILIK')
    """
    spelling = _spelling(tuple(labels))
    # NFKC would make an acute accent, which many type for an apostrophe, a space and a combining mark.
    text = transcript.replace("´", "’") if spelling.form == "NFKC" else transcript
    text = unicodedata.normalize(spelling.form, text)
    if spelling.lowers:  # the whole word decides about the Greek final sigma
        text = text.translate(_TURKISH_LOWER).lower() if spelling.turkish else text.lower()
    return " ".join(unicodedata.normalize(spelling.form, text.translate(spelling)).split())


def tells_cases_apart(labels: Sequence[str]) -> bool:
    """Whether both cases of a letter are labels, so that transcripts keep their case."""
    known = set("".join(labels))
    return any(label.islower() and label != label.upper() and label.upper() in known for label in known)


class _Spelling(dict[int, str]):
    """The spelling of a label set: a table for ``str.translate``, which grows with the characters that it meets."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = frozenset(labels) - {BLANK}
        self.longest = max(map(len, labels), default=1)
        self.characters = frozenset("".join(self.labels))
        normal = all(unicodedata.is_normalized("NFKC", label) for label in labels)
        self.form: Literal["NFC", "NFKC"] = "NFKC" if normal else "NFC"
        cased = {each for each in self.characters if len(each.swapcase()) == 1 and each.swapcase() != each}
        has_upper, has_lower = any(map(str.isupper, cased)), any(map(str.islower, cased))
        self.folds = not tells_cases_apart(labels)
        self.lowers = has_lower and not has_upper
        self.uppers = has_upper and not has_lower
        self.turkish = bool({"İ", "ı"} & self.characters)

    def __missing__(self, code: int) -> str:
        self[code] = spelt = self._spelt(chr(code))
        return spelt

    def _spelt(self, character: str) -> str:
        if character in self.characters:
            return character
        alike = [label for kind in _ALIKE if character in kind for label in kind if label in self.characters]
        if len(alike) == 1:
            return alike[0]
        if not self.folds:
            return character
        turkish = _TURKISH.get(character, character)
        candidates = (turkish if self.turkish else character, character.upper(), character.lower())
        for candidate in (*candidates, character.upper().lower()):
            if candidate in self.characters:
                return candidate
        return character.upper() if self.uppers else character.lower() if self.lowers else character

    def cut(self, text: str) -> Iterator[str]:
        """The labels of a text, the longest that fits first; a character that no label spells is left whole."""
        pieces, place = clusters(text), 0
        while place < len(pieces):
            for size in range(min(self.longest, len(pieces) - place), 0, -1):
                label = "".join(pieces[place : place + size])
                if label in self.labels:
                    yield label
                    break
            else:
                size = 1
                yield from pieces[place] if set(pieces[place]) <= self.labels else pieces[place : place + 1]
            place += size


@functools.lru_cache(maxsize=16)
def _spelling(labels: tuple[str, ...]) -> _Spelling:
    return _Spelling(labels)


def units(text: str, labels: Sequence[str]) -> list[str]:
    """A text in the spelling of the labels, cut into labels: at every place the longest that fits.

    A label never ends inside a letter with combining marks, unless each of its code points is a label. Characters that
    no label spells stay whole among the others.

    >>> units("ABCAD", ("_", "A", "AB", "C"))
    ['AB', 'C', 'A', 'D']
    """
    spelling = _spelling(tuple(labels))
    return list(text) if spelling.longest == 1 else list(spelling.cut(text))


def characters(transcripts: Iterable[str], *, language: str = "") -> Counter[str]:
    """The characters of transcripts, counted, in a spelling that suits them as labels.

    Combining marks stay with their letter where Unicode has no single character for both. Where both cases occur, all
    letters are lower case; in Turkish and Azerbaijani (``tr``, ``az``, or where ı or İ occurs), I becomes ı.
    Typographic quotation marks and dashes count as the plain ones; a dash or hyphen between two spaces is punctuation
    and counts as "—". The blank is none of the characters.

    >>> sorted(characters(["Don’t", "panic!"]))
    ['!', "'", 'a', 'c', 'd', 'i', 'n', 'o', 'p', 't']
    >>> sorted(characters(["to-do - now"]))
    [' ', '-', 'd', 'n', 'o', 't', 'w', '—']
    """
    joined = "\n".join(" ".join(transcript.split()) for transcript in transcripts)
    text, dashes = _SPACED_DASH.subn("", joined)
    form: Literal["NFC", "NFKC"] = "NFC" if _JAMO.search(text) else "NFKC"
    found = Counter(clusters(unicodedata.normalize(form, text.replace("´", "’"))))
    del found["\n"]
    if any(map(str.isupper, found)) and any(map(str.islower, found)):
        turkish = language in ("tr", "az") or bool({"ı", "İ"} & found.keys())
        lowered: Counter[str] = Counter()
        for character, number in found.items():
            lower = (character.translate(_TURKISH_LOWER) if turkish else character).lower()
            for each in clusters(unicodedata.normalize(form, lower)):
                lowered[each] += number
        found = lowered
    plain = {ord(character): kind[0] for kind in _ALIKE for character in kind}
    spelt: Counter[str] = Counter()
    for character, number in found.items():
        spelt[character.translate(plain)] += number
    del spelt[BLANK]
    return spelt + Counter({"—": dashes})


def is_punctuation(character: str) -> bool:
    r"""Whether a character is a mark or symbol that is not spoken; apostrophe and hyphen are parts of words.

    Invisible characters are such marks, as soft hyphens and those that change the direction of writing.

    >>> [is_punctuation(character) for character in "!—$\u00ad\u200fa'- "]
    [True, True, True, True, True, False, False, False, False]
    """
    kind = unicodedata.category(character[0])
    return (kind[0] in "PS" or kind == "Cf") and character not in "'-"


def unknown_characters(transcript: str, labels: Sequence[str]) -> Counter[str]:
    """Counts the characters of the cleaned transcript that are outside the labels.

    >>> unknown_characters("it's 42", DEFAULT_LABELS)
    Counter({'4': 1, '2': 1})
    """
    known = set(labels) - {BLANK}
    return Counter(unit for unit in units(clean(transcript, labels), labels) if unit not in known)


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
    spelt = units(clean(transcript, labels), labels)
    index = {label: position for position, label in enumerate(labels) if label != BLANK}
    unlabelled = sorted(set(spelt) - index.keys())
    if unlabelled and unknown == "error":
        raise InputError(
            f"the transcript {_beginning(transcript)!r} has characters outside the labels: "
            f"{' '.join(map(repr, unlabelled[:_SHOWN]))}{' …' if len(unlabelled) > _SHOWN else ''}. "
            "Correct it, add them to the file of --data.labels_path, or pass "
            "--data.unknown_characters=drop_character (or drop_utterance)."
        )
    if unlabelled and unknown == "drop_utterance":
        return None
    if unlabelled:
        spelt = [unit for unit in spelt if unit in index]
        after = (" ", *spelt)  # single spaces, none at either end
        spelt = [unit for unit, before in zip(spelt, after, strict=False) if (unit, before) != (" ", " ")]
        del spelt[len(spelt) - spelt[-1:].count(" ") :]
    return [index[unit] for unit in spelt]


def _beginning(transcript: str) -> str:
    return transcript if len(transcript) <= _BEGINNING else f"{transcript[:_BEGINNING]}…"


def decode(ids: Iterable[int], labels: Sequence[str]) -> str:
    """Joins the characters of label indices: the inverse of ``encode``, up to ``clean`` and dropped characters.

    >>> decode([1, 4, 3, 1, 2], ("_", "A", "B", "C", " "))
    'A CAB'
    """
    return "".join(labels[index] for index in ids)
