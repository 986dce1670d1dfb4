"""One training step and one evaluation step: pure functions over one state.

The host never waits for the device within a step, except in torch's CTC on CUDA, which copies the lengths.

>>> cfg = Config(model=ModelConfig(hidden_size=8, hidden_layers=1))
>>> tx, loss = optim.adamw(1e-3), objective(cfg.model)
>>> features = torch.randn(1, cfg.model.num_bins, 40, generator=rng.generator(1))  # [B, F, T]
>>> labels = torch.tensor([[9, 10, 2]])
>>> batch = Batch(features, torch.tensor([40]), labels, torch.tensor([3]), torch.tensor([0]), torch.tensor(1.0))
>>> state = init_state(cfg, tx, key=0)
>>> for step in range(2):
...     state, metrics = train_step(state, batch, loss=loss, tx=tx, cfg=cfg, key=rng.fold_in(0, step))
>>> state.step, metrics.finite
(tensor(2), tensor(True))
>>> logits, _ = eval_step(*state.model, batch, cfg=cfg.model)
>>> logits.values.shape  # [B, T', V]
torch.Size([1, 20, 29])
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ds2f import optim, precision, rng, tree
from ds2f.buckets import Buckets, sum_over_ranks
from ds2f.config import Config, ModelConfig
from ds2f.grad import engine_for, staged_value_and_grad
from ds2f.model import batch_norm, deepspeech2
from ds2f.objective import Objective, moments_of, objective
from ds2f.precision import FULL, Policy
from ds2f.types import (
    SINGLE,
    Batch,
    Collectives,
    Criterion,
    Logits,
    Loss,
    Params,
    Stage,
    Stats,
    StepMetrics,
    TrainState,
)

__all__ = ["Objective", "eval_step", "init_state", "objective", "train_step"]


def init_state(cfg: Config, tx: optim.GradientTransformation, *, key: int) -> TrainState:
    """The state before the first step, on the CPU: step 0, drawn parameters, fresh optimizer state.

    Args:
      cfg: ``model``, ``apex`` (the first loss scale) and ``optim.average_decay`` (whether to keep averages) are read.
      tx: the optimizer.
      key: the parameters are drawn from it.
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
    """Takes one optimizer step on the global batch; ``batch`` is this rank's shard.

    All ranks run, in this order::

        for micro_batch in shard:
            grads  += d/dparams  scale * sum(losses * weight)    # losses of +inf do not count
        grads       = all_reduce(float32(grads))                 # stage by stage, during the backward pass
        norm        = global_norm(grads) / scale
        finite      = norm is finite, on all ranks
        grads       = grads / scale * min(1, max_norm / norm)    # unscale and clip
        if finite: apply the optimizer, update batch-norm statistics and averages
        scale       = adjust(scale, finite)

    ``grads`` is thus the gradient of the mean loss over the feasible utterances of the global batch.

    Args:
      state: the state before the step.
      batch: this rank's shard, on the state's device (lengths on the CPU), or a list of micro-batches.
      loss: an ``objective``, whose gradients are reduced stage by stage during the backward pass; or any other
        ``types.Loss``; or, for a single batch, a list of stages from its ``features`` to the losses.
      tx: the optimizer.
      collectives: the ranks' all-reduce operations.
      cfg: ``apex`` (loss scale and dtype of the all-reduce), ``optim.max_norm``, ``optim.average_decay`` (for averages,
        if the state holds any), ``training.engine``, ``model.remat`` and ``model.sync_batch_norm`` (the moments of
        ``loss`` are already global) are read.
      key: random key of the step: new every step, the same on all ranks. Each micro-batch of each rank gets its own
        key derived from it.
      donate: reuse the buffers of ``state.params``, ``state.opt_state`` and ``state.average``; the caller must not use
        them afterwards. The result has the same bits as without.
      overlap: run the all-reduce during the backward pass; the same bits either way.
      overflowed: returns, as a boolean scalar tensor, whether the device has noted an overflow since the step began,
        for devices whose gradients do not show infinities. ``None`` for other devices.

    Returns:
      The new state and the step's metrics, all on the device.

    Raises:
      ValueError: for a list of stages with several micro-batches.
    """
    grads, value, losses, moments = _global_gradients(
        state, batch, loss=loss, collectives=collectives, cfg=cfg, key=key, overlap=overlap
    )

    # The norm is finite only if all gradients are finite: one pass over the gradients gives both the verdict and the
    # norm for clipping. A second pass unscales and clips.
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
    """Differentiates the scaled loss and runs the all-reduce.

    Returns:
      The gradients (still scaled) and the loss, both summed over micro-batches and ranks; this rank's losses; the
      moments of the global batch.
    """
    micro_batches = [batch] if isinstance(batch, Batch) else list(batch)
    if isinstance(loss, list) and len(micro_batches) > 1:
        raise ValueError("a list of stages is made for one batch; for micro-batches pass an objective or a function")
    engine = cfg.training.engine
    if engine == "auto":
        engine = engine_for(state.loss_scale.value.device)
    buckets = Buckets(collectives, dtype=cfg.apex.reduce_dtype)
    value, losses, moments = torch.zeros_like(state.loss_scale.value), [], None
    totals: dict[str, Any] = {}  # gradients by stage, summed over the micro-batches so far

    def accumulate(name: str, stage_grads: Any) -> Any:
        if name in totals:
            torch._foreach_add_(tree.leaves(totals[name]), tree.leaves(stage_grads))
        return totals.setdefault(name, stage_grads)

    def reduce(name: str, stage_grads: Any) -> Any:
        """Starts the all-reduce of a stage's gradients; called in the backward pass of the last micro-batch."""
        accumulate(name, stage_grads)
        summed = buckets.start(totals.pop(name))
        if not overlap:
            buckets.wait()
        return summed

    for index, micro_batch in enumerate(micro_batches):
        own_key = _micro_batch_key(key, collectives.rank + collectives.size * index)
        chain = _chain(loss, state.stats, micro_batch, key=own_key)
        scaled = Stage("scaled", partial(_scaled_sum, factor=micro_batch.weight * state.loss_scale.value))
        on_grads = reduce if index == len(micro_batches) - 1 else accumulate
        differentiate = staged_value_and_grad([*chain, scaled], on_grads=on_grads, engine=engine, remat=cfg.model.remat)
        grads: Any = None  # frees the previous micro-batch's gradients
        (scaled_value, auxiliary), grads = differentiate(state.params, micro_batch.features)
        value = value + scaled_value
        losses.append(auxiliary.pop("scaled"))
        measured = moments_of(auxiliary)
        moments = measured if moments is None else batch_norm.merge(moments, measured)
    buckets.wait()
    value = sum_over_ranks(value / state.loss_scale.value, collectives)
    if not cfg.model.sync_batch_norm:
        moments = batch_norm.pool(moments, lambda sums: sum_over_ranks(sums, collectives))
    return grads, value, torch.cat(losses), moments


