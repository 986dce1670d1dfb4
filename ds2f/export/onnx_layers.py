"""The layers of a DeepSpeech2 as ONNX operators. Batch norm is an affine map: it is folded into its convolution."""

from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds2f.config import ModelConfig
from ds2f.convolutions import Convolution
from ds2f.errors import InputError
from ds2f.export.onnx_graph import Graph, floats
from ds2f.model.batch_norm import EPS
from ds2f.model.layers import CEILING
from ds2f.types import Params, Stats

_OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
# The order of ONNX's gates (LSTM i o f c, GRU z r h), as places in torch's order (LSTM i f g o, GRU r z n).
_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


def convolution(
    graph: Graph, params: Params, stats: Stats, value: str, *, layout: Convolution, padded: bool = True
) -> str:
    """A convolution with its batch norm and clip: [B, C, F, T] to [B, C', F', T'].

    Args:
      graph: the graph.
      params: ``weight``, ``bias`` and ``norm`` of the layer.
      stats: ``norm`` of the layer.
      value: the input.
      layout: sizes of the convolution.
      padded: whether zeros are added before and after the frames; otherwise only beside the bins, as in streaming.
    """
    factor, shift = _affine(params["norm"], stats["norm"])
    weight = graph.weight(floats(params["weight"]) * factor[:, None, None, None])
    bias = graph.weight(floats(params["bias"]) * factor + shift)
    beside, around = layout.padding[0], layout.padding[1] if padded else 0
    value = graph.add("Conv", value, weight, bias, strides=list(layout.stride), pads=[beside, around, beside, around])
    return clip(graph, value)


def clip(graph: Graph, value: str) -> str:
    """The clipped ReLU."""
    return graph.add("Clip", value, graph.weight(0.0), graph.weight(CEILING))


def frames_first(graph: Graph, value: str) -> str:
    """[B, C, F, T] to [T, B, C * F], the input of the recurrent layers."""
    value = graph.add("Transpose", value, perm=[3, 0, 1, 2])
    return graph.add("Reshape", value, graph.constant(np.array([0, 0, -1], np.int64)))


def norm(graph: Graph, params: Params, stats: Stats, value: str) -> str:
    """Batch norm by running statistics, channels on the last axis."""
    factor, shift = _affine(params, stats)
    return graph.add("Add", graph.add("Mul", value, graph.weight(factor)), graph.weight(shift))


def recurrent(
    graph: Graph, params: Params, value: str, *, cfg: ModelConfig, lengths: str = "", state: tuple[str, ...] = ()
) -> tuple[str, list[str]]:
    """A recurrent layer by ONNX's own operator, directions summed.

    Args:
      graph: the graph.
      params: ``forward`` and, of a bidirectional model, ``backward``.
      value: [T, B, I].
      cfg: the ``model`` section.
      lengths: [B] int32, frames, if they differ; the backward direction begins at each utterance's own end.
      state: of a streaming model: (h, c) or (h,), each [B, H]; otherwise zeros.

    Returns:
      [T, B, H], and the new state.
    """
    ways = [params[way] for way in ("forward", "backward") if way in params]
    weights = [
        np.stack([np.concatenate([_gates(floats(way[part]), cfg.rnn_type) for part in parts]) for way in ways])
        for parts in (("w_ih",), ("w_hh",), ("b_ih", "b_hh"))
    ]
    inputs = [value, *map(graph.weight, weights), lengths, *(graph.over("Unsqueeze", part, [0]) for part in state)]
    attributes: dict[str, Any] = {"linear_before_reset": 1} if cfg.rnn_type == "gru" else {}
    y, *moved = graph.add_many(
        _OPERATORS[cfg.rnn_type],
        *inputs,
        outputs=1 + len(state),
        hidden_size=cfg.hidden_size,
        direction="bidirectional" if cfg.bidirectional else "forward",
        **attributes,
    )
    # y: [T, directions, B, H]
    y = graph.over("ReduceSum", y, [1], keepdims=0) if cfg.bidirectional else graph.over("Squeeze", y, [1])
    return y, [graph.over("Squeeze", part, [0]) for part in moved]


def lookahead(graph: Graph, params: Params, value: str, *, after: int, summed: bool) -> str:
    """The lookahead convolution and its clip: [T, B, H], zero outside utterances, to as many frames.

    Args:
      graph: the graph.
      params: ``weight`` [H, 1, context].
      value: the input.
      after: frames of zeros that follow; with ``context - 1``, the output has as many frames as the input.
      summed: a sum of products over the frames in place of a convolution with a group for each unit. CANN documents
        convolutions of one group only; onnxruntime takes two to four times as long for the sum.
    """
    weight = floats(params["weight"])
    if not summed:
        by_unit = graph.add("Transpose", value, perm=[1, 2, 0])
        weighed = graph.add("Conv", by_unit, graph.weight(weight), group=len(weight), pads=[0, after])
        return clip(graph, graph.add("Transpose", weighed, perm=[2, 0, 1]))
    if after:
        value = graph.add("Pad", value, graph.constant(np.array([0, 0, 0, after, 0, 0], np.int64)))
    context = weight.shape[2]
    products = []
    for frame in range(context):
        later = graph.slice(value, 0, frame, *([frame + 1 - context] if frame + 1 < context else []))
        products.append(graph.add("Mul", later, graph.weight(weight[:, 0, frame])))
    return clip(graph, reduce(lambda first, second: graph.add("Add", first, second), products))


def log_probs(graph: Graph, params: Params, stats: Stats, value: str) -> str:
    """Batch norm, linear layer and log-softmax in float32: [T, B, H] to [B, T, V]."""
    value = norm(graph, params["norm"], stats["norm"], value)
    scores = graph.add("MatMul", value, graph.weight(floats(params["weight"]).T))
    scores = graph.add("Transpose", scores, perm=[1, 0, 2])
    if graph.dtype != "float32":
        scores = graph.cast(scores, "float32")
    return graph.add("LogSoftmax", scores, axis=2)


def _gates(weights: NDArray[np.float64], rnn_type: str) -> NDArray[np.float64]:
    """Rows of a weight or bias, in ONNX's order of gates."""
    parts = np.split(weights, len(_GATES[rnn_type]))
    return np.concatenate([parts[place] for place in _GATES[rnn_type]])


def _affine(params: Params, stats: Stats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factor and shift of a batch norm by running statistics."""
    factor = floats(params["scale"]) / np.sqrt(floats(stats["var"]) + EPS)
    if not np.isfinite(factor).all():
        raise InputError("a batch norm's variance is negative or not finite: the checkpoint is damaged; take another")
    return factor, floats(params["bias"]) - floats(stats["mean"]) * factor
