"""The flags ``--lm.*``, and the decoder that they ask for."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ds2f.config import BeamConfig
from launch import flags

if TYPE_CHECKING:
    from ds2f.decode import Decoder, LanguageModel


def define() -> None:
    """Registers the flags; call it where a launcher is imported."""
    flags.define_section("lm", BeamConfig)


def settings() -> BeamConfig:
    """What the command line asks for."""
    return flags.section_from_flags("lm", BeamConfig)


def language_model(cfg: BeamConfig, labels: Sequence[str]) -> "LanguageModel | None":
    """Opens the language model, where one is named and searched with; says which of its words are out of reach.

    Raises:
      InputError: when it cannot be used.
    """
    from ds2f.decode import open_language_model

    if not (cfg.path and cfg.searches):
        return None
    lm = open_language_model(cfg.path, labels)
    if lm.unspellable:
        print(f"{cfg.path}: {lm.unspellable} words have characters outside the model's labels", file=sys.stderr)
    return lm


def decoder(labels: Sequence[str]) -> "Decoder":
    """The decoder that the command line asks for, its language model opened."""
    from ds2f import decode

    cfg = settings()
    return decode.from_config(cfg, language_model(cfg, labels))
