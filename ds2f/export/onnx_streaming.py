"""A unidirectional model over recordings that are still going on, as an ONNX graph with its state as in- and outputs.

It is ``model.streaming.step``: one block of B streams at a time, each at its own position.

  inputs   features [B, F, block * time_stride] float32
           lengths [B] int64: frames of each recording; 2**62 while its end is not known
           position [B] int64: frame of features at which the block begins
           conv_0, conv_1, hidden_k (and cell_k, of an LSTM), lookahead: the state, float32
  outputs  log_probs [B, block, V] float32, begin [B] int64: the frame of log_probs[:, 0], may be negative
           next_position, next_conv_0, ...: the state for the next block

Frames of log_probs outside 0 <= frame < output length belong to no frame of the recording. The first state is of zeros,
its position that of ``model.streaming.init``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ds2f.config import Config
from ds2f.convolutions import Convolution, convolutions
from ds2f.errors import InputError
from ds2f.export import onnx_layers
from ds2f.export.onnx_graph import Dimension, Graph
from ds2f.export.onnx_model import OnnxOptions
from ds2f.model import streaming
from ds2f.model.streaming import ModelState
from ds2f.types import Params, Stats

if TYPE_CHECKING:
    import onnx


def build(
    cfg: Config, params: Params, stats: Stats, options: OnnxOptions, *, metadata: Mapping[str, str] | None = None
) -> "onnx.ModelProto":
    """The graph of one block.

    Args:
      cfg: the configuration of the run.
      params: parameters of a unidirectional model.
      stats: running statistics.
      options: form of the graph; ``frames`` are frames of features in a block, a multiple of the time stride.
      metadata: is stored in the file.

    Raises:
      InputError: the model is bidirectional, or the features' frames are no whole frames of logits.
    """
    model = cfg.model
    begun = streaming.init(model, stats)  # refuses a bidirectional model
    if options.frames is not None and options.frames % model.time_stride:
        raise InputError(
            f"a block of {options.frames} frames: give a multiple of the time stride, {model.time_stride}, such as "
            f"{-(-options.frames // model.time_stride) * model.time_stride}"
        )
    if options.with_features:
        raise InputError("a streaming graph takes features, not samples; leave out --with_features")
    graph = Graph("deepspeech2_stream", opset=options.opset, dtype=options.dtype)
    batch: Dimension = "batch" if options.batch is None else options.batch
    frames: Dimension = "frames" if options.frames is None else options.frames
    features = graph.input(options.name("features"), "float32", [batch, model.num_bins, frames])
    lengths = graph.input(options.name("lengths"), "int64", [batch])
    position = graph.input(options.name("position"), "int64", [batch])
    shapes = {name: [batch, *part.shape[1:]] for name, part in state_parts(begun).items()}
    state = {name: _inner(graph, graph.input(options.name(name), "float32", shape)) for name, shape in shapes.items()}
    moved: dict[str, str] = {}

    x, at = graph.over("Unsqueeze", _inner(graph, features), [1]), position
    valid = _valid(graph, at, lengths, _size(graph, features, 2, options.frames))
    x = graph.zeroed(x, graph.over("Unsqueeze", valid, [1, 2]))
    size: int | None = options.frames
    layout = convolutions(model.time_stride, model.frequency_stride)
    for index, (conv, layer, running) in enumerate(
        zip(layout, params["conv"]["layers"], stats["conv"]["layers"], strict=True)
    ):
        window = graph.add("Concat", state[f"conv_{index}"], x, axis=3)
        moved[f"conv_{index}"] = graph.slice(window, 3, -shapes[f"conv_{index}"][-1])
        x = onnx_layers.convolution(graph, layer, running, window, layout=conv, padded=False)
        at, lengths = _position_after(graph, at, conv), _length_after(graph, lengths, conv)
        size = None if size is None else size // conv.stride[1]
        valid = _valid(graph, at, lengths, _size(graph, x, 3, size))
        x = graph.zeroed(x, graph.over("Unsqueeze", valid, [1, 2]))
    x = onnx_layers.frames_first(graph, x)
    within = graph.over("Unsqueeze", graph.add("Transpose", valid, perm=[1, 0]), [2])  # [block, B, 1]
    started = graph.over("Unsqueeze", graph.add("Less", graph.constant(np.int64(-1)), at), [1])
    for index in range(model.hidden_layers):
        branch = params[f"rnn_{index}"]
        if "norm" in branch:
            x = onnx_layers.norm(graph, branch["norm"], stats[f"rnn_{index}"]["norm"], x)
        names = [name for name in (f"hidden_{index}", f"cell_{index}") if name in state]
        carried = tuple(state[name] for name in names)
        x, after = onnx_layers.recurrent(graph, branch, x, cfg=model, state=carried)
        x = graph.zeroed(x, within)
        moved |= {
            name: graph.add("Where", started, new, old) for name, new, old in zip(names, after, carried, strict=True)
        }
    kept = model.lookahead_context - 1
    if kept:
        x = graph.add("Concat", graph.add("Transpose", state["lookahead"], perm=[1, 0, 2]), x, axis=0)
        moved["lookahead"] = graph.add("Transpose", graph.slice(x, 0, -kept), perm=[1, 0, 2])
    x = onnx_layers.lookahead(graph, params["output"]["lookahead"], x, after=0, summed=options.frames is not None)
    scores = onnx_layers.log_probs(graph, params["output"], stats["output"], x)
    block: Dimension = "block" if size is None else size
    graph.output(options.name("log_probs"), scores, "float32", [batch, block, len(model.labels)])
    graph.output(options.name("begin"), _shifted(graph, at, -kept), "int64", [batch])
    after_block = graph.add("Add", position, _length(graph, features, options.frames))
    graph.output(options.name("next_position"), after_block, "int64", [batch])
    for name, shape in shapes.items():
        value = moved[name] if options.dtype == "float32" else graph.cast(moved[name], "float32")
        graph.output(options.name(f"next_{name}"), value, "float32", shape)
    return graph.model(metadata or {})


def state_parts(state: ModelState) -> dict[str, Tensor]:
    """The tensors of a state but its position, by their names in the graph."""
    parts = {f"conv_{index}": part for index, part in enumerate(state.convs)}
    for index, layer in enumerate(state.rnns):
        parts |= dict(zip((f"hidden_{index}", f"cell_{index}"), layer, strict=False))
    return parts | ({"lookahead": state.lookahead} if state.lookahead.shape[1] else {})


def from_parts(parts: Mapping[str, Tensor], *, like: ModelState) -> ModelState:
    """The inverse of ``state_parts``, with ``position`` among the parts, for a state with the layers of ``like``."""
    return ModelState(
        parts["position"],
        [parts[f"conv_{index}"] for index in range(len(like.convs))],
        [
            tuple(parts[name] for name in (f"hidden_{index}", f"cell_{index}")[: len(layer)])
            for index, layer in enumerate(like.rnns)
        ],
        parts.get("lookahead", like.lookahead),
    )


def _inner(graph: Graph, value: str) -> str:
    return value if graph.dtype == "float32" else graph.cast(value, graph.dtype)


def _size(graph: Graph, value: str, axis: int, known: int | None) -> int | str:
    return graph.size(value, axis) if known is None else known


def _length(graph: Graph, features: str, known: int | None) -> str:
    return graph.size(features, 2) if known is None else graph.constant(np.int64(known))


def _valid(graph: Graph, position: str, lengths: str, size: int | str) -> str:
    """[B, T] bool: true where a frame, counted from ``position`` on, is in the recording."""
    frames = graph.add("Add", graph.over("Unsqueeze", position, [1]), graph.indices(size))
    begun = graph.add("Less", graph.constant(np.int64(-1)), frames)
    return graph.add("And", begun, graph.add("Less", frames, graph.over("Unsqueeze", lengths, [1])))


def _position_after(graph: Graph, position: str, conv: Convolution) -> str:
    """The output frame of a block whose first new input is frame ``position``."""
    kept = conv.kernel[1] - conv.stride[1]
    return _floor_divided(graph, _shifted(graph, position, conv.padding[1] - kept), conv.stride[1])


def _length_after(graph: Graph, lengths: str, conv: Convolution) -> str:
    """Frames after a convolution; a length that stands for an unknown end stays beyond all positions."""
    less = _shifted(graph, lengths, 2 * conv.padding[1] - conv.kernel[1])
    return _shifted(graph, _floor_divided(graph, less, conv.stride[1]), 1)


def _shifted(graph: Graph, value: str, by: int) -> str:
    return graph.add("Add", value, graph.constant(np.int64(by))) if by else value


def _floor_divided(graph: Graph, value: str, divisor: int) -> str:
    """The quotient rounded down: ONNX's Div rounds towards zero, its Mod has the divisor's sign."""
    if divisor == 1:
        return value
    number = graph.constant(np.int64(divisor))
    rest = graph.add("Mod", value, number)
    return graph.add("Div", graph.add("Sub", value, rest), number)
