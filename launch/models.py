"""The model that ``--run_dir`` names, and what computes it: a run, or what ``launch.export`` made of one."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.extras import import_extra
from ds2f.text import shown
from launch import cutting, decoding, flag_effects, guard

if TYPE_CHECKING:
    from ds2f.checkpoint.exported import About
    from ds2f.config import Config
    from ds2f.inference import Recognizer
    from ds2f.inference.confidence import Calibration
    from ds2f.inference.engine import Engine
    from ds2f.inference.pieces import Cutting
    from ds2f.runner.device.backend import Backend
    from ds2f.types import Params, Stats


class Model(NamedTuple):
    """A trained model. Nothing is computed yet, no thread runs, and a run's weights are not read."""

    path: Path  # of --run_dir
    kind: str  # as of decoding.kind
    name: str  # of the run
    which: str  # checkpoint
    stored: "Config"  # of the run
    engine: str = "torch"  # or onnx
    longest: int | None = None  # frames of features in one piece at most; None: any number
    weights: str = ""  # their digest, for a program, which does not show them

    def cutting(self) -> "Cutting":
        """The lengths of ``--cutting``, no piece longer than the model takes."""
        from ds2f.inference.engine import longest_seconds

        return cutting.lengths(most=longest_seconds(self.longest, self.stored.spect))


class Opened(NamedTuple):
    """A model that is ready to compute."""

    engine: "Engine"
    params: "Params"  # empty for a program
    stats: "Stats"


def define() -> None:
    """Registers ``--engine``. A command calls it at module level."""
    absl_flags.DEFINE_enum(
        "engine",
        "auto",
        ["auto", "torch", "onnx"],
        "What computes the model: torch, or onnxruntime on the CPU (pip install 'ds2f[export]'). auto: torch for a "
        "run, and for an export what it was made for.",
        module_name=sys.argv[0],  # --help lists the flags of this name
    )


def chosen(arguments: Sequence[str] = ()) -> Path:
    """The run or the export of ``--run_dir``; arguments as of ``decoding.run_dir``.

    Raises:
      InputError: there is none, or another flag contradicts it.
    """
    path, flags = decoding.run_dir(arguments, programs=True), absl_flags.FLAGS
    kind = decoding.kind(path)
    for program, engine, what in (
        ("onnx", "torch", "a graph for onnxruntime"),
        ("torch", "onnx", "a program of torch"),
    ):
        if (kind, flags.engine) == (program, engine):
            raise InputError(f"--engine={engine}: {path} is {what}; leave --engine out, or give the run")
    if kind not in decoding.PROGRAMS and flags.engine != "onnx":
        return path
    for flag in ("apex.opt_level", "apex.dtype"):
        if flag_effects.typed(flag):
            raise InputError(
                f"--{flag} is of the weights of a run in torch; leave it out: launch.export has --dtype=float16 and "
                "--quantize=int8"
            )
    if flag_effects.typed("device") and flags.device not in ("auto", "cpu"):
        raise InputError(
            f"--device={flags.device} is of the weights of a run in torch; exports and --engine=onnx are computed on "
            "the CPU: leave it out, or give the run and --engine=torch"
        )
    return path


def find(path: Path) -> Model:
    """Reads what the model says of itself. The flags are as ``chosen`` has checked them.

    Raises:
      InputError: the run or the file is damaged, foreign or newer, or ``--which`` names another checkpoint than its
        own; a package is missing.
    """
    from ds2f.checkpoint import load_config

    kind, flags = decoding.kind(path), absl_flags.FLAGS
    engine = "onnx" if "onnx" in (kind, flags.engine) else "torch"
    if engine == "onnx":
        _onnx_session()  # a missing package is told at once
    if kind == "run":
        return Model(path, kind, path.resolve().name, flags.which, load_config(path), engine)
    about, longest = _described(path, kind)
    if flags["which"].present and flags.which != about.which:
        raise InputError(
            f"--which={flags.which} is of a run; {path} holds the checkpoint {about.which}: leave it out, or give the "
            "run"
        )
    weights = about.weights if kind in decoding.PROGRAMS else ""
    return Model(path, kind, shown(about.run), about.which, about.cfg, engine, longest, weights)


