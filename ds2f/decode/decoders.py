"""Decoders: logits to a hypothesis per utterance, as functions that are passed to others."""

from collections.abc import Sequence
from typing import Protocol

from ds2f.config import BeamConfig
from ds2f.decode.beam import beam
from ds2f.decode.flashlight_text import LanguageModel
from ds2f.decode.greedy import Hypothesis, greedy
from ds2f.decode.hot_words import HotWords
from ds2f.errors import InputError
from ds2f.types import Logits


class Decoder(Protocol):
    """Chooses a transcript for every utterance of a batch: ``greedy``, a ``best_of_beam``, or a function of yours."""

    def __call__(self, logits: Logits, labels: Sequence[str], /) -> list[Hypothesis]:
        """Decodes a batch.

        Args:
          logits: values [B, T', V] float, unnormalised, on any device; lengths [B] int64 on the CPU, frames.
          labels: the V characters of the model, the blank among them.

        Returns:
          B hypotheses, in the order of the batch. A hypothesis depends on its own utterance only.
        """


def best_of_beam(cfg: BeamConfig, lm: LanguageModel | None = None, *, hot_words: HotWords | None = None) -> Decoder:
    """Makes a decoder that returns the best hypothesis of ``beam``.

    Args:
      cfg: beam size and weights, the ``lm`` section.
      lm: the language model, opened for the same labels that the decoder gets; None: no language model.
      hot_words: made for the same labels; None: none. Decoders with other hot words share the language model.

    Raises:
      InputError: from the decoder, as from ``beam``.
    """

    def decode(logits: Logits, labels: Sequence[str], /) -> list[Hypothesis]:
        return [found[0] for found in beam(logits, labels, cfg=cfg, lm=lm, hot_words=hot_words)]

    return decode


def from_config(cfg: BeamConfig, lm: LanguageModel | None = None, *, hot_words: HotWords | None = None) -> Decoder:
    """Makes the decoder of the ``lm`` section: ``best_of_beam`` if ``cfg.searches`` or there are hot words, else
    ``greedy``.

    Raises:
      InputError: there are hot words, and ``cfg.decoder`` is greedy.
    """
    if hot_words and cfg.decoder == "greedy":
        raise InputError("lm.decoder=greedy takes the best path and knows no hot words; take auto or beam")
    return best_of_beam(cfg, lm, hot_words=hot_words) if cfg.searches or hot_words else greedy
