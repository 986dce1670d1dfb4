"""flashlight-text, the optional library of the beam search, and the language models that it scores."""

from typing import Any, NamedTuple

from ds2f.extras import import_extra

NEVER = -1e4  # natural log of a negligible probability; with -inf, flashlight would subtract infinities


class LanguageModel(NamedTuple):
    """A language model for the labels of one acoustic model; ``ds2f.data.language_model`` opens it."""

    unit: str  # of the n-grams: "words" or "characters"
    scorer: Any  # flashlight's KenLM; its scores are decimal logarithms
    lexicon: Any  # flashlight's Trie of the words' spellings, each with a space at its end; None for characters
    unspellable: int  # number of words or characters of the file that the labels cannot spell; they are never decoded
    unknown: int = 0  # the scorer's index of <unk>
    rarest: float = 0.0  # score of the least probable unigram that the labels spell: the least score of a hot word


def import_flashlight(module: str) -> Any:
    """Imports a module of flashlight-text's text library.

    Raises:
      InputError: if the package is not installed, or broken.
    """
    return import_extra(
        f"flashlight.lib.text.{module}",
        need="beam search needs flashlight-text",
        remedy="pip install 'ds2f[lm]'. There is flashlight-text for Python 3.11 and 3.12; on a newer Python, make an "
        "environment with one of these.",
    )
