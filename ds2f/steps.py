"""One step of training and one of evaluation: flat pure functions over one state.

``train_step`` reads top to bottom in the order that all ranks follow: scaled gradients, a sum over the ranks, one
verdict on finiteness, clipping, the optimizer, selection by the verdict, adjustment of the loss scale. Nothing in it
waits for the device (but torch's CTC on CUDA, which copies the lengths there).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ds2f import optim, precision, rng, tree
from ds2f.buckets import Buckets, sum_over_ranks
from ds2f.config import Config, ModelConfig
from ds2f.ctc import Criterion
from ds2f.grad import engine_for, staged_value_and_grad
from ds2f.model import batch_norm, deepspeech2
from ds2f.objective import Objective, moments_of, objective
from ds2f.precision import FULL, Policy
from ds2f.types import (
    SINGLE,
    Batch,
    Collectives,
    Logits,
    Params,
    Stage,
    Stats,
    StepMetrics,
    TrainState,
)

__all__ = ["Loss", "Objective", "eval_step", "init_state", "objective", "train_step"]

Loss = Callable[..., tuple[Tensor, Any]]


def init_state(cfg: Config, tx: optim.GradientTransformation, *, key: int) -> TrainState:
    """The state before the first step, on the CPU: step 0, fresh parameters, zeroed optimizer state.

    With ``optim.average_decay`` it holds averages, which start at the parameters.
    """
    params, stats = deepspeech2.init(cfg.model, key=rng.fold_in(key, "init"))
    return TrainState(
        step=torch.zeros((), dtype=torch.int64, device="cpu"),
        params=params,
        stats=stats,
        opt_state=tx.init(params),
        loss_scale=precision.init_scale(cfg.apex),
        average=optim.average.init(params, stats) if cfg.optim.average_decay else (),
    )


def train_step(
    state: TrainState,
    batch: Batch | Sequence[Batch],
    *,
    loss: Loss | list[Stage],
    tx: optim.GradientTransformation,
    collectives: Collectives = SINGLE,
    cfg: Config,
    key: int | None = None,
    donate: bool = False,
    overlap: bool = True,
    overflowed: Callable[[], Tensor] | None = None,
) -> tuple[TrainState, StepMetrics]:
    """Takes one optimizer step on the global batch of which ``batch`` is this rank's share.

    The gradient is that of the mean loss over the feasible utterances of the global batch: each rank differentiates
    scale * sum(loss * weight), and the ranks' gradients are summed. A step whose summed gradient is not finite on any
    rank leaves parameters, statistics, averages and optimizer state as they were on all of them.

    Args:
      state: the state before the step.
      batch: this rank's utterances, on the state's device (lengths on the CPU), or a list of micro-batches whose
        gradients are added up.
      loss: an ``objective``, whose stages' gradients are summed over the ranks while the backward pass goes on; or any
        function ``(params, stats, batch, *, key) -> (losses [B], moments)``; or a list of stages from
        ``batch.features`` to the losses, made for this batch, which is then the only one.
      tx: the optimizer.
      collectives: sums over the ranks.
      cfg: ``apex`` (loss scale and type of the sums), ``optim.max_norm``, ``optim.average_decay`` (of the averages, if
        the state holds any), ``training.engine`` and ``model.sync_batch_norm`` (the loss's moments are those of all
        ranks) are read.
      key: what dropout is drawn from; a new one every step, the same on all ranks, which draw differently from it.
      donate: reuse the buffers of ``state.params``, ``state.opt_state`` and ``state.average``, which must not be used
        afterwards. The result has the same bits as without.
      overlap: whether the backward pass goes on during the sums; the same bits either way.
      overflowed: reads whether the device noted an overflow since the step began, a boolean scalar, where infinities
        do not show in the gradients; None where they do.

    Returns:
      The new state and the step's metrics, all on the device.

    Raises:
      ValueError: when a list of stages, which knows one batch, meets several.
    """
    grads, value, losses, moments = _global_gradients(
        state, batch, loss=loss, collectives=collectives, cfg=cfg, key=key, overlap=overlap
    )

    # The norm is finite exactly if all gradients are (or it overflows, and the step would be no good either), so one
    # pass over the gradients serves the verdict and the clipping, and one more unscales and clips.
    grad_norm = tree.global_norm(grads) / state.loss_scale.value
    finite = torch.isfinite(grad_norm)
    finite = collectives.all_finite(finite if overflowed is None else finite & ~overflowed())
    factor = optim.clip_factor(grad_norm, cfg.optim.max_norm, eps=1e-6)
    grads = tree.scale_(grads, factor / state.loss_scale.value)

    params, opt_state = optim.apply_step(tx, grads, state.opt_state, state.params, finite=finite, donate=donate)
    stats = tree.select(finite, batch_norm.update_stats(state.stats, moments), state.stats)
    decay = cfg.optim.average_decay
    average = optim.average.update(
        state.average, params, stats, decay=decay, step=state.step, finite=finite, donate=donate
    )
    new_state = TrainState(
        step=state.step + finite.to(state.step.dtype),
        params=params,
        stats=stats,
        opt_state=opt_state,
        loss_scale=precision.adjust(state.loss_scale, finite, cfg=cfg.apex),
        average=average,
    )
    return new_state, StepMetrics(value, losses, grad_norm, finite, state.loss_scale.value)


def _global_gradients(
    state: TrainState,
    batch: Batch | Sequence[Batch],
    *,
    loss: Loss | list[Stage],
    collectives: Collectives,
    cfg: Config,
    key: int | None,
    overlap: bool,
) -> tuple[Params, Tensor, Tensor, Any]:
    """Differentiates the scaled loss and sums over the ranks.

    Returns:
      The gradients (still scaled) and the value, summed over micro-batches and ranks; this rank's losses; the moments
      of the global batch.
    """
    micro_batches = [batch] if isinstance(batch, Batch) else list(batch)
    if isinstance(loss, list) and len(micro_batches) > 1:
        raise ValueError("a list of stages is made for one batch; for micro-batches pass an objective or a function")
    engine = cfg.training.engine
    if engine == "auto":
        engine = engine_for(state.loss_scale.value.device)
    buckets = Buckets(collectives, dtype=cfg.apex.reduce_dtype)
    value, losses, moments = torch.zeros_like(state.loss_scale.value), [], None
    totals: dict[str, Any] = {}  # by stage, of the micro-batches so far

    def accumulate(name: str, stage_grads: Any) -> Any:
        if name in totals:
            torch._foreach_add_(tree.leaves(totals[name]), tree.leaves(stage_grads))
        return totals.setdefault(name, stage_grads)

    def reduce(name: str, stage_grads: Any) -> Any:
        """Takes the last micro-batch's gradients of a stage, as soon as they exist."""
        accumulate(name, stage_grads)
        summed = buckets.start(totals.pop(name))
        if not overlap:
            buckets.wait()
        return summed

    for index, share in enumerate(micro_batches):
        drawn_from = _share_key(key, collectives.rank + collectives.size * index)
        chain = _chain(loss, state.stats, share, key=drawn_from)
        scaled = Stage("scaled", partial(_scaled_sum, factor=share.weight * state.loss_scale.value))
        on_grads = reduce if index == len(micro_batches) - 1 else accumulate
        differentiate = staged_value_and_grad([*chain, scaled], on_grads=on_grads, engine=engine, remat=cfg.model.remat)
        grads: Any = None  # what a sum over the ranks has taken over is not kept
        (scaled_value, auxiliary), grads = differentiate(state.params, share.features)
        value = value + scaled_value
        losses.append(auxiliary.pop("scaled"))
        measured = moments_of(auxiliary)
        moments = measured if moments is None else batch_norm.merge(moments, measured)
    buckets.wait()
    value = sum_over_ranks(value / state.loss_scale.value, collectives)
    if not cfg.model.sync_batch_norm:
        moments = batch_norm.pool(moments, lambda sums: sum_over_ranks(sums, collectives))
    return grads, value, torch.cat(losses), moments


