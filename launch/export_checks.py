"""Checks of ``launch.export``: every file against the run, on drawn inputs and on the validation set."""

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import attrs
from absl import flags as absl_flags

from ds2f.errors import InputError
from launch.export_files import Source, Written

if TYPE_CHECKING:
    from ds2f.config import Config
    from ds2f.export.verification import Speed, Texts
    from ds2f.inference.engine import Engine
    from ds2f.runner.splits import Split
    from ds2f.types import Batch

_STREAM_BLOCK = 16  # frames of logits, as launch.transcribe has by default
_BATCH = 8  # utterances of the validation set at a time
_SPEEDS = (1, 8)  # utterances at a time


class Checked(NamedTuple):
    """What the checks found."""

    lines: list[str]  # for the user
    load_seconds: float  # of the first file
    speeds: "list[Speed]"  # of the first file that computes whole utterances


def check(source: Source, written: list[Written]) -> Checked:
    """Compares every file with the run, and times the first.

    Raises:
      InputError: a file differs from the run; the message says which, and where.
    """
    from ds2f.export import verification
    from ds2f.inference.engine import TorchEngine
    from ds2f.runner.device.backend import open_backend

    exact = attrs.evolve(source.cfg, apex=attrs.evolve(source.cfg.apex, opt_level="O0"))
    run = TorchEngine(exact, source.params, source.stats, backend=open_backend("cpu"))
    split = _validation(source.cfg)
    lines, speeds, load_seconds = [], list["Speed"](), 0.0
    for each in written:
        begun = time.perf_counter()
        engine = _opened(exact, each)
        load_seconds = load_seconds or time.perf_counter() - begun
        worst = _difference(run, engine, exact, each)
        lines.append(f"{each.path.name}: log-probabilities differ from the run's by {worst:.2g} at most (drawn inputs)")
        if each.form and (each.form.streams or each.form.options.with_features):
            continue
        speeds = speeds or [verification.speed(engine, exact, batch=batch) for batch in _SPEEDS]
        if split:
            batches = _batches(split, exact)
            texts = verification.texts(run, engine, batches, split.references, exact.model.labels)
            lines.append(_judged(texts, each))
    if not absl_flags.FLAGS.check_utterances:
        lines.append("texts were not compared (--check_utterances=0)")
    elif split is None:
        lines.append("texts were not compared: there is no validation set here; name it by --data_path")
    return Checked(lines, load_seconds, speeds)


def _opened(cfg: "Config", written: Written) -> "Engine":
    """The engine of a file, read as any command would read it."""
    if written.path.suffix == ".onnx":
        from ds2f.export import onnx_session

        return onnx_session.open_path(written.path)
    if written.path.suffix == ".pt2":
        from ds2f.export import torch_program

        return torch_program.open_file(written.path)
    from ds2f.checkpoint import safetensors_file
    from ds2f.inference.engine import TorchEngine
    from ds2f.runner.device.backend import open_backend

    _, params, stats = safetensors_file.read(written.path)
    return TorchEngine(cfg, params, stats, backend=open_backend("cpu"))


def _difference(run: "Engine", engine: "Engine", cfg: "Config", written: Written) -> float:
    """The largest difference of log-probabilities of drawn inputs; too large a one is an error."""
    from ds2f.export import verification

    name, form = written.path.name, written.form
    if form is None:
        tolerance = verification.TOLERANCES["float32"] if written.path.suffix == ".pt2" else 0.0
        return verification.logits(run, engine, cfg, batch=written.batch, tolerance=tolerance, file=name)
    options = form.options
    tolerance = math.inf if form.quantised else verification.TOLERANCES[options.dtype]
    if form.streams:
        block = (options.frames or cfg.model.time_stride * _STREAM_BLOCK) // cfg.model.time_stride
        return verification.streams(run, engine, cfg, block=block, tolerance=tolerance, file=name)
    if options.with_features:
        from ds2f.export import onnx_session

        graph = onnx_session.compiled(written.path)
        return verification.samples(run, graph, cfg, tolerance=tolerance, file=name)
    return verification.logits(run, engine, cfg, batch=options.batch, tolerance=tolerance, file=name)


def _validation(cfg: "Config") -> "Split | None":
    """The validation set, if it is on this machine.

    Raises:
      InputError: int8 was asked for, and it is not.
    """
    from ds2f.data.manifest_paths import manifest_path
    from ds2f.files import is_local
    from ds2f.runner.splits import Split

    chosen = absl_flags.FLAGS
    if not chosen.check_utterances:
        return None
    path = manifest_path(cfg, "val")
    if is_local(path) and not path.exists():
        if chosen.quantize:
            raise InputError(
                f"--quantize=int8 is judged by the WER on the validation set, and {path} is missing; give --data_path "
                "or --data.val_manifest, or --check_utterances=0 to do without"
            )
        return None
    split = Split.read("val", cfg)
    examples = split.dataset.examples
    wanted = min(chosen.check_utterances, len(examples))
    some = examples.taken([place * len(examples) // wanted for place in range(wanted)])  # from its beginning to its end
    return split._replace(dataset=attrs.evolve(split.dataset, examples=some))


def _batches(split: "Split", cfg: "Config") -> "Iterator[Batch]":
    small = attrs.evolve(cfg, data=attrs.evolve(cfg.data, batch_size=_BATCH, num_workers=0, global_batch_size=0))
    return iter(split.load(small).epoch())


def _judged(texts: "Texts", written: Written) -> str:
    """A line on the transcripts.

    Raises:
      InputError: they differ more than the form explains.
    """
    form, name, most = written.form, written.path.name, absl_flags.FLAGS.max_wer_increase
    rounded = form is not None and (form.quantised or form.options.dtype != "float32")
    rise = texts.after.wer - texts.before.wer
    if not texts.utterances:
        return f"{name}: all utterances of the validation set are longer than it takes; texts were not compared"
    if texts.differing and not rounded:
        raise InputError(
            f"{name}: not written: {texts.differing} of {texts.utterances} transcripts of the validation set differ "
            "from the run's"
        )
    if rise > most:
        raise InputError(
            f"{name}: not written: the WER on {texts.utterances} utterances of the validation set rises from "
            f"{texts.before.wer:.2f} % to {texts.after.wer:.2f} %, by more than --max_wer_increase={most:g}; leave out "
            f"{'--quantize=int8' if form and form.quantised else '--dtype=float16'}, or allow it"
        )
    return (
        f"{name}: {texts.utterances - texts.differing} of {texts.utterances} transcripts of the validation set are the "
        f"run's; WER {texts.after.wer:.2f} % of {texts.after.words:,} words, the run's {texts.before.wer:.2f} %"
    )
