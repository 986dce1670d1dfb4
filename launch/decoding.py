"""Flags and steps that the commands over a trained run share: run, checkpoint, speakers, decoder and transcripts."""

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from absl import flags as absl_flags

from ds2f.config import BeamConfig, Config
from ds2f.errors import InputError
from ds2f.text import shown
from launch import flags, guard

if TYPE_CHECKING:
    from rich.console import Console

    from ds2f.data.loading import Loader
    from ds2f.decode import Decoder, LanguageModel
    from ds2f.precision import Policy
    from ds2f.runner.device.backend import Backend
    from ds2f.runner.evaluator import Evaluation
    from ds2f.runner.splits import Split
    from ds2f.types import Params, Stats

SPEAKER = r"(?:^|/)[a-z]*\d+-(\w+)[^/]*$"  # matches fash in an251-fash-b.wav


class OpenedRun(NamedTuple):
    """The model of a run on its device, and a split to transcribe."""

    backend: "Backend"
    policy: "Policy"
    params: "Params"
    stats: "Stats"
    split: "Split"
    loader: "Loader"


class Transcript(NamedTuple):
    """An utterance of a split with the recognised text."""

    audio: str  # path of the recording
    reference: str
    transcript: str  # the recognised text


def define() -> None:
    """Registers the flags ``--lm.*``. A command calls it at module level."""
    flags.define_section("lm", BeamConfig)


def define_which() -> None:
    """Registers ``--which``. A command calls it at module level."""
    absl_flags.DEFINE_string(
        "which",
        "best",
        "Checkpoint: best, last, a step number, or best:5 or last:5 for the mean weights of five.",
        module_name=sys.argv[0],  # --help lists the flags of this name
    )


def define_speaker() -> None:
    """Registers ``--speaker``. A command calls it at module level."""
    absl_flags.DEFINE_string(
        "speaker",
        SPEAKER,
        "Regular expression with one group, which matches the speaker in a recording's path, as in an251-fash-b.wav.",
        module_name=sys.argv[0],
    )


def run_dir() -> Path:
    """The folder that ``--run_dir`` names.

    Raises:
      InputError: the flag is missing.
    """
    if not absl_flags.FLAGS.run_dir:
        raise InputError("--run_dir is missing: give the folder of a trained run, such as runs/an4_1p")
    return Path(absl_flags.FLAGS.run_dir)


def speaker() -> re.Pattern[str]:
    """The regular expression of ``--speaker``.

    Raises:
      InputError: the text is no regular expression, or has another number of groups than one.
    """
    text = absl_flags.FLAGS.speaker
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"--speaker={text}: not a regular expression: {error}") from error
    if pattern.groups != 1:
        raise InputError(f"--speaker={text}: {pattern.groups} groups; put the speaker, and nothing else, in ( )")
    return pattern


def settings() -> BeamConfig:
    """The section ``lm`` of the command line."""
    return flags.section_from_flags("lm", BeamConfig)


def language_model(cfg: BeamConfig, labels: Sequence[str]) -> "LanguageModel | None":
    """Opens the language model; None if none is named or the decoder does not search.

    Prints the number of words that the labels cannot spell.

    Raises:
      InputError: the language model cannot be used.
    """
    from ds2f.data.language_model import open_language_model

    if not (cfg.path and cfg.searches):
        return None
    lm = open_language_model(cfg.path, labels)
    if lm.unspellable:
        guard.tell(f"{cfg.path}: {lm.unspellable} words have characters outside the model's labels")
    return lm


def decoder(labels: Sequence[str]) -> "Decoder":
    """The decoder of the command line, with its language model."""
    from ds2f import decode

    cfg = settings()
    return decode.from_config(cfg, language_model(cfg, labels))


def open_run(cfg: Config, run_dir: Path, *, split: str, which: str, console: "Console") -> OpenedRun:
    """Opens a split and the model of a run; prints remarks on the split.

    Args:
      cfg: the configuration of the run, with the changes of the command line.
      run_dir: the folder of the run.
      split: ``train``, ``val`` or ``test``.
      which: the checkpoint, as for ``ds2f.checkpoint.load_model``.
      console: prints the remarks.

    Raises:
      InputError: the manifest, a file in it, or the checkpoint cannot be used.
    """
    from ds2f import tree
    from ds2f.checkpoint import load_model
    from ds2f.runner.device.backend import open_backend
    from ds2f.runner.splits import Split

    data = Split.read(split, cfg)
    backend = open_backend(cfg.device)
    loader = data.load(cfg)  # before the checkpoint: loader processes must not inherit the threads of orbax
    params, stats = load_model(run_dir, which=which, warn=guard.tell)[1:]
    for remark in data.dataset.remarks:
        console.print(shown(str(remark), lines=True), markup=False)
    placed = tree.to(params, backend.device), tree.to(stats, backend.device)
    return OpenedRun(backend, backend.policy(cfg.apex), *placed, data, loader)


def evaluate(run: OpenedRun, cfg: Config, decoder: "Decoder") -> "Evaluation":
    """Transcribes the split and counts the errors."""
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


def transcripts(run: OpenedRun, found: "Evaluation") -> list[Transcript]:
    """The transcripts of an evaluation, in the order of the manifest."""
    return [
        Transcript(str(run.split.utterances[row].audio), run.split.references[row], text)
        for row, text in sorted(found.transcripts.items())
    ]
