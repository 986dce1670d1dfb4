"""onnxruntime as an engine: computes exported graphs on the CPU, for ``inference.Recognizer`` and the evaluation."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ds2f import tree
from ds2f.checkpoint.exported import About
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.export import onnx_file, onnx_model, onnx_streaming
from ds2f.export.ascend import Shape
from ds2f.export.fixed_shapes import FixedShapes
from ds2f.export.om_sessions import Outputs
from ds2f.export.onnx_file import Form, Opened
from ds2f.export.onnx_model import OnnxOptions
from ds2f.extras import import_extra
from ds2f.inference import stream
from ds2f.inference.engine import require_short
from ds2f.inference.stream import StreamState
from ds2f.model.streaming import Block, ModelState
from ds2f.text import shown
from ds2f.types import Batch, Logits, Params, Stats

_SAMPLES = (
    "this export takes samples (--with_features), and ds2f computes features itself; export without --with_features to "
    "use the model here"
)
REMEDY = "pip install 'ds2f[export]', or --engine=torch with the run"


class Compiled:
    """A graph that onnxruntime has prepared."""

    def __init__(self, content: bytes, form: Form, source: str, *, labels: int | None = None) -> None:
        """Prepares a graph.

        Args:
          content: the file of ONNX; one from outside is checked by ``onnx_file.read`` before.
          form: of the graph.
          source: what messages call it.
          labels: number of the model's labels, for a file whose outputs are to be checked.

        Raises:
          InputError: onnxruntime is not installed, or does not take the graph.
        """
        runtime = import_extra("onnxruntime", need="an ONNX model needs onnxruntime", remedy=REMEDY)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        self.form, self._source, self._labels = form, source, labels
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has many classes of its own
            raise InputError(f"{source}: onnxruntime cannot prepare it ({_line(error)}); export it again") from error

    def run(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Computes the outputs of some inputs, both by the names of the modules' docstrings.

        Raises:
          InputError: the graph has other inputs, or onnxruntime fails.
        """
        name = self.form.options.name
        own = {chosen: each for each, chosen in self.form.options.names.items()}
        try:
            outputs = [each.name for each in self._session.get_outputs()]
            found = self._session.run(outputs, {name(each): value for each, value in values.items()})
        except Exception as error:
            if "memory" in str(error).lower() or "alloc" in str(error).lower():
                raise MemoryError(f"{self._source}: {_line(error)}") from error
            raise InputError(f"{self._source}: onnxruntime failed ({_line(error)}); export it again") from error
        computed = {own.get(each, each): value for each, value in zip(outputs, found, strict=True)}
        if self._labels and not self._has_shapes(computed, rows=len(next(iter(values.values())))):
            raise InputError(f"{self._source}: its outputs have other shapes than an exported graph's; export it again")
        return computed

    def _has_shapes(self, computed: Mapping[str, NDArray[Any]], *, rows: int) -> bool:
        """Whether the outputs are those of an exported graph: a file may be forged."""
        if any(each.shape[:1] != (rows,) for each in computed.values()):
            return False
        scores = computed.get("log_probs", np.zeros(0))
        if scores.ndim != 3 or scores.shape[2] != self._labels:
            return False
        if self.form.streams:
            return computed.get("begin", scores).shape == (rows,)
        ends = computed.get("output_lengths", scores)
        return ends.shape == (rows,) and bool(((ends >= 0) & (ends <= scores.shape[1])).all())

    def __call__(self, features: NDArray[np.float32], lengths: NDArray[np.int32], /) -> Outputs:
        """Whole utterances, as of ``om_sessions.Session``."""
        found = self.run({"features": features, "lengths": lengths})
        return Outputs(found["log_probs"], found["output_lengths"].astype(np.int64))


