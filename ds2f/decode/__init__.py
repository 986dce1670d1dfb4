"""Decoding, from logits to text: best path, beam search with language models, forced alignment."""

from ds2f.decode.align import align
from ds2f.decode.beam import LanguageModel, beam
from ds2f.decode.decoders import Decoder, best_of_beam, from_config
from ds2f.decode.greedy import Hypothesis, greedy

__all__ = [
    "Decoder",
    "Hypothesis",
    "LanguageModel",
    "align",
    "beam",
    "best_of_beam",
    "from_config",
    "greedy",
]
