"""Decoding, from logits to text: best path, beam search with language models, forced alignment."""

from ds2f.decode.align import align
from ds2f.decode.beam import beam
from ds2f.decode.decoders import Decoder, best_of_beam, from_config
from ds2f.decode.flashlight_text import LanguageModel
from ds2f.decode.greedy import BestPath, Hypothesis, extend, greedy
from ds2f.decode.hot_words import HotWords, make_hot_words
from ds2f.decode.words import WordFrames, words

__all__ = [
    "BestPath",
    "Decoder",
    "HotWords",
    "Hypothesis",
    "LanguageModel",
    "WordFrames",
    "align",
    "beam",
    "best_of_beam",
    "extend",
    "from_config",
    "greedy",
    "make_hot_words",
    "words",
]
