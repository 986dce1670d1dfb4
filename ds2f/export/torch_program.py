"""A model as a program of ``torch.export``, in a file of the suffix ``.pt2``.

The program is the model's own functions, traced: features [B, F, T] float32 and lengths [B] int64 go in, and
log-probabilities [B, T', V] float32 and their lengths [B] int64 come out. Any torch reads the file,
``torch.export.load(path).module()(features, lengths)``, without this project. Here the file is read with checks, since
torch's reader executes what a file names; see ``program_archive`` and ``program_check``.

Sizes are fixed (``shape``), or any numbers for an LSTM; the number of frames is then a multiple of ``time_stride``,
unless that is 2. torch exports GRU and RNN with fixed sizes only.
"""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ds2f.checkpoint import exported
from ds2f.checkpoint.exported import About
from ds2f.checkpoint.leaves import require_finite
from ds2f.config import ModelConfig
from ds2f.convolutions import convolutions, output_lengths
from ds2f.errors import InputError
from ds2f.export import program_archive, program_check, program_names
from ds2f.export.program_archive import Contents
from ds2f.files import json_text, write_atomically
from ds2f.inference.engine import require_short
from ds2f.inference.stream import StreamState
from ds2f.model import blocks, layers, recurrent
from ds2f.precision import FULL
from ds2f.types import Batch, Logits, Params, Stats, identity

FILE = f"model{program_archive.SUFFIX}"
_FEWEST = 2, 4  # utterances, frames: what a program of any size is traced for at least
_MOST = 1 << 16, 1 << 20
_TRACED = 3, 120  # utterances and frames of the trace of such a program; a multiple of every stride
_INSTEAD = "Give --shapes=BATCHxFRAMES, such as --shapes=1x1500, or take --format=onnx"


class _Program(nn.Module):
    """The model in evaluation, with lengths as a tensor; its buffers are parameters and statistics."""

    def __init__(self, cfg: ModelConfig, params: Params, stats: Stats) -> None:
        super().__init__()
        self._cfg = cfg
        for name, leaf in program_names.named(params, stats).items():
            self.register_buffer(name, leaf.detach().cpu().contiguous())

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F, T] and lengths [B] int64 to log-probabilities [B, T', V] and lengths [B]."""
        cfg, size = self._cfg, features.shape[-1]
        params, stats = program_names.trees(cfg, dict(self.named_buffers()))
        ends = output_lengths(lengths, time_stride=cfg.time_stride)
        call = blocks.Call(
            train=False,
            key=None,
            policy=FULL,
            reduce_moments=identity,
            kernel=recurrent.fused(cfg.rnn_type),
            dropout=0.0,
            same_frames=False,
            frames=layers.frames(ends, output_lengths(size, time_stride=cfg.time_stride)),
        )
        x, _ = blocks.conv(
            params["conv"],
            features,
            layout=convolutions(cfg.time_stride, cfg.frequency_stride),
            stats=stats["conv"],
            input_padding=layers.frames(lengths, size).padding,
            call=call,
        )
        for name in (f"rnn_{index}" for index in range(cfg.hidden_layers)):
            x, _ = blocks.recurrent_layer(params[name], x, name=name, stats=stats.get(name), call=call)
        x, _ = blocks.output(params["output"], x, stats=stats["output"], call=call)
        return x.log_softmax(-1), ends


def write(path: Path, about: About, params: Params, stats: Stats, *, shape: tuple[int, int] | None = None) -> None:
    """Writes a model as a program.

    Args:
      path: the file, which is replaced; its suffix is ``.pt2``.
      about: goes into the file's extra files; ``about.weights`` is the digest of the model.
      params: parameters, float32, on any device.
      stats: running statistics, float32.
      shape: utterances and frames of every call; None: any numbers, of an LSTM.

    Raises:
      InputError: torch cannot export the model, or its weights are not finite; the message has the remedy.
      ValueError: ``about`` is of another model, or a tensor is not float32.
      OSError: the file system refused.
    """
    exported.require_weights(about, params, stats)
    require_finite(path, program_names.named(params, stats))
    program = _traced(about.cfg.model, params, stats, shape)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names files of this machine
    program._example_inputs = None  # torch would pickle them, and unpickle them for every reader
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(exported.to_metadata(about)))
    write_atomically(path, buffer.getbuffer())


