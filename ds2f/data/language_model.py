"""n-gram language models: an ARPA file, opened by the KenLM that flashlight-text carries."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ds2f.decode.beam import LanguageModel, flashlight_decoders
from ds2f.errors import InputError
from ds2f.files import open_regular

SPACE = "<space>"  # the token for the space between words in a character model
_LONGEST_WORD = 1000  # characters; the decoder's trie calls itself once per character
_LINE = 1 << 16  # bytes of an ARPA file without the end of a line, at most
_SHORTEST = 4  # bytes of an n-gram's line: a digit, a tab, a character, the end of the line
_COUNT = re.compile(r"ngram\s+(\d{1,2})\s*=\s*(\d{1,18})\s*")
_MARKS = {"<s>", "</s>", "<unk>"}  # tokens of every ARPA file that are neither words nor characters


def open_language_model(path: Path | str, labels: Sequence[str]) -> LanguageModel:
    """Opens an ARPA file, as ``launch.build_lm`` or any toolkit writes it.

    A model with ``<space>`` among its unigrams is a character model, any other a word model. The unigrams of a word
    model are its lexicon.

    Args:
      path: the file.
      labels: characters of the acoustic model, the blank among them.

    Raises:
      InputError: the file cannot be read, is not ARPA, or has no word that the labels can spell; or flashlight-text is
        missing.
    """
    flashlight_decoders()
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    entries = unigrams(path)
    words = []
    if SPACE not in entries:
        words = [word for word in entries if word not in _MARKS and set(word) <= set(labels)]
        if not words or " " not in labels:
            raise InputError(
                f"{path}: none of its {len(entries)} words can be spelled with the labels {''.join(labels)!r}; are "
                "upper and lower case alike, and is there a label for the space? A model of characters has "
                f"{SPACE} among its unigrams."
            )
    # flashlight scores by index into this list: words in the file's order, or characters in the labels' order.
    spoken = words or [SPACE if label == " " else label for label in labels]
    try:
        scorer = KenLM(str(path), Dictionary(spoken))
    except RuntimeError as error:
        raise InputError(f"{path}: KenLM cannot read it: {' '.join(str(error).split())}") from error
    if not words:
        return LanguageModel("characters", scorer, None, 0)
    unspellable = len(set(entries) - _MARKS) - len(words)
    return LanguageModel("words", scorer, _lexicon(words, scorer, labels), unspellable)


def unigrams(path: Path | str) -> list[str]:
    """The entries of an ARPA file's section ``\\1-grams:``, in the file's order, marks such as ``<s>`` included.

    Raises:
      InputError: when the file cannot be read, has no such section, or has counts or words that would end the process
        in KenLM or in the decoder.
    """
    found: list[str] = []
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
                    found.append(line.split()[1])
                    if len(found[-1]) > _LONGEST_WORD:
                        raise InputError(
                            f"{path}: a word of {len(found[-1]):,} characters, {found[-1][:40]!r}…; the limit is "
                            f"{_LONGEST_WORD:,}. Remove it from the model's text"
                        )
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise InputError(f"{path}: cannot be read as an ARPA file: {error}") from error
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
    flashlight = flashlight_decoders()
    index = {label: position for position, label in enumerate(labels)}
    trie = flashlight.Trie(len(labels), index[" "])
    start = scorer.start(False)
    for number, word in enumerate(words):
        trie.insert([index[character] for character in f"{word} "], number, scorer.score(start, number)[1])
    trie.smear(flashlight.SmearingMode.MAX)
    return trie
