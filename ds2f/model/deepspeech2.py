"""DeepSpeech2 (Amodei et al. 2015) in the form of deepspeech.pytorch, as pure functions over explicit parameters.

Two convolutions over (frequency, time), recurrent layers whose two directions are summed, a linear layer onto the
labels. The model is a chain of stages, ``conv``, ``rnn_0`` ... ``rnn_{n-1}``, ``output``, each with its own subtree:

  params: conv    {"layers": [{"weight", "bias", "norm": {"scale", "bias"}}, the same again]}
          rnn_k   {"norm": {"scale", "bias"} (not in rnn_0), "forward": {"w_ih", "w_hh", "b_ih", "b_hh"},
                   "backward": the same (bidirectional only)}
          output  {"lookahead": {"weight"} (unidirectional only), "norm": {"scale", "bias"}, "weight"}
  stats:  {"mean", "var"} in the place of every norm; rnn_0 has no norm and no entry.
  moments: ``Moments`` in the place of every norm, in training.

Where we differ from deepspeech.pytorch: batch norm counts valid frames only, lengths are integers, features past an
utterance's end are never looked at, and logits are raw in both modes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ds2f import rng, tree
from ds2f.config import ModelConfig
from ds2f.model import fused_norm, layers, recurrent
from ds2f.model.batch_norm import batch_norm, update_stats
from ds2f.model.recurrent import Kernel
from ds2f.model.structure import CONVOLUTIONS, init, output_lengths
from ds2f.precision import FULL, Policy
from ds2f.types import Logits, Params, Stage, Stats, identity

__all__ = ["apply", "forward", "init", "output_lengths", "stages"]


class _Call(NamedTuple):
    """What all stages of one call share."""

    train: bool
    key: int | None
    policy: Policy
    reduce_moments: Callable[[Tensor], Tensor]
    kernel: Kernel
    rate: float
    frames: layers.Frames  # at the resolution of the logits


def stages(
    cfg: ModelConfig,
    stats: Stats,
    lengths: Tensor,
    *,
    train: bool,
    key: int | None = None,
    policy: Policy = FULL,
    kernel: Kernel | None = None,
    reduce_moments: Callable[[Tensor], Tensor] = identity,
    frames: int | None = None,
    split_first: bool = False,
) -> list[Stage]:
    """The model for one batch as a chain of pure functions.

    Args:
      cfg: the ``model`` section.
      stats: running statistics, on the device to compute on.
      lengths: [B] int64 on the CPU, frames. Masks and the reversal are made on the device from a non-blocking copy.
      train: batch norm by the batch's own moments, and dropout.
      key: dropout is drawn from (key, stage); needed only when ``cfg.dropout`` is positive in training.
      policy: dtypes of the forward pass.
      kernel: a recurrent kernel (see ``recurrent``); ``None`` takes the one that ``cfg.kernel`` names.
      reduce_moments: a differentiable sum over ranks, for synchronised batch norm.
      frames: padded length to compute with; ``None`` for the longest utterance's. Features are cut or filled to it.
      split_first: makes a stage of each direction of the first recurrent layer, ``rnn_0/forward`` and
        ``rnn_0/backward``, whose parameters are ``params["rnn_0"]["forward"]`` and so on: only the convolutions are
        differentiated after that layer, so half of its gradients should be on their way before the other half is done.

    Returns:
      ``Stage(name, fn)`` with ``fn(params[name], x) -> (y, moments)``. The first takes features [B, F, T], between
      them flows [T', B, C], the last gives logits [B, T', V]. ``moments`` is that stage's part of the moments tree,
      detached; ``{}`` in evaluation.

    Raises:
      ValueError: when dropout has no key, or a length exceeds ``frames``.
    """
    if train and cfg.dropout > 0 and key is None:
        raise ValueError("dropout draws from a key and got none: pass key=rng.fold_in(seed, step), another every step")
    longest = int(lengths.max()) if lengths.numel() else 0  # lengths are on the host, so nothing is waited for
    frames = longest if frames is None else frames
    if longest > frames:
        raise ValueError(f"an utterance of {longest} frames does not fit into features of {frames}")
    size = max(frames, 1)  # a batch of empty utterances still has one frame, all padding
    device = tree.leaves(stats)[0].device
    call = _Call(
        train=train,
        key=key,
        policy=policy,
        reduce_moments=reduce_moments,
        kernel=kernel or recurrent.named(cfg.kernel, cfg.rnn_type),
        rate=cfg.dropout if train else 0.0,
        frames=layers.frames(output_lengths(lengths).to(device, non_blocking=True), output_lengths(size)),
    )
    input_padding = layers.frames(lengths.to(device, non_blocking=True), size).padding
    chain = [Stage("conv", partial(_conv, stats=stats["conv"], input_padding=input_padding, call=call))]
    if split_first and cfg.bidirectional:
        chain.append(Stage("rnn_0/forward", partial(_first_forward, call=call)))
        chain.append(Stage("rnn_0/backward", partial(_first_backward, call=call)))
    for name in (f"rnn_{index}" for index in range(len(chain) > 1, cfg.hidden_layers)):
        chain.append(Stage(name, partial(_recurrent, name=name, stats=stats.get(name), call=call)))
    return [*chain, Stage("output", partial(_output, stats=stats["output"], call=call))]


def forward(
    params: Params,
    stats: Stats,
    features: Tensor,
    lengths: Tensor,
    *,
    cfg: ModelConfig,
    train: bool,
    key: int | None = None,
    policy: Policy = FULL,
    kernel: Kernel | None = None,
    reduce_moments: Callable[[Tensor], Tensor] = identity,
) -> tuple[Logits, dict[str, Any]]:
    """Runs all stages; the arguments are those of ``apply``.

    Returns:
      The logits and the tree of batch-norm moments for ``update_stats``, detached (``{}`` in evaluation).
    """
    chain = stages(
        cfg,
        stats,
        lengths,
        train=train,
        key=key,
        policy=policy,
        kernel=kernel,
        reduce_moments=reduce_moments,
        frames=features.shape[-1],
    )
    x, moments = features, {}
    for stage in chain:
        x, measured = stage.fn(params[stage.name], x)
        if measured:
            moments[stage.name] = measured
    return Logits(x, output_lengths(lengths)), moments


def apply(
    params: Params,
    stats: Stats,
    features: Tensor,
    lengths: Tensor,
    *,
    cfg: ModelConfig,
    train: bool,
    key: int | None = None,
    policy: Policy = FULL,
    kernel: Kernel | None = None,
    reduce_moments: Callable[[Tensor], Tensor] = identity,
) -> tuple[Logits, Stats]:
    """Scores the labels at every frame, and in training moves the running statistics.

    Args:
      params: see the head of this file.
      stats: running statistics.
      features: [B, F, T] float, what lies past an utterance's end is ignored.
      lengths: [B] int64 on the CPU, frames.
      cfg: the ``model`` section.
      train: batch norm by the batch's own moments, and dropout.
      key: for dropout, see ``stages``.
      policy: dtypes of the forward pass.
      kernel: a recurrent kernel; ``None`` takes the one that ``cfg.kernel`` names.
      reduce_moments: a differentiable sum over ranks, for synchronised batch norm.

    Returns:
      ``Logits`` of values [B, T', V] (unnormalised in both modes, float32, or float64 under a float64 policy) and
      lengths [B] int64 on the CPU; and the statistics: new ones in training, ``stats`` itself in evaluation.

    Raises:
      ValueError: when dropout has no key, or a length exceeds T.
    """
    logits, moments = forward(
        params,
        stats,
        features,
        lengths,
        cfg=cfg,
        train=train,
        key=key,
        policy=policy,
        kernel=kernel,
        reduce_moments=reduce_moments,
    )
    return logits, update_stats(stats, moments) if train else stats


def _conv(
    params: Params, features: Tensor, *, stats: Stats, input_padding: Tensor, call: _Call
) -> tuple[Tensor, dict[str, Any]]:
    """[B, F, T] to [T', B, C * F'], zero past each utterance's end."""
    size = input_padding.shape[0]
    x = F.pad(features, (0, size - features.shape[-1]))[:, None]
    x = layers.zero_padding(x, _batch_major(input_padding))
    padding = _batch_major(call.frames.padding)
    measured = []
    for conv, layer, running in zip(CONVOLUTIONS, params["layers"], stats["layers"], strict=True):
        x = layers.conv2d(
            layer,
            x,
            stride=conv.stride,
            padding=conv.padding,
            dtype=call.policy.compute,
            innermost=call.policy.fused,
        )
        # Once is enough for zeros after convolution, norm and clip alike: the norm ignores padding, 0 is clipped to 0.
        x, moments = _norm(layer["norm"], running["norm"], x, padding, axis=1, call=call, clipped=True)
        measured.append({"norm": moments})
    return x.permute(3, 0, 1, 2).flatten(2), {"layers": measured} if call.train else {}


def _recurrent(
    params: Params, x: Tensor, *, name: str, stats: Stats | None, call: _Call
) -> tuple[Tensor, dict[str, Any]]:
    """[T', B, C] to [T', B, H], zero past each utterance's end."""
    measured: dict[str, Any] = {}
    if stats is not None:
        x, moments = _norm(params["norm"], stats["norm"], x, call.frames.padding[..., None], axis=2, call=call)
        x = _dropout(x, name, call)
        measured = {"norm": moments} if call.train else {}
    weights = [tree.cast(params[way], call.policy.compute) for way in ("forward", "backward") if way in params]
    y, _ = call.kernel(x.to(call.policy.compute), call.frames, None, weights)
    return y.to(call.policy.activation), measured


def _first_forward(params: Params, x: Tensor, *, call: _Call) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
    """[T', B, C] to itself, as the other direction reads it, and [T', B, H]."""
    x = x.to(call.policy.compute)
    y, _ = call.kernel(x, call.frames, None, [tree.cast(params, call.policy.compute)])
    return (x, y), {}


def _first_backward(params: Params, x_and_y: tuple[Tensor, Tensor], *, call: _Call) -> tuple[Tensor, dict[str, Any]]:
    """Adds the other direction, which is the first one's function on utterances that run backwards."""
    x, forward_y = x_and_y
    weights = [tree.cast(params, call.policy.compute)]
    y, _ = call.kernel(layers.reverse(x, call.frames), call.frames, None, weights)
    return (forward_y + layers.reverse(y, call.frames)).to(call.policy.activation), {}


def _output(params: Params, x: Tensor, *, stats: Stats, call: _Call) -> tuple[Tensor, dict[str, Any]]:
    """[T', B, H] to logits [B, T', V]."""
    compute, activation = call.policy.compute, call.policy.activation
    if "lookahead" in params:
        x = layers.clip(layers.lookahead(params["lookahead"], x, dtype=compute)).to(activation)
    x, moments = _norm(params["norm"], stats["norm"], x, call.frames.padding[..., None], axis=2, call=call)
    x = _dropout(x, "output", call)
    logits = F.linear(x.to(compute), params["weight"].to(compute)).transpose(0, 1)
    return logits.to(torch.promote_types(compute, torch.float32)), {"norm": moments} if call.train else {}


def _norm(
    params: Params, stats: Stats, x: Tensor, padding: Tensor, *, axis: int, call: _Call, clipped: bool = False
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


def _dropout(x: Tensor, name: str, call: _Call) -> Tensor:
    if call.rate == 0 or call.key is None:
        return x
    return layers.dropout(x, rate=call.rate, key=rng.fold_in(call.key, name))


def _batch_major(padding: Tensor) -> Tensor:
    """[T, B] to [B, 1, 1, T], to broadcast over channels and frequencies."""
    return padding.T.contiguous()[:, None, None]