def _micro_batch_key(key: int | None, index: int) -> int | None:
    """The key of a micro-batch by its index in the global batch, whichever rank computes it."""
    return key if key is None or index == 0 else rng.fold_in(key, "share", index)


def _chain(loss: Loss | list[Stage], stats: Stats, batch: Batch, *, key: int | None) -> list[Stage]:
    if isinstance(loss, list):
        return loss
    if isinstance(loss, Objective):
        return loss.stages(stats, batch, key=key)
    return [Stage("", lambda params, _: loss(params, stats, batch, key=key))]


def _scaled_sum(_: Params, losses: Tensor, *, factor: Tensor) -> tuple[Tensor, Tensor]:
    # A transcript that cannot fit has a loss of +inf and does not count. NaN fails the step.
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
    """Computes logits and losses of a batch in evaluation mode.

    Args:
      params: the parameters.
      stats: running statistics of batch norm.
      batch: utterances, on the device of ``params`` (lengths on the CPU).
      cfg: the ``model`` section.
      policy: dtypes of the forward pass.
      criterion: the loss of logits; ``None`` for no losses.

    Returns:
      The logits, and the loss of each utterance: [B] float32, natural log, +inf where the transcript cannot fit; empty
      without ``criterion``.
    """
    with torch.no_grad():
        logits, _ = deepspeech2.apply(params, stats, batch.features, batch.lengths, cfg=cfg, train=False, policy=policy)
        if criterion is None:
            return logits, logits.values.new_zeros(0)
        return logits, criterion(logits, batch.labels, batch.label_lengths, blank=cfg.blank)
