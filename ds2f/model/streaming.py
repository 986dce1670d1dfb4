"""A unidirectional DeepSpeech2 over a recording that is still going on, block by block, with the same logits.

A block has ``block`` frames of logits, ``block * time_stride`` frames of features. Each layer keeps the inputs that its
next outputs need: a convolution the last frames, a recurrent layer its state, the lookahead the frames that it weighs.
A layer's outputs lag behind its inputs; outputs before the first frame are masked, as padding is::

    features  . . . . 0 1 2 3 | 4 5 6 7 8 9 . .        a block of features: virtual frames, then frames of the recording
    conv                . . . . | 0 1 2 3              as many outputs, each some frames late
    rnn                           0 1 2 3              starts at the beginning of a block, from a state of zeros
    lookahead                     . . 0 1              late by context - 1 frames

Shapes are the same for every block and every position. Streams are therefore batched by concatenation, at whatever
position each of them is: ``tree.map(lambda *rows: torch.cat(rows), *states)``.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ds2f import tree
from ds2f.config import ModelConfig
from ds2f.convolutions import Convolution, convolutions, output_lengths
from ds2f.errors import InputError
from ds2f.model import layers, recurrent
from ds2f.model.batch_norm import batch_norm
from ds2f.model.recurrent import Kernel
from ds2f.precision import FULL, Policy
from ds2f.types import Params, Stats

ENDLESS = 2**62  # the length of a recording whose end is not known yet, frames


class ModelState(NamedTuple):
    """The model's state between two blocks of B streams. All leaves have the streams on axis 0."""

    position: Tensor  # [B] int64 on the CPU: frame of features at which the next block begins; negative: virtual
    convs: list[Tensor]  # per convolution [B, C, F, kernel - stride]: its last inputs
    rnns: list[tuple[Tensor, ...]]  # per recurrent layer (h, c) or (h,), each [B, H]
    lookahead: Tensor  # [B, context - 1, H]: outputs of the last recurrent layer


class Block(NamedTuple):
    """Logits of one block of B streams; those outside 0 <= frame < length belong to no frame of the recording."""

    values: Tensor  # [B, block, V]
    begin: Tensor  # [B] int64 on the CPU: the frame of logits of values[:, 0]; may be negative


def init(cfg: ModelConfig, stats: Stats, *, streams: int = 1, block: int = 16, policy: Policy = FULL) -> ModelState:
    """The state before the first frame.

    Args:
      cfg: the ``model`` section of a unidirectional model.
      stats: running statistics, on the device to compute on; empty: the CPU, for a ``step`` elsewhere than here.
      streams: B, number of streams.
      block: frames of logits in a block; 16 are 320 ms at the default stride.
      policy: dtypes of the forward pass.

    Raises:
      InputError: the model is bidirectional: its backward layers begin at a recording's end.
    """
    if cfg.bidirectional:
        raise InputError(
            "a bidirectional model cannot stream: its backward layers begin at the end of a recording; transcribe "
            "whole recordings, or train with --nomodel.bidirectional (configs/an4_streaming.flags)"
        )
    zeros = partial(torch.zeros, device=device_of(stats))
    bins, channels, convs = cfg.num_bins, 1, []
    for index, conv in enumerate(convolutions(cfg.time_stride, cfg.frequency_stride)):
        dtype = torch.float32 if index == 0 else policy.activation
        convs.append(zeros(streams, channels, bins, _kept(conv), dtype=dtype))
        channels, bins = conv.channels, (bins + 2 * conv.padding[0] - conv.kernel[0]) // conv.stride[0] + 1
    hidden = zeros(streams, cfg.hidden_size, dtype=policy.compute)
    state = (hidden, hidden) if cfg.rnn_type == "lstm" else (hidden,)
    return ModelState(
        torch.full((streams,), -_lead(cfg, block), device="cpu"),
        convs,
        [state] * cfg.hidden_layers,
        zeros(streams, cfg.lookahead_context - 1, cfg.hidden_size, dtype=policy.activation),
    )


def device_of(stats: Stats) -> torch.device:
    """The device on which streams of a model with these statistics are; the CPU if they are empty."""
    leaves = tree.leaves(stats)
    return leaves[0].device if leaves else torch.device("cpu")


