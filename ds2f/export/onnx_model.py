"""A trained DeepSpeech2 as an ONNX graph, written from its parameters: features, or samples, to log-probabilities.

The recurrent layers are ONNX's own operators, with a length per utterance, so that a result does not depend on the
batch. torch's exporter would unroll the reversal of utterances into gathers, fix sizes and take 20 s.

  inputs   features [B, F, T] float32       or  samples [B, N] float32, full scale 1
           lengths [B] int32, frames            lengths [B] int32, samples
  outputs  log_probs [B, T', V] float32, natural log; frames past an utterance's end have no meaning
           output_lengths [B] int32, frames
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from ds2f.config import Config
from ds2f.convolutions import Convolution, convolutions, output_lengths
from ds2f.errors import InputError
from ds2f.export import onnx_features, onnx_layers
from ds2f.export.onnx_graph import OPSETS, Graph
from ds2f.types import Params, Stats

if TYPE_CHECKING:
    import onnx

_DTYPES = ("float32", "float16")


@attrs.frozen(kw_only=True)
class OnnxOptions:
    """Form of a graph.

    Attributes:
      opset: of the operators, 11 to 18.
      dtype: ``float32`` or ``float16``, of weights and arithmetic; inputs and outputs are float32.
      batch: utterances; None: any number.
      frames: frames of the features (samples, with ``with_features``); None: any number.
      with_features: the graph computes the features, too.
      names: of the inputs and outputs, by their names of the module's docstring, where they differ.
    """

    opset: int = 16
    dtype: str = "float32"
    batch: int | None = None
    frames: int | None = None
    with_features: bool = False
    names: Mapping[str, str] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise InputError(f"opset {self.opset}: graphs have an opset of {OPSETS[0]} to {OPSETS[-1]}")
        if self.dtype not in _DTYPES:
            raise InputError(f"dtype {self.dtype}: one of {', '.join(_DTYPES)}")

    def name(self, value: str) -> str:
        """The chosen name of an input or output."""
        return self.names.get(value, value)


def build(
    cfg: Config, params: Params, stats: Stats, options: OnnxOptions, *, metadata: Mapping[str, str] | None = None
) -> "onnx.ModelProto":
    """The graph of a model.

    Args:
      cfg: the configuration of the run.
      params: parameters.
      stats: running statistics.
      options: form of the graph.
      metadata: is stored in the file.

    Raises:
      InputError: the model exceeds 2 GiB, or samples in need statistics of the training set that are missing.
    """
    model = cfg.model
    graph = Graph("deepspeech2", opset=options.opset, dtype=options.dtype)
    x, lengths = _features(graph, cfg, options) if options.with_features else _inputs(graph, cfg, options)
    known = _known_frames(cfg, options)
    size = graph.size(x, 2) if known is None else known
    x = graph.over("Unsqueeze", x if options.dtype == "float32" else graph.cast(x, options.dtype), [1])
    valid = _valid(graph, lengths, size)
    x = graph.zeroed(x, _columns(graph, valid))
    layout = convolutions(model.time_stride, model.frequency_stride)
    for conv, layer, running in zip(layout, params["conv"]["layers"], stats["conv"]["layers"], strict=True):
        x = onnx_layers.convolution(graph, layer, running, x, layout=conv)
        lengths = _shorter(graph, lengths, conv)
        valid = graph.slice(valid, 1, 0, step=conv.stride[1]) if conv.stride[1] > 1 else valid
        x = graph.zeroed(x, _columns(graph, valid))
    x = onnx_layers.frames_first(graph, x)
    for index in range(model.hidden_layers):
        branch = params[f"rnn_{index}"]
        if "norm" in branch:
            x = onnx_layers.norm(graph, branch["norm"], stats[f"rnn_{index}"]["norm"], x)
        x, _ = onnx_layers.recurrent(graph, branch, x, cfg=model, lengths=lengths)
    if "lookahead" in params["output"]:
        rows = graph.over("Unsqueeze", graph.add("Transpose", valid, perm=[1, 0]), [2])  # [T, B, 1]
        x = graph.zeroed(x, rows)  # the operator leaves open what stands past an utterance's end
        x = onnx_layers.lookahead(
            graph,
            params["output"]["lookahead"],
            x,
            after=model.lookahead_context - 1,
            summed=options.frames is not None,
        )
    scores = onnx_layers.log_probs(graph, params["output"], stats["output"], x)
    _outputs(graph, cfg, options, scores, lengths)
    return graph.model(metadata or {})


def _inputs(graph: Graph, cfg: Config, options: OnnxOptions) -> tuple[str, str]:
    """The inputs: features, and lengths in frames."""
    batch = "batch" if options.batch is None else options.batch
    size = "frames" if options.frames is None else options.frames
    features = graph.input(options.name("features"), "float32", [batch, cfg.model.num_bins, size])
    return features, graph.input(options.name("lengths"), "int32", [batch])


def _features(graph: Graph, cfg: Config, options: OnnxOptions) -> tuple[str, str]:
    """The inputs samples, and lengths in samples, as features and lengths in frames."""
    batch = "batch" if options.batch is None else options.batch
    size = "samples" if options.frames is None else options.frames
    samples = graph.input(options.name("samples"), "float32", [batch, size])
    lengths = graph.input(options.name("lengths"), "int32", [batch])
    return onnx_features.log_spectrogram(graph, samples, lengths, cfg=cfg.spect, size=options.frames)


def _outputs(graph: Graph, cfg: Config, options: OnnxOptions, scores: str, lengths: str) -> None:
    batch = "batch" if options.batch is None else options.batch
    known = _known_frames(cfg, options)
    frames = "output_frames" if known is None else output_lengths(known, time_stride=cfg.model.time_stride)
    graph.output(options.name("log_probs"), scores, "float32", [batch, frames, len(cfg.model.labels)])
    graph.output(options.name("output_lengths"), lengths, "int32", [batch])


def _known_frames(cfg: Config, options: OnnxOptions) -> int | None:
    """Frames of the features, where they are fixed."""
    if options.frames is None or not options.with_features:
        return options.frames
    return onnx_features.frames(options.frames, cfg.spect)


def _valid(graph: Graph, lengths: str, size: int | str) -> str:
    """[B, T] bool: true within an utterance."""
    frames = graph.cast(graph.indices(size), "int32")
    return graph.add("Less", frames, graph.over("Unsqueeze", lengths, [1]))


def _columns(graph: Graph, valid: str) -> str:
    """[B, T] to [B, 1, 1, T], broadcast over channels and bins."""
    return graph.over("Unsqueeze", valid, [1, 2])


def _shorter(graph: Graph, lengths: str, conv: Convolution) -> str:
    """Frames after a convolution: lengths / stride, rounded up."""
    stride = conv.stride[1]
    if stride == 1:
        return lengths
    more = graph.add("Add", lengths, graph.constant(np.int32(stride - 1)))
    return graph.add("Div", more, graph.constant(np.int32(stride)))