def backend(model: Model, cfg: "Config") -> "Backend":
    """Opens the device of a model; programs and onnxruntime compute on the CPU."""
    from ds2f.runner.device.backend import open_backend

    elsewhere = model.engine == "onnx" or model.kind in decoding.PROGRAMS
    return open_backend("cpu" if elsewhere else cfg.device)


def open_model(model: Model, cfg: "Config", backend: "Backend") -> Opened:
    """Reads the weights, and prepares the engine. Processes of loaders and decoders start before.

    Args:
      model: of ``find``.
      cfg: its configuration with the changes of the command line.
      backend: of the model.

    Raises:
      InputError: the checkpoint or file cannot be used, or a package is missing.
    """
    from ds2f.checkpoint import load_model
    from ds2f.inference.engine import TorchEngine

    if model.kind == "torch":
        from ds2f.export import torch_program

        return Opened(torch_program.open_file(_program(model.path)), {}, {})
    if model.kind == "onnx":
        return Opened(_onnx_session().open_path(model.path), {}, {})
    which = model.which if model.kind == "run" else "best"  # an export holds one checkpoint
    params, stats = load_model(model.path, which=which, warn=guard.tell)[1:]
    if model.engine == "onnx":
        return Opened(_onnx_session().from_params(cfg, params, stats), params, stats)
    return Opened(TorchEngine(cfg, params, stats, backend=backend), params, stats)


def recognizer(model: Model, cfg: "Config", backend: "Backend", *, shows: bool = True, **options: Any) -> "Recognizer":
    """Opens a model as a recognizer, with its calibration.

    Args:
      model: of ``find``.
      cfg: its configuration with the changes of the command line.
      backend: of the model.
      shows: as of ``calibration``.
      **options: of the ``Recognizer``.
    """
    from ds2f.inference import Recognizer

    engine, params, stats = open_model(model, cfg, backend)
    fitted = calibration(model, params, stats, shows=shows)
    return Recognizer(cfg, params, stats, backend=backend, engine=engine, calibration=fitted, **options)


def calibration(model: Model, params: "Params", stats: "Stats", *, shows: bool) -> "Calibration":
    """The calibration beside a model, for the decoder of the flags.

    Args:
      model: of ``find``.
      params: its parameters; empty for a program.
      stats: its running statistics, likewise.
      shows: the output has times or confidences: a calibration of another model or decoder is remarked on.
    """
    from ds2f.inference import calibration as stored

    warn = guard.tell if shows else _ignored
    return stored.read(model.path, params, stats, lm=decoding.settings(), weights=model.weights, warn=warn)


def _ignored(_: str) -> None:
    pass


def _described(path: Path, kind: str) -> "tuple[About, int | None]":
    """What an export says of itself, and its longest piece, frames."""
    if kind == "safetensors":
        from ds2f.checkpoint import find_safetensors, safetensors_file

        file = find_safetensors(path)
        if file is None:
            raise InputError(f"{path} holds no model.safetensors; name the file, --run_dir={path}/NAME.safetensors")
        return safetensors_file.about(file), None
    if kind == "torch":
        from ds2f.export import torch_program

        return torch_program.describe(_program(path))
    found: tuple[About, int | None] = _onnx_session().describe(path)
    return found


def _program(path: Path) -> Path:
    """The file of a program of torch."""
    files = sorted(path.glob("*.pt2")) if path.is_dir() else [path]
    if len(files) > 1:
        raise InputError(f"{path} holds programs of several shapes; name one of them: --run_dir={files[-1]}")
    return files[0]


def _onnx_session() -> Any:
    """The module of onnxruntime's engine.

    Raises:
      InputError: a package is missing.
    """
    for package in ("onnx", "onnxruntime"):
        import_extra(package, need=f"a graph of ONNX needs {package}", remedy="pip install 'ds2f[export]'")
    from ds2f.export import onnx_session

    return onnx_session