def _share_key(key: int | None, share: int) -> int | None:
    """What a share of the global batch draws from: another key for each, whichever rank takes it."""
    return key if key is None or share == 0 else rng.fold_in(key, "share", share)


def _chain(loss: Loss | list[Stage], stats: Stats, batch: Batch, *, key: int | None) -> list[Stage]:
    if isinstance(loss, list):
        return loss
    if isinstance(loss, Objective):
        return loss.stages(stats, batch, key=key)
    return [Stage("", lambda params, _: loss(params, stats, batch, key=key))]


def _scaled_sum(_: Params, losses: Tensor, *, factor: Tensor) -> tuple[Tensor, Tensor]:
    # +inf marks a transcript that cannot fit and does not count; NaN stays and fails the step.
    counted = torch.where(losses == torch.inf, torch.zeros_like(losses), losses)
    return counted.sum() * factor, losses


def eval_step(
    params: Params,
    stats: Any,
    batch: Batch,
    *,
    cfg: ModelConfig,
    policy: Policy = FULL,
    criterion: Criterion | None = None,
) -> tuple[Logits, Tensor]:
    """Scores a batch in evaluation mode.

    Returns:
      The logits and the loss of each utterance ([B] float32, natural log, +inf where the transcript cannot fit; empty
      without ``criterion``).
    """
    with torch.no_grad():
        logits, _ = deepspeech2.apply(params, stats, batch.features, batch.lengths, cfg=cfg, train=False, policy=policy)
        if criterion is None:
            return logits, logits.values.new_zeros(0)
        return logits, criterion(logits, batch.labels, batch.label_lengths, blank=cfg.blank)