def _traced(cfg: ModelConfig, params: Params, stats: Stats, shape: tuple[int, int] | None) -> Any:
    """The program of a model, as torch's ``ExportedProgram``."""
    if shape is None and cfg.rnn_type != "lstm":
        raise InputError(f"torch exports models of {cfg.rnn_type} cells with fixed sizes only. {_INSTEAD}")
    batch, frames = shape or _TRACED
    sizes = None
    if shape is None:
        utterances, time = (
            torch.export.Dim(name, min=low, max=high)
            for name, low, high in zip(("batch", "frames"), _FEWEST, _MOST, strict=True)
        )
        if cfg.time_stride > 2:  # torch cannot show that both convolutions leave the frames that one division does
            time = cfg.time_stride * time
        sizes = {"features": {0: utterances, 2: time}, "lengths": {0: utterances}}
    example = torch.zeros(batch, cfg.num_bins, frames), torch.full((batch,), frames)
    loops = nullcontext() if shape else _lstm_loops()
    model = _Program(cfg, params, stats).eval()
    try:
        with _quiet(), loops, torch.no_grad():
            return torch.export.export(model, example, dynamic_shapes=sizes)
    except Exception as error:  # torch raises many kinds, most of them private
        cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200].rstrip('.')}"
        raise InputError(f"torch {torch.__version__} cannot export this model ({cause}). {_INSTEAD}") from error


def _lstm_loops() -> AbstractContextManager[None]:
    """Lets torch trace an LSTM of any length, by a function of torch that is not public."""
    try:
        from torch.export._patches import register_lstm_while_loop_decomposition
    except ImportError as error:
        raise InputError(f"torch {torch.__version__} exports an LSTM with fixed sizes only. {_INSTEAD}") from error
    return register_lstm_while_loop_decomposition()


def open_file(path: Path) -> "ProgramEngine":
    """Opens a program that ``write`` wrote.

    Raises:
      InputError: the file cannot be read; or is no exported model, newer or damaged; or holds what could be executed:
        then nothing was executed; or is of a torch whose programs this one does not read.
    """
    contents, program = _read(path)
    engine = ProgramEngine(path, contents.about, _module(path, program, contents.weights), _shape(path, program))
    engine.prove()
    return engine


def describe(path: Path) -> tuple[About, int | None]:
    """What a program says of its model, and frames of the longest utterance (None: any); nothing is computed.

    Raises:
      InputError: as ``open_file``, but for what torch refuses.
    """
    contents, program = _read(path)
    shape = _shape(path, program)
    return contents.about, shape[1] if shape else None


def _read(path: Path) -> tuple[Contents, dict[str, Any]]:
    """The contents of a file, and its program, checked."""
    contents = program_archive.read(path)
    shapes = program_names.shapes(contents.about.cfg.model)
    try:
        return contents, program_check.checked(contents.program, shapes)
    except program_check.Refused as error:
        raise InputError(
            f"{path}: refused, nothing was executed. It holds {error}. Do not load the file with torch.export.load; "
            "export the model again with python -m launch.export."
        ) from error


def _module(path: Path, program: dict[str, Any], weights: dict[str, Tensor]) -> Any:
    """The program as a module of torch."""
    try:
        from torch._export.serde import schema, serialize

        with _quiet():
            text = json_text(program).encode()
            found = serialize.ExportedProgramDeserializer().deserialize(
                serialize._bytes_to_dataclass(schema.ExportedProgram, text), weights, {}, None
            )
            module: Any = found.module()
    except Exception as error:  # torch raises many kinds, most of them private
        cause = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise InputError(
            f"{path}: torch {torch.__version__} cannot read this program ({cause[0][:200]}): it is damaged, or of "
            "another torch. Export the model again with python -m launch.export, or install the torch that wrote it."
        ) from error
    module.validate_inputs = False  # otherwise a single utterance is refused, which a program of any size takes
    return module


