"""From logits to text."""

from ds2f.decode.beam import beam
from ds2f.decode.decoders import Decoder, best_of_beam, from_config
from ds2f.decode.greedy import Hypothesis, greedy
from ds2f.decode.language_model import LanguageModel, open_language_model

__all__ = [
    "Decoder",
    "Hypothesis",
    "LanguageModel",
    "beam",
    "best_of_beam",
    "from_config",
    "greedy",
    "open_language_model",
]
