"""The files of an exported model: which ones the flags of ``launch.export`` ask for, and their writing."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import attrs
from absl import flags as absl_flags

from ds2f.errors import InputError

if TYPE_CHECKING:
    from ds2f.checkpoint.exported import About
    from ds2f.config import Config
    from ds2f.export.onnx_file import Form
    from ds2f.export.onnx_model import OnnxOptions
    from ds2f.types import Params, Stats

_NAMES = ("features", "samples", "lengths", "log_probs", "output_lengths")
_STREAM_NAMES = re.compile(r"begin|(next_)?(position|lookahead|(conv|hidden|cell)_\d+)")
_SHAPE = re.compile("([1-9][0-9]{0,5})x([1-9][0-9]{0,6})")


class Source(NamedTuple):
    """The model that is exported."""

    cfg: "Config"
    params: "Params"
    stats: "Stats"
    about: "About"


class Written(NamedTuple):
    """A file of an exported model."""

    path: Path
    form: "Form | None" = None  # of a graph
    batch: int | None = None  # utterances, if they are fixed


def require_packages(form: str) -> None:
    """Raises where a package of the format is missing.

    Raises:
      InputError: says how to install it.
    """
    from ds2f import export

    if form == "onnx":
        export.require_packages()


def shapes(flag: str) -> list[tuple[int, int] | None]:
    """The sizes that ``--shapes`` or ``--stream_shapes`` lists; one None, which stands for any, if it lists none.

    Raises:
      InputError: an entry is no size.
    """
    found: list[tuple[int, int] | None] = []
    for text in absl_flags.FLAGS[flag].value or ():
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise InputError(f"--{flag}={text}: give sizes such as 1x621,8x621 (utterances x frames)")
        found.append((int(match[1]), int(match[2])))
    return list(dict.fromkeys(found)) or [None]


def names(*, streams: bool) -> dict[str, str]:
    """The names that ``--names`` gives.

    Args:
      streams: whether there is a stream's graph, which has more inputs and outputs.

    Raises:
      InputError: an entry is no pair of names, names nothing of a graph, or a name is taken.
    """
    found: dict[str, str] = {}
    for text in absl_flags.FLAGS.names or ():
        own, _, chosen = text.partition("=")
        if not re.fullmatch(r"[A-Za-z_][\w./-]{0,63}", chosen):
            raise InputError(
                f"--names={text}: give pairs such as features=spect; names have letters, digits and . / _ -"
            )
        if own not in _NAMES and not (streams and _STREAM_NAMES.fullmatch(own)):
            raise InputError(f"--names={text}: no graph has an input or output {own!a}; there are {', '.join(_NAMES)}")
        if chosen in found.values() or chosen in _NAMES:
            raise InputError(f"--names={text}: {chosen} is the name of another input or output; give another")
        found[own] = chosen
    return found


def write(source: Source, folder: Path) -> list[Written]:
    """Writes the model's files into the folder."""
    chosen, params, stats, about = absl_flags.FLAGS, source.params, source.stats, source.about
    if chosen.format == "safetensors":
        from ds2f.checkpoint import safetensors_file

        path = folder / "model.safetensors"
        safetensors_file.write(path, about, params, stats)
        return [Written(path)]
    if chosen.format == "torch":
        from ds2f.export import torch_program

        files = [(folder / _name("model", size, ".pt2"), size) for size in shapes("shapes")]
        for path, size in files:
            torch_program.write(path, about, params, stats, shape=size)
        return [Written(path, batch=size[0] if size else None) for path, size in files]
    return [_write_graph(source, folder, name, form) for name, form in _forms(source)]


def _forms(source: Source) -> "Iterator[tuple[str, Form]]":
    """The graphs that the flags ask for: a name and a form for each."""
    from ds2f.export.onnx_file import Form
    from ds2f.export.onnx_model import OnnxOptions

    chosen, streams = absl_flags.FLAGS, not source.cfg.model.bidirectional
    options = OnnxOptions(
        opset=chosen.opset, dtype=chosen.dtype, with_features=chosen.with_features, names=names(streams=streams)
    )
    quantised = bool(chosen.quantize)
    if not streams and chosen.stream_shapes:
        raise InputError("--stream_shapes: this model is bidirectional and cannot stream; leave the flag out")
    for size in shapes("shapes"):
        yield _name("model", size, ".onnx"), Form(_fixed(options, size), quantised=quantised)
    if streams and not chosen.with_features and (chosen.stream_shapes or not chosen.shapes):
        for size in shapes("stream_shapes"):
            yield _name("stream", size, ".onnx"), Form(_fixed(options, size), streams=True, quantised=quantised)


def _name(stem: str, size: tuple[int, int] | None, suffix: str) -> str:
    return f"{stem}{suffix}" if size is None else f"{stem}_{size[0]}x{size[1]}{suffix}"


def _fixed(options: "OnnxOptions", size: tuple[int, int] | None) -> "OnnxOptions":
    return options if size is None else attrs.evolve(options, batch=size[0], frames=size[1])


def _write_graph(source: Source, folder: Path, name: str, form: "Form") -> Written:
    from ds2f.export import onnx_file, onnx_model, onnx_streaming, quantisation

    build = onnx_streaming.build if form.streams else onnx_model.build
    stored = onnx_file.metadata(source.about, form)
    model = build(source.cfg, source.params, source.stats, form.options, metadata=stored)
    if form.quantised:
        model = quantisation.quantise(model, source.cfg.model)
    onnx_file.write(folder / name, model)
    return Written(folder / name, form)
