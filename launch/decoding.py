"""Flags and steps that the commands over a trained run share: run, checkpoint, speakers, decoder and transcripts."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from absl import flags as absl_flags

from ds2f.config import BeamConfig, Config
from ds2f.errors import InputError
from ds2f.nearest import did_you_mean, did_you_mean_file
from ds2f.text import shown
from launch import flags, guard, progress_bars

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from ds2f.data.loading import Loader
    from ds2f.decode import Decoder, HotWords, Hypothesis, LanguageModel
    from ds2f.inference.beam_pool import BeamPool
    from ds2f.inference.engine import Engine
    from ds2f.precision import Policy
    from ds2f.runner.device.backend import Backend
    from ds2f.runner.evaluator import Evaluation, Observe
    from ds2f.runner.splits import Split
    from ds2f.types import Batch, Logits, Params, Stats
    from launch.models import Model

SPEAKER = r"(?:^|/)[a-z]*\d+-(\w+)[^/]*$"  # matches fash in an251-fash-b.wav


PROGRAMS = ("onnx", "torch")  # exported models that can be computed, and do not show their weights
_EXPORTS = {".onnx": "onnx", ".pt2": "torch", ".safetensors": "safetensors"}


class OpenedRun(NamedTuple):
    """The model of a run on its device, and a split to transcribe."""

    backend: "Backend"
    policy: "Policy"
    params: "Params"
    stats: "Stats"
    engine: "Engine"
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


def kind(path: Path) -> str:
    """What a path of ``--run_dir`` holds: ``run``, or ``safetensors``, ``onnx`` or ``torch`` for an export; or "".

    Raises:
      InputError: a folder holds exports of several formats.
    """
    if (path / "config.json").exists():
        return "run"
    if path.is_file():
        return _EXPORTS.get(path.suffix, "")
    files = {held: min(path.glob(f"*{suffix}"), default=None) for suffix, held in _EXPORTS.items()}
    found = {held: file for held, file in files.items() if file}
    if len(found) > 1:
        names = " or ".join(f"--run_dir={file}" for file in found.values())
        raise InputError(f"{path} holds exports of several formats; name one of them: {names}")
    return next(iter(found), "")


def run_dir(arguments: Sequence[str] = (), *, programs: bool = False) -> Path:
    """The folder of a run that ``--run_dir`` names, or the folder or file of what was exported from one.

    Args:
      arguments: positional arguments, among which it may be by mistake.
      programs: whether the command takes ``PROGRAMS``.

    Raises:
      InputError: the flag is missing, or its path holds nothing that the command takes.
    """
    given = absl_flags.FLAGS.run_dir
    held = kind(Path(given)) if given else ""
    if held in PROGRAMS and not programs:
        raise InputError(
            f"{given} is an exported program, which does not show its weights, and this command needs them: give the "
            "run, or an export of --format=safetensors (transcribe, evaluate and serve take programs)"
        )
    if held:
        return Path(given)
    if Path(given).is_file():
        raise InputError(f"{given} is no export (.onnx, .pt2, .safetensors); give the folder of a run, or of an export")
    runs = sorted(Path("runs").glob("*/config.json"), key=lambda path: -path.stat().st_mtime)
    named = [argument for argument in arguments if kind(Path(argument))]
    if not given:
        run = named[0] if named else str(runs[0].parent) if runs else "runs/an4_1p"
        raise InputError(f"--run_dir is missing: give the folder of a trained run, such as --run_dir={run}")
    known = [str(path.parent) for path in runs]
    hint = did_you_mean(str(Path(given)), known) or ". Give the --run_dir of a training, or the --output of an export."
    raise InputError(f"{given} holds no run: {Path(given) / 'config.json'} is missing{hint}")


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
    """The section ``lm`` of the command line.

    Raises:
      InputError: the settings contradict each other, or there is no such language model.
    """
    cfg = flags.section_from_flags("lm", BeamConfig)
    if cfg.path and not Path(cfg.path).exists():
        hint = did_you_mean_file(Path(cfg.path)) or "; python -m launch.build_lm makes a language model"
        raise InputError(f"--lm.path={cfg.path}: No such file{hint}")
    return cfg


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
        guard.tell(f"{cfg.path}: {lm.unspellable} {lm.unit} have characters outside the model's labels")
    return lm


def hot_words(cfg: BeamConfig, labels: Sequence[str]) -> "HotWords | None":
    """Reads the hot words; None if none are named.

    Raises:
      InputError: the hot words cannot be used.
    """
    from ds2f.data.hot_word_lists import read_hot_words

    return read_hot_words(cfg.hot_words, labels, boost=cfg.hot_words_boost) if cfg.hot_words else None


@contextmanager
def beam_pool(cfg: BeamConfig, labels: Sequence[str]) -> "Iterator[BeamPool]":
    """The processes of the beam search with the language model. Open them before the model and its threads.

    Raises:
      InputError: the language model or flashlight-text cannot be used.
    """
    from ds2f.decode.flashlight_text import import_flashlight
    from ds2f.inference.beam_pool import BeamPool
    from ds2f.processes import cpu_count

    import_flashlight("decoder")
    with BeamPool(labels, language_model(cfg, labels), workers=cfg.workers or cpu_count()) as pool:
        yield pool


@contextmanager
def decoder(labels: Sequence[str]) -> "Iterator[Decoder]":
    """The decoder of the command line, with its language model, hot words and processes."""
    from ds2f import decode

    cfg = settings()
    if not cfg.searches:
        yield decode.greedy
        return
    hot = hot_words(cfg, labels)
    with beam_pool(cfg, labels) as pool:
        yield pool.best(cfg, hot_words=hot)


def trained_on(stored: Config, cfg: Config, split: str) -> bool:
    """Whether a run was trained on the utterances of a split.

    Args:
      stored: the configuration of the run.
      cfg: the same with the changes of the command line.
      split: ``train``, ``val`` or ``test``.
    """
    from ds2f.data.manifest_paths import manifest_path

    manifest = manifest_path(cfg, split).resolve()
    known = ("train", "val") if stored.data.train_on_val else ("train",)
    return any(manifest == manifest_path(stored, each).resolve() for each in known)


def open_run(
    cfg: Config, run_dir: Path, split: "Split", *, which: str, console: "Console", model: "Model | None" = None
) -> OpenedRun:
    """Opens the model of a run for a split; prints remarks on the split.

    Args:
      cfg: the configuration of the run, with the changes of the command line.
      run_dir: the folder of the run.
      split: what to transcribe.
      which: the checkpoint, as for ``ds2f.checkpoint.load_model``.
      console: prints the remarks.
      model: of ``--run_dir``, in place of the run: it may be a program.

    Raises:
      InputError: the checkpoint cannot be used.
    """
    from ds2f import tree
    from launch import models

    model = model or models.Model(run_dir, "run", run_dir.name, which, cfg)
    backend = models.backend(model, cfg)
    loader = split.load(cfg)  # before the model: loader processes must not inherit the threads of orbax or onnxruntime
    opened = models.open_model(model, cfg, backend)
    for remark in split.dataset.remarks:
        console.print(shown(str(remark), lines=True), markup=False)
    placed = tree.to(opened.params, backend.device), tree.to(opened.stats, backend.device)
    return OpenedRun(backend, backend.policy(cfg.apex), *placed, opened.engine, split, loader)


def evaluate(run: OpenedRun, cfg: Config, decoder: "Decoder", *, observe: "Observe | None" = None) -> "Evaluation":
    """Transcribes the split and counts the errors; ``observe`` sees every batch, as of ``evaluator.evaluate``."""
    from ds2f import ctc
    from ds2f.runner import evaluator

    return evaluator.evaluate(
        run.params,
        run.stats,
        progress_bars.counted(run.loader.epoch(), "transcribing", run.loader.steps),
        run.split.references,
        cfg=cfg.model,
        policy=run.policy,
        backend=run.backend,
        criterion=partial(ctc.ctc_loss, impl=cfg.model.ctc),
        decoder=decoder,
        forward=run.engine.logits,
        observe=observe or (lambda batch, logits, hypotheses: None),
    )


def utterances(
    batch: "Batch", logits: "Logits", hypotheses: "Sequence[Hypothesis]"
) -> "Iterator[tuple[int, NDArray[np.float32], Hypothesis]]":
    """Row in the manifest, log-probabilities [T', V] and hypothesis of each utterance of a batch."""
    log_probs = logits.values.float().log_softmax(dim=2).cpu().numpy()
    lengths = logits.lengths.tolist()
    for row, values, length, hypothesis in zip(batch.ids.tolist(), log_probs, lengths, hypotheses, strict=True):
        yield row, values[:length], hypothesis


def transcripts(split: "Split", found: "Evaluation") -> list[Transcript]:
    """The transcripts of an evaluation, in the order of the manifest, with single spaces as ``launch.transcribe``."""
    return [
        Transcript(split.utterances[row].name, split.references[row], " ".join(text.split()))
        for row, text in sorted(found.transcripts.items())
    ]
