"""What turns logits into one reading per utterance, as a function that can be handed on."""

from collections.abc import Callable, Sequence

from ds2f.config import BeamConfig
from ds2f.decode.beam import LanguageModel, beam
from ds2f.decode.greedy import Hypothesis, greedy
from ds2f.types import Logits

Decoder = Callable[[Logits, Sequence[str]], list[Hypothesis]]  # (logits, labels) -> a Hypothesis per utterance


def best_of_beam(cfg: BeamConfig, lm: LanguageModel | None = None) -> Decoder:
    """A decoder that takes the best hypothesis of ``beam``.

    Args:
      cfg: the beam and its weights.
      lm: the language model, opened for the labels that the decoder will be called with.
    """

    def decode(logits: Logits, labels: Sequence[str]) -> list[Hypothesis]:
        return [hypotheses[0] for hypotheses in beam(logits, labels, cfg=cfg, lm=lm)]

    return decode


def from_config(cfg: BeamConfig, lm: LanguageModel | None = None) -> Decoder:
    """The decoder that the ``lm`` section asks for; ``lm`` as for ``best_of_beam``."""
    return best_of_beam(cfg, lm) if cfg.searches else greedy
