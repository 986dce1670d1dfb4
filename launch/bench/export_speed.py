"""Exported models against torch's own: size, time to load, and seconds of computing per second of sound."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import torch
from rich.console import Console
from rich.table import Table

from ds2f import export, features
from ds2f.checkpoint import safetensors_file
from ds2f.checkpoint.exported import About, weights_digest
from ds2f.config import Config
from ds2f.inference.engine import Engine, TorchEngine
from ds2f.model import deepspeech2
from ds2f.runner.device.backend import open_backend
from ds2f.types import Params, Stats
from launch.bench.options import Options

_SECONDS = 6.0  # of each utterance
_BATCHES = (1, 8)
_BASELINE = "safetensors, torch"


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Exports an untrained model in every format, and times them in turns on the CPU, torch in float32.

    Returns:
      Per format: bytes, seconds to load, and per batch size the real-time factor of each round.

    Raises:
      InputError: a package of the extra ``export`` is missing.
    """
    export.require_packages()
    exact = attrs.evolve(cfg, apex=attrs.evolve(cfg.apex, opt_level="O0"))
    params, stats = deepspeech2.init(cfg.model, key=cfg.training.seed)
    with TemporaryDirectory() as folder:
        files = _written(exact, params, stats, Path(folder))
        engines: dict[str, Engine] = {}
        found: dict[str, dict[str, Any]] = {}
        for name, (path, open_engine) in files.items():
            began = time.perf_counter()
            engines[name] = open_engine(path)
            found[name] = {"load_seconds": time.perf_counter() - began, "bytes": path.stat().st_size}
        for batch in _BATCHES:
            for name, factors in _timed(engines, exact, options.rounds, batch).items():
                found[name][str(batch)] = factors
    return {
        "preset": f"{cfg.model.hidden_layers}x{cfg.model.hidden_size}",
        "threads": torch.get_num_threads(),
        "formats": found,
    }


def _written(
    cfg: Config, params: Params, stats: Stats, folder: Path
) -> dict[str, tuple[Path, Callable[[Path], Engine]]]:
    """The files by name, each with the function that opens it."""
    from ds2f.export import onnx_file, onnx_model, onnx_session, quantisation, torch_program
    from ds2f.export.onnx_file import Form
    from ds2f.export.onnx_model import OnnxOptions

    about = About(cfg, weights_digest(params, stats), "bench", "best", {})
    files: dict[str, tuple[Path, Callable[[Path], Engine]]] = {
        _BASELINE: (folder / "model.safetensors", partial(_open_safetensors, cfg))
    }
    safetensors_file.write(files[_BASELINE][0], about, params, stats)
    for name, quantised in (("ONNX, float32", False), ("ONNX, int8", True)):
        if quantised and cfg.model.rnn_type != "lstm":
            continue
        form = Form(OnnxOptions(), quantised=quantised)
        graph = onnx_model.build(cfg, params, stats, form.options, metadata=onnx_file.metadata(about, form))
        files[name] = folder / f"{len(files)}.onnx", onnx_session.open_path
        onnx_file.write(files[name][0], quantisation.quantise(graph, cfg.model) if quantised else graph)
    if cfg.model.rnn_type == "lstm":  # others have no program of open sizes
        files["torch.export"] = folder / "model.pt2", torch_program.open_file
        torch_program.write(files["torch.export"][0], about, params, stats)
    return files


def _open_safetensors(cfg: Config, path: Path) -> Engine:
    _, params, stats = safetensors_file.read(path)
    return TorchEngine(cfg, params, stats, backend=open_backend("cpu"))


def _timed(engines: dict[str, Engine], cfg: Config, rounds: int, batch: int) -> dict[str, list[float]]:
    """The real-time factors of each engine, which compute the same drawn utterances in turns after a first round."""
    from ds2f.export import verification

    frames = features.num_frames(round(_SECONDS * cfg.spect.sample_rate), cfg.spect)
    drawn = verification.draw(cfg, [frames] * batch)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(1 + rounds):
        for name, engine in engines.items():
            began = time.perf_counter()
            engine.logits(drawn)
            times[name].append((time.perf_counter() - began) / (_SECONDS * batch))
    return {name: factors[1:] for name, factors in times.items()}


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a table per case. The ratios are medians over the rounds, of torch's time by the format's."""
    for found in results:
        table = Table(title=f"exports, {found['preset']}, float32, {found['threads']} thread(s)", title_justify="left")
        for column in ("format", "MB", "load s", *(f"RTF, batch {batch}" for batch in _BATCHES)):
            table.add_column(column, justify="left" if column == "format" else "right")
        for name, each in found["formats"].items():
            cells = []
            for batch in map(str, _BATCHES):
                ratios = [
                    slow / fast for slow, fast in zip(found["formats"][_BASELINE][batch], each[batch], strict=True)
                ]
                cells.append(f"{median(each[batch]):.3f} ({median(ratios):.2f} x)")
            table.add_row(name, f"{each['bytes'] / 1e6:.1f}", f"{each['load_seconds']:.2f}", *cells)
        console.print(table)
