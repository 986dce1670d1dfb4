"""Decoders: logits to a hypothesis per utterance, as functions that are passed to others."""

from collections.abc import Sequence
from typing import Protocol

from ds2f.config import BeamConfig
from ds2f.decode.beam import LanguageModel, beam
from ds2f.decode.greedy import Hypothesis, greedy
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


def best_of_beam(cfg: BeamConfig, lm: LanguageModel | None = None) -> Decoder:
    """Makes a decoder that returns the best hypothesis of ``beam``.

    Args:
      cfg: beam size and weights, the ``lm`` section.
      lm: the language model, opened for the same labels that the decoder gets; None: no language model.

    Raises:
      InputError: from the decoder, as from ``beam``.
    """

    def decode(logits: Logits, labels: Sequence[str], /) -> list[Hypothesis]:
        return [hypotheses[0] for hypotheses in beam(logits, labels, cfg=cfg, lm=lm)]

    return decode


def from_config(cfg: BeamConfig, lm: LanguageModel | None = None) -> Decoder:
    """Makes the decoder of the ``lm`` section: ``best_of_beam(cfg, lm)`` if ``cfg.searches``, else ``greedy``."""
    return best_of_beam(cfg, lm) if cfg.searches else greedy