class OnnxEngine:
    """A model's graphs as an ``inference.engine.Engine``. Graphs of fixed sizes are filled up with padding.

    Attributes:
      cfg: the configuration of the run.
      about: what the files say of themselves; None for graphs that were made from a run in memory.
    """

    name = "onnx"

    def __init__(self, cfg: Config, graphs: Sequence[Compiled], *, about: About | None = None) -> None:
        """Takes the graphs of one model: of whole utterances, of several sizes or one of any size, and of streams."""
        self.cfg, self.about = cfg, about
        self._streams = next((graph for graph in graphs if graph.form.streams), None)
        whole = [graph for graph in graphs if not graph.form.streams]
        self._open = next((graph for graph in whole if graph.form.options.frames is None), None)
        fixed = {
            Shape(graph.form.options.batch or 1, frames): graph
            for graph in whole
            if (frames := graph.form.options.frames) is not None
        }
        self._fixed = FixedShapes(cfg, fixed, name=self.name) if fixed else None
        self._takes_samples = any(graph.form.options.with_features for graph in whole)

    @property
    def longest(self) -> int | None:
        """Frames of the longest utterance; None: any."""
        return self._fixed.longest if self._fixed and not self._open else None

    def logits(self, batch: Batch, /) -> Logits:
        """The log-probabilities of whole utterances, as of ``Engine``.

        Raises:
          InputError: an utterance is too long for graphs of fixed sizes, or there is no graph of features of whole
            utterances.
        """
        if self._takes_samples:
            raise InputError(
                "this export takes samples (--with_features), and ds2f computes features itself; export without "
                "--with_features to use the model here"
            )
        if self._open is None and self._fixed is None:
            raise InputError(
                "this is a stream's graph alone; transcribe with --stream, or give --run_dir the folder of the "
                "export, or its model.onnx"
            )
        longest = int(batch.lengths.max()) if len(batch.lengths) else 0
        require_short(longest, self.longest, self.cfg.spect)
        if self._open is None:
            assert self._fixed is not None
            return self._fixed.logits(batch)
        features = batch.features[..., : max(longest, 1)].float()
        features = F.pad(features, (0, max(longest, 1) - features.shape[2]))
        found = self._open(features.numpy(), batch.lengths.numpy().astype(np.int32))
        return Logits(torch.from_numpy(found.log_probs), torch.from_numpy(found.lengths))

    def begin(self, *, streams: int = 1, block: int = 16) -> StreamState:
        """The state before the first sample, as of ``Engine``.

        Raises:
          InputError: there is no graph of streams, or it has blocks of another size.
        """
        begun = stream.init(self.cfg, {}, streams=streams, block=block)  # refuses a bidirectional model
        if self._streams is None:
            raise InputError("this export has no stream's graph, stream.onnx; export the run again, or give the run")
        frames, given = self._streams.form.options.frames, block * self.cfg.model.time_stride
        if frames not in (None, given):
            seconds, asked = (each * self.cfg.spect.window_stride for each in (frames, given))
            raise InputError(
                f"the stream's graph has blocks of {seconds:g} seconds, not {asked:g}: give "
                f"--stream_block={seconds:g}, or export without --stream_shapes"
            )
        return begun

    def advance(self, states: Sequence[StreamState], /) -> tuple[list[StreamState], list[Tensor]]:
        """The next block of streams, as of ``Engine``."""
        with torch.no_grad():
            return stream.advance({}, {}, states, cfg=self.cfg, step=self._step)

    def _step(self, state: ModelState, features: Tensor, lengths: Tensor) -> tuple[ModelState, Block]:
        """``model.streaming.step`` by the graph."""
        assert self._streams is not None
        rows = self._streams.form.options.batch or len(features)
        parts = [
            stream_step(self._streams, *tree.map(partial(_filled, begin=begin, rows=rows), (state, features, lengths)))
            for begin in range(0, len(features), rows)
        ]
        return tree.map(lambda *each: torch.cat(each)[: len(features)], *parts)


def stream_step(graph: Compiled, state: ModelState, features: Tensor, lengths: Tensor) -> tuple[ModelState, Block]:
    """One block of as many streams as the graph takes; arguments and result of ``model.streaming.step``."""
    parts = onnx_streaming.state_parts(state)
    inputs = {"features": features.float(), "lengths": lengths, "position": state.position, **parts}
    found = graph.run({name: value.numpy() for name, value in inputs.items()})
    moved = {name: torch.from_numpy(found[f"next_{name}"]) for name in ("position", *parts)}
    return onnx_streaming.from_parts(moved, like=state), Block(
        torch.from_numpy(found["log_probs"]), torch.from_numpy(found["begin"])
    )


def from_params(cfg: Config, params: Params, stats: Stats) -> OnnxEngine:
    """The engine of a model's weights: graphs that are made in memory, of any batch and length."""
    form = Form(OnnxOptions())
    whole = onnx_model.build(cfg, params, stats, form.options)
    graphs = [Compiled(whole.SerializeToString(), form, "the model's graph")]
    if not cfg.model.bidirectional:
        made = onnx_streaming.build(cfg, params, stats, form.options)
        graphs.append(Compiled(made.SerializeToString(), form._replace(streams=True), "the stream's graph"))
    return OnnxEngine(cfg, graphs)


def _read(path: Path) -> list[tuple[Path, Opened]]:
    """The files of ``open_path``, which are of one model."""
    files = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no files of ONNX; give the --output of launch.export --format=onnx")
    opened = [(file, onnx_file.read(file)) for file in files]
    for file, each in opened:
        if each.about.weights != opened[0][1].about.weights:
            raise InputError(
                f"{file} and {files[0]} are of different models; give one of the files, or a folder for each"
            )
    return opened


def describe(path: Path) -> tuple[About, int | None]:
    """What files of ONNX say of their model, and frames of the longest utterance (None: any); nothing is prepared.

    Args:
      path: as of ``open_path``.

    Raises:
      InputError: as ``open_path``, but for what onnxruntime refuses; or a graph takes samples.
    """
    opened = _read(path)
    if any(each.form.options.with_features for _, each in opened):
        raise InputError(f"{path}: {_SAMPLES}")
    frames = [each.form.options.frames or math.inf for _, each in opened if not each.form.streams]
    longest = max(frames, default=math.inf)
    return opened[0][1].about, None if longest == math.inf else int(longest)


def open_path(path: Path) -> OnnxEngine:
    """The engine of a file of ONNX, or of all such files in a folder, which are of one model.

    Raises:
      InputError: there are none, one is refused (``onnx_file.read``), or they are of several models.
    """
    opened = _read(path)
    about = opened[0][1].about
    graphs = [_compiled(file, each) for file, each in opened]
    return OnnxEngine(about.cfg, graphs, about=about)


def compiled(path: Path) -> Compiled:
    """The graph of one file, read and prepared.

    Raises:
      InputError: as ``open_path``.
    """
    return _compiled(path, onnx_file.read(path))


def _filled(values: Tensor, *, begin: int, rows: int) -> Tensor:
    """Some rows, filled up with zeros."""
    part = values[begin : begin + rows]
    return torch.cat((part, part.new_zeros(rows - len(part), *part.shape[1:])))


def _line(error: Exception) -> str:
    """The last line of an error, without what acts on a terminal."""
    return shown(str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__)[:300]


def _compiled(path: Path, opened: Opened) -> Compiled:
    return Compiled(opened.content, opened.form, str(path), labels=len(opened.about.cfg.model.labels))
