"""n-gram language models: an ARPA file, opened by the KenLM that flashlight-text carries."""

import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ds2f import text
from ds2f.decode.flashlight_text import LanguageModel, import_flashlight
from ds2f.errors import InputError
from ds2f.files import open_regular

SPACE = "<space>"  # the token for the space between words in a character model
_LONGEST_WORD = 1000  # characters; the decoder's trie calls itself once per character
_LINE = 1 << 16  # bytes of an ARPA file without the end of a line, at most
_SHORTEST = 4  # bytes of an n-gram's line: a digit, a tab, a character, the end of the line
_COUNT = re.compile(r"ngram\s+(\d{1,2})\s*=\s*(\d{1,18})\s*")
_CHARACTERS, _WORDS = 0.5, 0.1  # the least share of what a model expects that the labels can spell
_MARKS = {"<s>", "</s>", "<unk>"}  # tokens of every ARPA file that are neither words nor characters


def open_language_model(path: Path | str, labels: Sequence[str]) -> LanguageModel:
    """Opens an ARPA file, as ``launch.build_lm`` or any toolkit writes it.

    A model with ``<space>`` among its unigrams is a character model, any other a word model. The unigrams of a word
    model are its lexicon.

    Args:
      path: the file.
      labels: characters of the acoustic model, the blank among them.

    Raises:
      InputError: the file cannot be read, is not ARPA, or is of another language or script: the labels spell less than
        half of the characters that it expects, or less than a tenth of the words; or flashlight-text is missing.
    """
    kenlm, dictionary = import_flashlight("decoder.kenlm"), import_flashlight("dictionary")

    entries = unigrams(path)
    said = {entry: weight for entry, weight in entries.items() if entry not in _MARKS and entry != SPACE}
    known, characters = frozenset(labels), SPACE in entries
    spelt = [entry for entry in said if known.issuperset([entry] if characters else text.units(entry, labels))]
    words = [] if characters else spelt
    share = sum(said[entry] for entry in spelt) / max(sum(said.values()), sys.float_info.min)
    unit, least = ("characters", _CHARACTERS) if characters else ("words", _WORDS)
    if not spelt or (words and " " not in labels) or share < least:
        others = ", ".join(map(repr, said.keys() - set(spelt)))[:80]
        raise InputError(
            f"{path}: {len(spelt)} of its {len(said)} {unit}, {share:.0%} of what it expects to be said, can be "
            f"spelled with the labels {''.join(labels)!r}{f', but not {others}' if others else ''}. Take a model of "
            "their language and script: are upper and lower case alike? A model of words needs a "
            f"label for the space; a model of characters has {SPACE} among its unigrams."
        )
    # flashlight scores by index into this list: words in the file's order, or characters in the labels' order.
    spoken = words or [SPACE if label == " " else label for label in labels]
    unknown = len(spoken)
    try:
        scorer = kenlm.KenLM(str(path), dictionary.Dictionary([*spoken, "<unk>"]))
    except RuntimeError as error:
        raise InputError(f"{path}: KenLM cannot read it: {' '.join(str(error).split())}") from error
    lexicon = _lexicon(words, scorer, labels) if words else None
    rarest = math.log10(max(min(said[entry] for entry in spelt), sys.float_info.min))
    return LanguageModel(unit, scorer, lexicon, len(said) - len(spelt), unknown, rarest)


def unigrams(path: Path | str) -> dict[str, float]:
    """The entries of an ARPA file's section ``\\1-grams:``, with their probabilities, marks such as ``<s>`` included.

    Raises:
      InputError: when the file cannot be read, has no such section, or has counts or words that would end the process
        in KenLM or in the decoder.
    """
    found: dict[str, float] = {}
    inside = False
    try:
        with open_regular(Path(path)) as file:
            _require_readable(path, file)
            for line in map(bytes.decode, file):
                if line.startswith("\\"):
                    if inside:
                        return found
                    inside = line.strip() == "\\1-grams:"
                elif inside and line.strip():
                    logarithm, word = line.split()[:2]
                    found[word] = 10.0 ** min(float(logarithm), 0.0)
                    if len(word) > _LONGEST_WORD:
                        raise InputError(
                            f"{path}: a word of {len(word):,} characters, {word[:40]!r}…; the limit is "
                            f"{_LONGEST_WORD:,}. Remove it from the model's text"
                        )
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: cannot be read as an ARPA file: {getattr(error, 'strerror', None) or error}"
        ) from error
    raise InputError(f"{path}: not a whole ARPA file in plain text; python -m launch.build_lm writes one")


def _require_readable(path: Path | str, file: BinaryIO) -> None:
    """Checks lengths of lines and the counts of the header, which KenLM trusts; leaves the file at its beginning.

    KenLM ends the process at a negative count, and allocates memory for the counts before it reads an n-gram.

    Raises:
      InputError: the message names the file, the count or size, and the limit.
    """
    size = os.fstat(file.fileno()).st_size
    head, position = file.read(_LINE), 0
    block = head
    while len(block) == _LINE:
        if b"\n" not in block:
            raise InputError(
                f"{path}: a line after byte {position:,} is longer than {_LINE:,} bytes; write the model again"
            )
        position += _LINE
        block = file.read(_LINE)
    file.seek(0)
    lines = [line.strip() for line in head.partition(b"\\1-grams:")[0].decode(errors="replace").splitlines()]
    counts: list[int] = []
    for line in lines:
        if line.startswith("ngram"):
            match = _COUNT.fullmatch(line)
            if match is None or int(match[1]) != len(counts) + 1:
                raise InputError(
                    f"{path}: {line[:80]!r} is no count of {len(counts) + 1}-grams, which reads 'ngram "
                    f"{len(counts) + 1}=NUMBER'; write the model again"
                )
            counts.append(int(match[2]))
    if sum(counts) * _SHORTEST > size:
        raise InputError(
            f"{path}: promises {sum(counts):,} n-grams; a file of {size:,} bytes holds {size // _SHORTEST:,} at most. "
            "Write the model again"
        )


def _lexicon(words: Sequence[str], scorer: Any, labels: Sequence[str]) -> Any:
    """A trie of spellings; each node holds the best unigram score of the words below it, for the beam's look-ahead."""
    flashlight = import_flashlight("decoder")
    index = {label: position for position, label in enumerate(labels)}
    trie = flashlight.Trie(len(labels), index[" "])
    start = scorer.start(False)
    for number, word in enumerate(words):
        trie.insert([index[unit] for unit in text.units(f"{word} ", labels)], number, scorer.score(start, number)[1])
    trie.smear(flashlight.SmearingMode.MAX)
    return trie