def _shape(path: Path, program: dict[str, Any]) -> tuple[int, int] | None:
    """Utterances and frames of a program of fixed sizes."""
    sizes = program["graph_module"]["graph"]["tensor_values"].get("features", {}).get("sizes", [])
    if len(sizes) != 3:
        raise program_archive.damaged(path, "its features have no three axes")
    batch, frames = (each.get("as_int") for each in (sizes[0], sizes[2]))
    if batch is None or frames is None:
        return None
    if batch < 1 or frames < 1:
        raise program_archive.damaged(path, f"it takes {batch} utterances of {frames} frames")
    return batch, frames


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings about its own functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class ProgramEngine:
    """A program of ``torch.export`` on the CPU: an ``Engine``."""

    name = "pt2"

    def __init__(self, path: Path, about: About, module: Any, shape: tuple[int, int] | None) -> None:
        """Takes a program.

        Args:
          path: its file, for messages.
          about: what the file says of the model.
          module: computes features [B, F, T] and lengths [B].
          shape: utterances and frames of every call; None: any numbers.
        """
        self.about = about
        self._path, self._module, self._shape = path, module, shape

    @property
    def longest(self) -> int | None:
        """Frames of features that an utterance may have at most; None: any number."""
        return self._shape[1] if self._shape else None

    def logits(self, batch: Batch, /) -> Logits:
        """The log-probabilities of utterances, on the CPU.

        Raises:
          InputError: an utterance is longer than the program takes.
        """
        most = int(batch.lengths.max()) if len(batch.lengths) else 0
        require_short(most, self.longest, self.about.cfg.spect)
        features, lengths = batch.features[..., :most].float(), batch.lengths
        stride = self.about.cfg.model.time_stride
        rows, frames = self._shape or (max(len(lengths), 1), stride * max(math.ceil(most / stride), _FEWEST[1]))
        features = F.pad(features, (0, frames - features.shape[-1]))
        parts = [self._compute(*each, rows) for each in zip(features.split(rows), lengths.split(rows), strict=True)]
        values = torch.cat([part[0] for part in parts])
        ends = output_lengths(lengths, time_stride=stride)
        return Logits(values[:, : output_lengths(most, time_stride=stride)], ends)

    def prove(self) -> None:
        """Computes an utterance of silence, and compares the sizes of the result with those of the model.

        Raises:
          InputError: the program fails, or has other results.
        """
        cfg = self.about.cfg.model
        rows, frames = self._shape or (1, _FEWEST[1] * cfg.time_stride)
        lengths = torch.full((rows,), frames)
        try:
            values, ends = self._compute(torch.zeros(rows, cfg.num_bins, frames), lengths, rows)
        except Exception as error:  # operators raise many kinds
            cause = str(error).partition("\n")[0]
            raise program_archive.damaged(self._path, f"its program cannot be computed: {cause}") from error
        wanted = output_lengths(lengths, time_stride=cfg.time_stride)
        if (
            values.shape != (rows, int(wanted[0]), len(cfg.labels))
            or values.dtype != torch.float32
            or not torch.equal(ends, wanted)
            or not torch.isfinite(values).all()
        ):
            raise program_archive.damaged(self._path, "its program computes no log-probabilities of its labels")

    def _compute(self, features: Tensor, lengths: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Computes at most ``rows`` utterances, with empty utterances to make them ``rows``."""
        missing = rows - len(lengths)
        padded = F.pad(features, (0, 0, 0, 0, 0, missing)), F.pad(lengths, (0, missing))
        with torch.no_grad():
            values, ends = self._module(*padded)
        return values[: len(lengths)], ends[: len(lengths)]

    def begin(self, *, streams: int = 1, block: int = 16) -> StreamState:
        """Raises: a program computes whole recordings.

        Raises:
          InputError: always.
        """
        raise InputError(
            f"{self._path} computes whole recordings, no streams: give the run's folder, or the model exported with "
            "--format=safetensors or --format=onnx"
        )

    def advance(self, states: Sequence[StreamState], /) -> tuple[list[StreamState], list[Tensor]]:
        """Raises, as ``begin``."""
        raise AssertionError("a program has no streams")
