"""DeepSpeech2 (Amodei et al. 2015) in the form of deepspeech.pytorch, as pure functions over explicit parameters.

Two convolutions over (frequency, time), recurrent layers whose two directions are summed, a linear layer onto the
labels. The model is a chain of stages, ``conv``, ``rnn_0`` ... ``rnn_{n-1}``, ``output``, each with its own subtree:

  params: conv    {"layers": [{"weight", "bias", "norm": {"scale", "bias"}}, the same again]}
          rnn_k   {"norm": {"scale", "bias"} (not in rnn_0), "forward": {"w_ih", "w_hh", "b_ih", "b_hh"},
                   "backward": the same (bidirectional only)}
          output  {"lookahead": {"weight"} (unidirectional only), "norm": {"scale", "bias"}, "weight"}
          intermediate  {"weight"} (only with ``intermediate_ctc``, and only training looks at it)
  stats:  {"mean", "var"} in the place of every norm; rnn_0 has no norm and no entry.
  moments: ``Moments`` in the place of every norm, in training.

Where we differ from deepspeech.pytorch: batch norm counts valid frames only, lengths are integers, features past an
utterance's end are never looked at, and logits are raw in both modes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ds2f import tree
from ds2f.config import ModelConfig
from ds2f.convolutions import convolutions, output_lengths
from ds2f.model import blocks, layers, recurrent
from ds2f.model.batch_norm import update_stats
from ds2f.model.recurrent import Kernel
from ds2f.model.structure import init
from ds2f.precision import FULL, Policy
from ds2f.types import Logits, Params, Stage, Stats, identity

__all__ = ["apply", "forward", "init", "output_lengths", "stages"]


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
    intermediate: bool = False,
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
      intermediate: if ``cfg.intermediate_ctc`` is positive, puts a stage ``intermediate`` after the middle recurrent
        layer, which scores the labels with a linear layer of its own; the last stage then gives a pair, the logits and
        those scores, both [B, T', V].

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
    shorter = partial(output_lengths, time_stride=cfg.time_stride)
    call = blocks.Call(
        train=train,
        key=key,
        policy=policy,
        reduce_moments=reduce_moments,
        kernel=kernel or recurrent.named(cfg.kernel, cfg.rnn_type),
        rate=cfg.dropout if train else 0.0,
        same_frames=cfg.variational_dropout,
        frames=layers.frames(shorter(lengths).to(device, non_blocking=True), shorter(size)),
    )
    input_padding = layers.frames(lengths.to(device, non_blocking=True), size).padding
    conv = partial(
        blocks.conv,
        layout=convolutions(cfg.time_stride, cfg.frequency_stride),
        stats=stats["conv"],
        input_padding=input_padding,
        call=call,
    )
    chain = [Stage("conv", conv)]
    if split_first and cfg.bidirectional:
        chain.append(Stage("rnn_0/forward", partial(blocks.first_forward, call=call)))
        chain.append(Stage("rnn_0/backward", partial(blocks.first_backward, call=call)))
    for name in (f"rnn_{index}" for index in range(len(chain) > 1, cfg.hidden_layers)):
        chain.append(Stage(name, partial(blocks.recurrent_layer, name=name, stats=stats.get(name), call=call)))
    chain.append(Stage("output", partial(blocks.output, stats=stats["output"], call=call)))
    if intermediate and cfg.intermediate_ctc:
        above = cfg.hidden_layers // 2 + 1  # stages: the layers above the middle one, and the output
        middle = Stage("intermediate", partial(blocks.intermediate, call=call))
        return [*chain[:-above], middle, *map(blocks.beside, chain[-above:])]
    return chain


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
    return Logits(x, output_lengths(lengths, time_stride=cfg.time_stride)), moments


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