def step(
    params: Params,
    stats: Stats,
    state: ModelState,
    features: Tensor,
    lengths: Tensor | None = None,
    *,
    cfg: ModelConfig,
    policy: Policy = FULL,
    kernel: Kernel | None = None,
) -> tuple[ModelState, Block]:
    """Computes the next block of logits.

    Args:
      params: parameters.
      stats: running statistics.
      state: of ``init`` or the last ``step``.
      features: [B, F, block * time_stride] float: frames ``state.position`` and following; the values of virtual
        frames, before the first and after the last, are ignored.
      lengths: [B] int64 on the CPU, frames of each recording; None or ``ENDLESS``: not known yet.
      cfg: the ``model`` section.
      policy: dtypes of the forward pass.
      kernel: a recurrent kernel; None for the kernel ``cfg.kernel``.
    """
    lengths = torch.full_like(state.position, ENDLESS) if lengths is None else lengths
    device = features.device
    position, x, convs = state.position, features[:, None], []
    x = _masked(x, position, lengths, device)
    layout = convolutions(cfg.time_stride, cfg.frequency_stride)
    for conv, layer, running, cache in zip(
        layout, params["conv"]["layers"], stats["conv"]["layers"], state.convs, strict=True
    ):
        window = torch.cat((cache, x.to(cache.dtype)), dim=3)
        convs.append(window[..., -_kept(conv) :])
        x = layers.conv2d(layer, window, stride=conv.stride, padding=(conv.padding[0], 0), dtype=policy.compute)
        x = layers.clip(_norm(layer["norm"], running["norm"], x, axis=1, policy=policy))
        position, lengths = _after(position, conv), _lengths_after(lengths, conv)
        x = _masked(x, position, lengths, device)
    x = x.permute(3, 0, 1, 2).flatten(2)  # [block, B, C * F]

    started = (position >= 0).to(device)[:, None]
    run = kernel or recurrent.named(cfg.kernel, cfg.rnn_type)
    padding = outside(position, lengths, len(x)).T.to(device)  # [block, B]
    frames = layers.Frames(padding, torch.arange(padding.numel(), device=device))
    rnns = []
    for index, carried in enumerate(state.rnns):
        branch = params[f"rnn_{index}"]
        if "norm" in branch:
            x = _norm(branch["norm"], stats[f"rnn_{index}"]["norm"], x, axis=2, policy=policy)
        weights = [tree.cast(branch["forward"], policy.compute)]
        y, (moved,) = run(x.to(policy.compute), frames, [carried], weights)
        x = y.to(policy.activation)
        rnns.append(tuple(torch.where(started, new, old) for new, old in zip(moved, carried, strict=True)))

    window = torch.cat((state.lookahead.transpose(0, 1), x))
    kept = window[len(x) :]
    values = _output(params["output"], stats["output"], window, frames=len(x), policy=policy)
    moved_state = ModelState(state.position + features.shape[2], convs, rnns, kept.transpose(0, 1))
    return moved_state, Block(values, position - len(kept))


def output_range(block: Block, lengths: Tensor | None, *, cfg: ModelConfig) -> Tensor:
    """[B, 2] int64: the columns of ``block.values`` from and to which frames of the recordings stand."""
    size = block.values.shape[1]
    ends = torch.full_like(block.begin, ENDLESS) if lengths is None else _logit_lengths(lengths, cfg)
    return torch.stack((-block.begin, ends - block.begin), dim=1).clamp(0, size)


def next_frames(state: ModelState, *, cfg: ModelConfig) -> Tensor:
    """[B] int64: the frame of logits at which the next block begins; negative before the recording's first."""
    position = state.position
    for conv in convolutions(cfg.time_stride):
        position = _after(position, conv)
    return position - (cfg.lookahead_context - 1)


def delay(cfg: ModelConfig) -> int:
    """Frames of features after a frame of logits that decide on it: the algorithmic delay."""
    reach, stride = 0, 1
    for conv in convolutions(cfg.time_stride):
        reach += conv.padding[1] * stride
        stride *= conv.stride[1]
    return reach + (cfg.lookahead_context - 1) * stride


def _output(params: Params, stats: Stats, window: Tensor, *, frames: int, policy: Policy) -> Tensor:
    """Lookahead, batch norm and linear layer: window [context - 1 + frames, B, H] to logits [B, frames, V]."""
    x = layers.clip(layers.lookahead(params["lookahead"], window, dtype=policy.compute)[:frames])
    x = _norm(params["norm"], stats["norm"], x.to(policy.activation), axis=2, policy=policy)
    scores = F.linear(x.to(policy.compute), params["weight"].to(policy.compute)).transpose(0, 1)
    return scores.to(torch.promote_types(policy.compute, torch.float32))


def _norm(params: Params, stats: Stats, x: Tensor, *, axis: int, policy: Policy) -> Tensor:
    nowhere = torch.zeros((), dtype=torch.bool, device=x.device)  # evaluation does not read the mask
    y, _ = batch_norm(params, stats, x, nowhere, axis=axis, train=False, dtype=policy.activation)
    return y


def _kept(conv: Convolution) -> int:
    """Inputs that a convolution keeps: with as many, n * stride more make n outputs."""
    return conv.kernel[1] - conv.stride[1]


def _after(position: Tensor, conv: Convolution) -> Tensor:
    """The output frame of a block whose first new input is frame ``position``."""
    return (position - _kept(conv) + conv.padding[1]) // conv.stride[1]


def _lead(cfg: ModelConfig, block: int) -> int:
    """Virtual frames before the first: with these, the recurrent layers start at the beginning of a block."""
    first, second = convolutions(cfg.time_stride)
    begin = 0
    while True:
        begin -= block
        into_second = begin * second.stride[1] + _kept(second) - second.padding[1]
        lead = -(into_second * first.stride[1] + _kept(first) - first.padding[1])
        if lead >= 0:
            return lead


def _lengths_after(lengths: Tensor, conv: Convolution) -> Tensor:
    after = (lengths + 2 * conv.padding[1] - conv.kernel[1]) // conv.stride[1] + 1
    return torch.where(lengths < ENDLESS, after, lengths)


def _logit_lengths(lengths: Tensor, cfg: ModelConfig) -> Tensor:
    return torch.where(lengths < ENDLESS, output_lengths(lengths, time_stride=cfg.time_stride), lengths)


def outside(position: Tensor, lengths: Tensor | None, size: int) -> Tensor:
    """[B, size] bool on the CPU: true where a frame, counted from ``position`` on, is not in the recording."""
    lengths = torch.full_like(position, ENDLESS) if lengths is None else lengths
    frames = position[:, None] + torch.arange(size, device="cpu")
    return (frames < 0) | (frames >= lengths[:, None])


def _masked(x: Tensor, position: Tensor, lengths: Tensor, device: torch.device) -> Tensor:
    """Sets frames of ``x`` [B, C, F, T] outside the recording to zero."""
    return layers.zero_padding(x, outside(position, lengths, x.shape[3]).to(device)[:, None, None])
