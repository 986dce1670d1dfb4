"""DeepSpeech2 (Amodei et al. 2015) in the form of deepspeech.pytorch, as pure functions over explicit parameters.

The model has two convolutions over (frequency, time), recurrent layers whose two directions are summed, and a linear
layer onto the labels. It is a chain of stages ``conv``, ``rnn_0`` ... ``rnn_{n-1}``, ``output``, each with its own
branch of the trees:

  params: conv    {"layers": [{"weight", "bias", "norm": {"scale", "bias"}}, the same again]}
          rnn_k   {"norm": {"scale", "bias"} (not in rnn_0), "forward": {"w_ih", "w_hh", "b_ih", "b_hh"},
                   "backward": the same (bidirectional only)}
          output  {"lookahead": {"weight"} (unidirectional only), "norm": {"scale", "bias"}, "weight"}
          intermediate  {"weight"} (only with ``intermediate_ctc``; used in training only)
  stats:  {"mean", "var"} in place of every norm; rnn_0 has no norm and no entry.
  moments: ``Moments`` in place of every norm, in training.

Differences from deepspeech.pytorch: batch norm counts valid frames only, lengths are integers, features past an
utterance's end have no influence, and logits are unnormalised in both modes.
"""

from collections.abc import Callable
from functools import partial

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

__all__ = ["apply", "init", "output_lengths", "stages"]


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
      lengths: [B] int64 on the CPU, frames. Mask and reversal are computed on the device from a non-blocking copy.
      train: batch norm by the batch's moments, and dropout.
      key: dropout is drawn from (key, stage); needed only when ``cfg.dropout`` is positive in training.
      policy: dtypes of the forward pass.
      kernel: a recurrent kernel; ``None`` for the kernel ``cfg.kernel``.
      reduce_moments: a differentiable all-reduce, for synchronised batch norm.
      frames: padded length to compute with; features are cut or padded to it. ``None``: the longest utterance. Inside
        ``torch.func.vmap`` it has to be given, and no length may exceed it; the recurrent kernel is ``scan``.
      split_first: split the first recurrent layer into stages ``rnn_0/forward`` and ``rnn_0/backward``, with parameters
        ``params["rnn_0"]["forward"]`` and so on. Only the convolutions are differentiated after that
        layer. With the split, one direction's all-reduce starts before the other direction is differentiated.
      intermediate: if ``cfg.intermediate_ctc`` is positive, insert a stage ``intermediate`` after the middle recurrent
        layer, with its own linear layer onto the labels. The last stage then returns (logits, intermediate logits).

    Returns:
      ``Stage(name, fn)`` with ``fn(params[name], x) -> (y, moments)``. The first stage takes features [B, F, T], the
      last returns logits [B, T', V]; between stages, x is [T', B, C]. ``moments`` is the stage's branch of the moments
      tree, detached; ``{}`` in evaluation.

    Raises:
      ValueError: when dropout has no key, or a length exceeds ``frames``, or inside vmap without ``frames``.
    """
    if train and cfg.dropout > 0 and key is None:
        raise ValueError("dropout draws from a key and got none: pass key=rng.fold_in(seed, step), new every step")
    frames = _padded(lengths, frames)
    size = max(frames, 1)  # a batch of empty utterances has one frame of padding
    device = tree.leaves(stats)[0].device
    shorter = partial(output_lengths, time_stride=cfg.time_stride)
    call = blocks.Call(
        train=train,
        key=key,
        policy=policy,
        reduce_moments=reduce_moments,
        kernel=kernel or recurrent.named(cfg.kernel, cfg.rnn_type),
        dropout=cfg.dropout if train else 0.0,
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
        after = cfg.hidden_layers // 2 + 1  # number of stages after the middle layer, including the output
        head = Stage("intermediate", partial(blocks.intermediate, call=call))
        return [*chain[:-after], head, *map(blocks.on_first, chain[-after:])]
    return chain


def _padded(lengths: Tensor, frames: int | None) -> int:
    """The number of frames to compute with: ``frames``, if all utterances fit, or the longest utterance's."""
    if recurrent.inside_vmap():  # no length can be read there
        if frames is None:
            raise ValueError("inside vmap the longest utterance is unknown: pass frames=features.shape[-1]")
        return frames
    longest = int(lengths.max()) if lengths.numel() else 0  # lengths are on the CPU: no wait for the device
    if frames is not None and longest > frames:
        raise ValueError(f"an utterance of {longest} frames does not fit into features of {frames}")
    return longest if frames is None else frames


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
    """Computes the logits of a batch, and in training new running statistics.

    ``torch.func.vmap`` over batches, lengths included, or over parameters gives what a loop would give. Inside it the
    recurrent kernel is ``scan``, and lengths are not checked.

    Args:
      params: parameters, nested as in the module's docstring.
      stats: running statistics.
      features: [B, F, T] float; values past an utterance's end are ignored.
      lengths: [B] int64 on the CPU, frames.
      cfg: the ``model`` section.
      train: batch norm by the batch's moments, and dropout.
      key: random key of dropout, see ``stages``.
      policy: dtypes of the forward pass.
      kernel: a recurrent kernel; ``None`` for the kernel ``cfg.kernel``.
      reduce_moments: a differentiable all-reduce, for synchronised batch norm.

    Returns:
      ``Logits`` with values [B, T', V] (unnormalised in both modes; float32, or float64 under a float64 policy) and
      lengths [B] int64 on the CPU; and the statistics: new ones in training, ``stats`` itself in evaluation.

    Raises:
      ValueError: when dropout has no key, or a length exceeds T.

    >>> import torch
    >>> cfg = ModelConfig(hidden_size=8, hidden_layers=1)
    >>> params, stats = init(cfg, key=0)
    >>> features, lengths = torch.zeros(2, cfg.num_bins, 100), torch.tensor([100, 60])  # [B, F, T], frames
    >>> logits, _ = apply(params, stats, features, lengths, cfg=cfg, train=False)
    >>> logits.values.shape, logits.lengths  # half the frame rate, 29 labels
    (torch.Size([2, 50, 29]), tensor([50, 30]))
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
        x, moments[stage.name] = stage.fn(params[stage.name], x)
    logits = Logits(x, output_lengths(lengths, time_stride=cfg.time_stride))
    return logits, update_stats(stats, moments) if train else stats
