"""The stages of a DeepSpeech2, pure functions ``(params, x, *, ...) -> (y, moments)``; ``deepspeech2`` chains them.

``moments`` is the stage's branch of the moments tree, detached; ``{}`` in evaluation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ds2f import rng, tree
from ds2f.convolutions import Convolution
from ds2f.model import fused_norm, layers
from ds2f.model.batch_norm import batch_norm
from ds2f.model.recurrent import Kernel
from ds2f.precision import Policy
from ds2f.types import Params, Stage, Stats, identity


class Call(NamedTuple):
    """Options of one call of the model, shared by its stages."""

    train: bool
    key: int | None
    policy: Policy
    reduce_moments: Callable[[Tensor], Tensor]
    kernel: Kernel
    dropout: float  # rate; 0 in evaluation
    same_frames: bool  # whether dropout uses one mask for all frames of an utterance
    frames: layers.Frames  # mask and reversal, in frames of logits


def conv(
    params: Params,
    features: Tensor,
    *,
    layout: tuple[Convolution, ...],
    stats: Stats,
    input_padding: Tensor,
    call: Call,
) -> tuple[Tensor, dict[str, Any]]:
    """The convolutions: [B, F, T] to [T', B, C * F'], zero past each utterance's end.

    Args:
      params: the branch ``conv``.
      features: [B, F, T].
      layout: sizes of the convolutions.
      stats: the branch ``conv`` of the running statistics.
      input_padding: [T, B] bool, the mask of the features.
      call: options of the call.
    """
    x = F.pad(features, (0, input_padding.shape[0] - features.shape[-1]))[:, None]
    padding = input_padding.T.contiguous()[:, None, None]  # [B, 1, 1, T], broadcast over channels and frequencies
    x = layers.zero_padding(x, padding)
    measured = []
    for conv, layer, running in zip(layout, params["layers"], stats["layers"], strict=True):
        x = layers.conv2d(
            layer,
            x,
            stride=conv.stride,
            padding=conv.padding,
            dtype=call.policy.compute,
            fused=call.policy.fused,
        )
        padding = padding[..., :: conv.stride[1]].contiguous()  # an output frame is valid if its central input is
        # Padding is zeroed once, after the clip: batch norm ignores it.
        x, moments = _norm(layer["norm"], running["norm"], x, padding, axis=1, call=call, clipped=True)
        measured.append({"norm": moments})
    return x.permute(3, 0, 1, 2).flatten(2), {"layers": measured} if call.train else {}


def recurrent_layer(
    params: Params, x: Tensor, *, name: str, stats: Stats | None, call: Call
) -> tuple[Tensor, dict[str, Any]]:
    """Batch norm (except in rnn_0), dropout, kernel: [T', B, C] to [T', B, H], zero past each utterance's end."""
    measured: dict[str, Any] = {}
    if stats is not None:
        x, moments = _norm(params["norm"], stats["norm"], x, call.frames.padding[..., None], axis=2, call=call)
        x = _dropout(x, name, call)
        measured = {"norm": moments} if call.train else {}
    weights = [tree.cast(params[way], call.policy.compute) for way in ("forward", "backward") if way in params]
    y, _ = call.kernel(x.to(call.policy.compute), call.frames, None, weights)
    return y.to(call.policy.activation), measured


def first_forward(params: Params, x: Tensor, *, call: Call) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
    """The forward direction of rnn_0: x [T', B, C] to (x, y [T', B, H]); ``first_backward`` reads x too."""
    x = x.to(call.policy.compute)
    y, _ = call.kernel(x, call.frames, None, [tree.cast(params, call.policy.compute)])
    return (x, y), {}


def first_backward(params: Params, x_and_y: tuple[Tensor, Tensor], *, call: Call) -> tuple[Tensor, dict[str, Any]]:
    """Adds the backward direction of rnn_0: a forward kernel on reversed utterances, whose result is reversed."""
    x, forward_y = x_and_y
    weights = [tree.cast(params, call.policy.compute)]
    y, _ = call.kernel(layers.reverse(x, call.frames), call.frames, None, weights)
    return (forward_y + layers.reverse(y, call.frames)).to(call.policy.activation), {}


def output(params: Params, x: Tensor, *, stats: Stats, call: Call) -> tuple[Tensor, dict[str, Any]]:
    """Lookahead (unidirectional models), batch norm, dropout, linear layer: [T', B, H] to logits [B, T', V]."""
    compute, activation = call.policy.compute, call.policy.activation
    if "lookahead" in params:
        x = layers.clip(layers.lookahead(params["lookahead"], x, dtype=compute)).to(activation)
    x, moments = _norm(params["norm"], stats["norm"], x, call.frames.padding[..., None], axis=2, call=call)
    x = _dropout(x, "output", call)
    return _scores(x, params["weight"], call), {"norm": moments} if call.train else {}


def intermediate(params: Params, x: Tensor, *, call: Call) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
    """The intermediate head: x [T', B, H] to (x, logits [B, T', V])."""
    return (x, _scores(x, params["weight"], call)), {}


def on_first(stage: Stage) -> Stage:
    """Lifts a stage to pairs: applies it to the first element and passes the second through.

    Used for the stages after the intermediate head, whose logits are passed on to the loss.
    """

    def fn(params: Params, pair: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        y, auxiliary = stage.fn(params, pair[0])
        return (y, pair[1]), auxiliary

    return Stage(stage.name, fn)


def _scores(x: Tensor, weight: Tensor, call: Call) -> Tensor:
    """The linear layer: [T', B, H] to logits [B, T', V] in at least float32."""
    compute = call.policy.compute
    scores = F.linear(x.to(compute), weight.to(compute)).transpose(0, 1)
    return scores.to(torch.promote_types(compute, torch.float32))


def _norm(
    params: Params, stats: Stats, x: Tensor, padding: Tensor, *, axis: int, call: Call, clipped: bool = False
) -> tuple[Tensor, Any]:
    if call.policy.fused and call.train and call.reduce_moments is identity:
        return fused_norm.normalise(params, x, padding, axis=axis, dtype=call.policy.activation, clipped=clipped)
    x, moments = batch_norm(
        params,
        stats,
        x,
        padding,
        axis=axis,
        train=call.train,
        dtype=call.policy.activation,
        reduce_moments=call.reduce_moments,
    )
    return (layers.zero_padding(layers.clip(x), padding) if clipped else x), moments


def _dropout(x: Tensor, name: str, call: Call) -> Tensor:
    if call.dropout == 0 or call.key is None:
        return x
    return layers.dropout(x, rate=call.dropout, key=rng.fold_in(call.key, name), same_frames=call.same_frames)
