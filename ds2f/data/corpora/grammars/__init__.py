"""Grammars of the synthetic corpus: one module per language draws sentences of everyday commands, numbers and times.

To add a language: a module with ``sentence(draw)`` and ``spoken_form(transcript)``, and a row in ``GRAMMARS``.
"""

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ds2f.data.corpora.grammars import english, german, mandarin, spanish


class Grammar(NamedTuple):
    """Sentences of a language, and the voice of espeak-ng that speaks them."""

    voice: str  # espeak-ng's name of the language
    pace: tuple[int, int]  # the slowest and the fastest speaker, in espeak-ng's words per minute
    sentence: Callable[[random.Random], str]  # draws a transcript
    spoken_form: Callable[[str], str]  # the text that espeak-ng gets for a transcript


GRAMMARS: Mapping[str, Grammar] = {  # by ISO 639 code
    "en": Grammar("en-us", (140, 190), english.sentence, english.spoken_form),
    "cmn": Grammar("cmn", (190, 240), mandarin.sentence, mandarin.spoken_form),
    "de": Grammar("de", (140, 190), german.sentence, german.spoken_form),
    "es": Grammar("es", (140, 190), spanish.sentence, spanish.spoken_form),
}
