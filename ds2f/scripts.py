"""Scripts of the world: what a character is to a reader, what a word is, and how wide a text is shown."""

import functools
import unicodedata

_JOINERS = "\u200c\u200d"  # zero width, parts of the character before them in Indic scripts and Persian
# Scripts whose characters are words, as the Unicode names of their characters begin.
_OF_CHARACTERS = ("CJK ", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "BOPOMOFO")


def clusters(text: str) -> list[str]:
    """A text cut into characters as readers count them: a letter with the combining marks and joiners after it.

    >>> clusters("हिन्दी")
    ['हि', 'न्', 'दी']
    """
    if text.isascii():
        return list(text)
    found: list[str] = []
    for character in text:
        if found and _extends(character) and not found[-1].isspace():
            found[-1] += character
        else:
            found.append(character)
    return found


@functools.lru_cache(maxsize=1 << 16)
def _extends(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character)[0] == "M"


def words(text: str) -> list[str]:
    """The words of a text, for counting and timing: between spaces, and each character of Chinese and Japanese.

    >>> words("打开 WIFI 卡拉OK"), words("TWO WORDS")
    (['打', '开', 'WIFI', '卡', '拉OK'], ['TWO', 'WORDS'])
    """
    found: list[str] = []
    for stretch in text.split():
        start = 0
        for place in range(1, len(stretch) + 1):
            if place == len(stretch) or ends_word(stretch[place - 1], stretch[place]):
                found.append(stretch[start:place])
                start = place
    return found


@functools.lru_cache(maxsize=1 << 16)
def ends_word(before: str, after: str) -> bool:
    """Whether a word ends between two characters without a space: both are of a script whose characters are words."""
    return all(unicodedata.name(each[0], "").startswith(_OF_CHARACTERS) for each in (before, after))


def width(text: str) -> int:
    """Columns of a text on a terminal or in subtitles: two for a wide character, none for a combining mark.

    >>> width("AB"), width("打开"), width("e\u0301")
    (2, 4, 1)
    """
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(unicodedata.category(each) in ("Mn", "Me", "Cf") for each in text)
