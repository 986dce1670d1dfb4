"""n-gram language models: an ARPA file, opened by the KenLM that flashlight-text carries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ds2f.decode.beam import LanguageModel, flashlight_decoders
from ds2f.errors import InputError

SPACE = "<space>"  # the token for the space between words in a character model
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
        raise InputError(f"{path}: KenLM cannot read it: {error}") from error
    if not words:
        return LanguageModel("characters", scorer, None, 0)
    unspellable = len(set(entries) - _MARKS) - len(words)
    return LanguageModel("words", scorer, _lexicon(words, scorer, labels), unspellable)


def unigrams(path: Path | str) -> list[str]:
    """The entries of an ARPA file's section ``\\1-grams:``, in the file's order, marks such as ``<s>`` included.

    Raises:
      InputError: when the file cannot be read or has no such section.
    """
    found: list[str] = []
    inside = False
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("\\"):
                    if inside:
                        return found
                    inside = line.strip() == "\\1-grams:"
                elif inside and line.strip():
                    found.append(line.split()[1])
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise InputError(f"{path}: cannot be read as an ARPA file: {error}") from error
    raise InputError(f"{path}: not a whole ARPA file in plain text; python -m launch.build_lm writes one")


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
