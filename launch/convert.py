"""Converts weights of deepspeech.pytorch: python -m launch.convert deepspeech_final.pth --output=runs/libri."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from absl import flags as absl_flags

from ds2f.config import Config, SpectConfig
from ds2f.config.settings import build
from ds2f.errors import InputError
from ds2f.text import shown
from launch import decoding, flags, guard, next_steps, progress_bars

_SHOWN = 5  # names that a message lists

flags.define(only=("data.labels_path",))
decoding.define_which()
absl_flags.DEFINE_string(
    "output", "", "Folder of the run that is made from the file; with --to, the file that is made from the run."
)
absl_flags.DEFINE_enum(
    "to", "", ["", "deepspeech.pytorch"], "Convert the other way: from a run's folder to a file of deepspeech.pytorch."
)


def main(arguments: list[str]) -> None:
    """Makes a run's folder from a file of deepspeech.pytorch (V2 or V3), or such a file from a run.

    Nothing in the file is executed. Every command takes the folder: evaluate, transcribe, train with
    ``--checkpointing.continue_from``.
    """
    if len(arguments) != 2:
        raise InputError("give one file: python -m launch.convert deepspeech_final.pth --output=runs/NAME")
    if not absl_flags.FLAGS.output:
        raise InputError("--output is missing: give the folder of the new run, such as runs/libri")
    source, output = Path(arguments[1]), Path(absl_flags.FLAGS.output)
    idle = "data.labels_path" if absl_flags.FLAGS.to else "which"
    if absl_flags.FLAGS[idle].present:
        raise InputError(f"--{idle} has no effect {'with' if absl_flags.FLAGS.to else 'without'} --to; leave it out")
    if source.is_dir() and not absl_flags.FLAGS.to:
        raise InputError(f"{source}: a folder; give a file of deepspeech.pytorch, or --to=deepspeech.pytorch for a run")
    (_to_file if absl_flags.FLAGS.to else _to_run)(source, output)


def _to_run(source: Path, output: Path) -> None:
    from ds2f import config
    from ds2f.checkpoint import torch_file
    from ds2f.convert import from_reference

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output={output} is there already; give another folder")
    read = torch_file.read(source)
    if read.unknown:
        names = ", ".join(read.unknown[:_SHOWN]) + (", ..." if len(read.unknown) > _SHOWN else "")
        guard.tell(f"{source}: read without {len(read.unknown)} classes that are not here ({shown(names)})")
    content = read.content
    if not isinstance(content, Mapping):
        raise InputError(
            f"{source}: holds a value of type {type(content).__name__}, no checkpoint of deepspeech.pytorch"
        )
    settings = {name: torch_file.plain(value) for name, value in content.items() if name != "state_dict"}
    named = absl_flags.FLAGS["data.labels_path"].value
    labels = config.read_labels(named) if named else _labels(settings)
    try:
        model, params, stats = from_reference({**settings, "state_dict": _weights(content)}, labels=labels)
        spect = _spectrogram(settings)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    if spect.num_bins != model.num_bins:
        guessed = attrs.evolve(spect, sample_rate=round((model.num_bins - 1) * 2 / spect.window_size))
        if guessed.num_bins != model.num_bins:
            raise InputError(
                f"{source}: its weights take {model.num_bins} bins, its settings make {spect.num_bins}; neither fits"
            )
        guard.tell(f"{source}: its weights fit a sampling rate of {guessed.sample_rate} Hz, which is taken")
        spect = guessed
    cfg = config.resolve(Config(model=model, spect=spect, run_dir=str(output)))
    with progress_bars.waiting("writing"):
        _write_run(output, cfg, params, stats)
    guard.tell(
        f"wrote {output}: {model.hidden_layers} x {model.hidden_size} {model.rnn_type}, "
        f"{'bidirectional' if model.bidirectional else 'unidirectional'}, {len(model.labels)} labels, "
        f"{spect.sample_rate} Hz"
    )
    run = f"--run_dir={output}"
    guard.tell(next_steps.text(("transcribe", run, "FILE"), ("evaluate", run, "--manifest=test.csv")))


def _write_run(output: Path, cfg: Config, params: Any, stats: Any) -> None:
    """Writes settings and a checkpoint without an optimizer."""
    import torch

    from ds2f import config
    from ds2f.checkpoint import Checkpoints
    from ds2f.files import json_text, write_atomically
    from ds2f.types import LossScale, TrainState

    checkpoints = Checkpoints(output, cfg=cfg, warn=guard.tell)
    try:
        checkpoints.prove()
        scale = LossScale(torch.ones(()), torch.zeros((), dtype=torch.int32))
        state = TrainState(torch.zeros((), dtype=torch.int64), params, stats, {}, scale)
        checkpoints.save(0, state, {})
        if not checkpoints.wait():
            raise InputError(f"{output}: the weights could not be written")
    finally:
        checkpoints.close()
    write_atomically(output / "flags.txt", flags.flagfile_text(cfg))
    write_atomically(output / "config.json", json_text(config.to_dict(cfg), indent=2) + "\n")


def _to_file(run_dir: Path, output: Path) -> None:
    if output.exists() or not output.parent.is_dir():
        raise InputError(f"--output={output}: give a new file in a folder that exists, such as deepspeech.pth")

    import torch

    from ds2f.checkpoint import load_model
    from ds2f.convert import to_reference

    cfg, params, stats = load_model(run_dir, which=absl_flags.FLAGS.which, warn=guard.tell)
    spect = cfg.spect
    if spect.num_mels or spect.normalize != "utterance" or spect.full_scale != 1.0:
        raise InputError(
            f"{run_dir}: deepspeech.pytorch has no spect.num_mels, spect.normalize or spect.full_scale; its features "
            "would differ from those of the training"
        )
    package = {
        "version": "0.0.1",
        "hidden_size": cfg.model.hidden_size,
        "hidden_layers": cfg.model.hidden_layers,
        "rnn_type": cfg.model.rnn_type,
        "bidirectional": cfg.model.bidirectional,
        "audio_conf": {name: getattr(spect, name) for name in _SPECTROGRAM},
        "labels": list(cfg.model.labels),
        "state_dict": to_reference(cfg.model, params, stats),
    }
    torch.save(package, output)
    guard.tell(f"wrote {output}")


_SPECTROGRAM = ("sample_rate", "window_size", "window_stride", "window")


def _weights(content: Mapping[str, Any]) -> Mapping[str, Any]:
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping):
        raise InputError(f"its state_dict is {type(weights).__name__}, no names with tensors")
    return {name: value for name, value in weights.items() if isinstance(name, str)}


def _labels(settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The labels of V2's package, or of V3's hyperparameters: a list, or one text of all characters."""
    for place in (settings, settings.get("hyper_parameters")):
        if isinstance(place, Mapping) and isinstance(place.get("labels"), list | str):
            return tuple(place["labels"])
    return None


def _spectrogram(settings: Mapping[str, Any]) -> SpectConfig:
    """The settings of the spectrogram; deepspeech.pytorch's defaults, which are ours, where there are none."""
    hyper = settings.get("hyper_parameters")
    found = settings.get("audio_conf") or (hyper.get("spect_cfg") if isinstance(hyper, Mapping) else None)
    given = found if isinstance(found, Mapping) else {}
    values = {name: given[name] for name in _SPECTROGRAM if given.get(name) is not None}
    if isinstance(values.get("window"), str):
        values["window"] = values["window"].rpartition(".")[2]
    return build(SpectConfig, values, prefix="spect.")


if __name__ == "__main__":
    flags.run(main, positional=True)
