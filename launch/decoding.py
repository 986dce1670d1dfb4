"""What commands that decode share: the flags ``--lm.*``, their decoder, and a run opened with one of its sets."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ds2f.config import BeamConfig, Config
from launch import flags

if TYPE_CHECKING:
    from rich.console import Console

    from ds2f.data.loading import Loader
    from ds2f.decode import Decoder, LanguageModel
    from ds2f.precision import Policy
    from ds2f.runner.device.backend import Backend
    from ds2f.runner.evaluator import Evaluation
    from ds2f.runner.splits import Split
    from ds2f.types import Params, Stats


class Opened(NamedTuple):
    """A run's model on its device, and a set for it to transcribe."""

    backend: "Backend"
    policy: "Policy"
    params: "Params"
    stats: "Stats"
    split: "Split"
    loader: "Loader"


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
    from ds2f.data.language_model import open_language_model

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


def open_run(cfg: Config, run_dir: Path, *, split: str, which: str, console: "Console") -> Opened:
    """Opens the set and the model; prints what there is to remark about the set.

    Args:
      cfg: the run's configuration, as the command line changes it.
      run_dir: the run.
      split: ``train``, ``val`` or ``test``.
      which: the checkpoint, as ``ds2f.checkpoint.load_model`` understands it.
      console: where remarks go.

    Raises:
      InputError: when the manifest, what it names, or the checkpoint cannot be used.
    """
    from ds2f import tree
    from ds2f.checkpoint import load_model
    from ds2f.runner.device.backend import open_backend
    from ds2f.runner.splits import Split

    data = Split.read(split, cfg)
    backend = open_backend(cfg.device)
    loader = data.load(cfg)  # before the checkpoint: its processes must not inherit orbax's threads
    params, stats = load_model(run_dir, which=which, warn=partial(print, file=sys.stderr))[1:]
    for remark in data.dataset.remarks:
        console.print(str(remark), markup=False)
    placed = tree.to(params, backend.device), tree.to(stats, backend.device)
    return Opened(backend, backend.policy(cfg.apex), *placed, data, loader)


def evaluate(run: Opened, cfg: Config, decoder: "Decoder") -> "Evaluation":
    """Transcribes the opened set and counts the errors of its transcripts."""
    from ds2f import ctc
    from ds2f.runner import evaluator

    return evaluator.evaluate(
        run.params,
        run.stats,
        run.loader.epoch(),
        run.split.references,
        cfg=cfg.model,
        policy=run.policy,
        backend=run.backend,
        criterion=partial(ctc.ctc_loss, impl=cfg.model.ctc),
        decoder=decoder,
    )
