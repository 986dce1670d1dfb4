"""One step of training and one of evaluation: flat pure functions over one state.

``train_step`` reads top to bottom in the order that all ranks follow: scaled gradients, a sum over the ranks, one
verdict on finiteness, clipping, the optimizer, selection by the verdict, adjustment of the loss scale. Nothing in it
waits for the device.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ds2f import ctc, optim, precision, rng, tree
from ds2f.config import Config, ModelConfig
from ds2f.grad import value_and_grad
from ds2f.model import batch_norm, deepspeech2
from ds2f.precision import FULL, Policy
from ds2f.types import SINGLE, Batch, Collectives, Logits, Params, StepMetrics, TrainState

Criterion = Callable[..., Tensor]
Loss = Callable[..., tuple[Tensor, Any]]


def init_state(cfg: Config, tx: optim.GradientTransformation, *, key: int) -> TrainState:
    """The state before the first step, on the CPU: step 0, fresh parameters, zeroed optimizer state."""
    params, stats = deepspeech2.init(cfg.model, key=rng.fold_in(key, "init"))
    return TrainState(
        step=torch.zeros((), dtype=torch.int64, device="cpu"),
        params=params,
        stats=stats,
        opt_state=tx.init(params),
        loss_scale=precision.init_scale(cfg.apex),
    )


def objective(
    cfg: ModelConfig, *, criterion: Criterion = ctc.native, policy: Policy = FULL, kernel: Any = None
) -> Loss:
    """Makes the function that ``train_step`` differentiates: the model in training mode, then a criterion.

    Args:
      cfg: the ``model`` section.
      criterion: ``(logits, labels, label_lengths, *, blank) -> [B]`` losses, +inf with zero gradient for an utterance
        that must not count: ``ctc.native``, ``ctc.warpctc``, ``ctc.scan`` or your own.
      policy: dtypes of the forward pass.
      kernel: a recurrent kernel; ``None`` takes the one that ``cfg.kernel`` names.

    Returns:
      ``loss(params, stats, batch, *, key) -> (losses [B], moments)``: losses per utterance in natural log, and the
      batch-norm moments of the batch (a tree of ``Moments`` shaped like ``stats``).
    """

    def loss(params: Params, stats: Any, batch: Batch, *, key: int | None = None) -> tuple[Tensor, Any]:
        logits, moments = deepspeech2.forward(
            params, stats, batch.features, batch.lengths, cfg=cfg, train=True, key=key, policy=policy, kernel=kernel
        )
        return criterion(logits, batch.labels, batch.label_lengths, blank=cfg.blank), moments

    return loss


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    loss: Loss,
    tx: optim.GradientTransformation,
    collectives: Collectives = SINGLE,
    cfg: Config,
    key: int | None = None,
    donate: bool = False,
) -> tuple[TrainState, StepMetrics]:
    """Takes one optimizer step on the global batch of which ``batch`` is this rank's share.

    The gradient is that of the mean loss over the feasible utterances of the global batch: each rank differentiates
    scale * sum(loss * weight), and the ranks' gradients are summed. A step whose summed gradient is not finite on any
    rank leaves parameters, statistics and optimizer state as they were on all of them.

    Args:
      state: the state before the step.
      batch: this rank's utterances, on the state's device (lengths on the CPU).
      loss: ``(params, stats, batch, *, key) -> (losses [B], moments)``, see ``objective``.
      tx: the optimizer.
      collectives: sums over the ranks.
      cfg: ``apex`` (loss scale), ``optim.max_norm`` and ``training.engine`` are read.
      key: what dropout is drawn from; a new one every step.
      donate: reuse the buffers of ``state.params`` and ``state.opt_state``, which must not be used afterwards. The
        result has the same bits as without.

    Returns:
      The new state and the step's metrics, all on the device.
    """

    def scaled_loss(params: Params) -> tuple[Tensor, tuple[Tensor, Tensor, Any]]:
        losses, moments = loss(params, state.stats, batch, key=key)
        # +inf marks a transcript that cannot fit and does not count; NaN stays and fails the step.
        counted = torch.where(losses == torch.inf, torch.zeros_like(losses), losses)
        value = counted.sum() * batch.weight
        return value * state.loss_scale.value, (value, losses, moments)

    engine = "autograd" if cfg.training.engine == "autograd" else "func"
    (_, (value, losses, moments)), grads = value_and_grad(scaled_loss, has_aux=True, engine=engine)(state.params)

    grads, value = sum_over_ranks((grads, value), collectives)
    moments = batch_norm.pool(moments, lambda sums: sum_over_ranks(sums, collectives))

    # The norm is finite exactly if all gradients are (or it overflows, and the step would be no good either), so one
    # pass over the gradients serves the verdict and the clipping, and one more unscales and clips.
    grad_norm = tree.global_norm(grads) / state.loss_scale.value
    finite = collectives.all_finite(torch.isfinite(grad_norm))
    factor = (cfg.optim.max_norm / (grad_norm + 1e-6)).clamp(max=1.0) / state.loss_scale.value
    grads = tree.scale_(grads, factor)

    params, opt_state = optim.apply_step(tx, grads, state.opt_state, state.params, finite=finite, donate=donate)
    stats = tree.select(finite, batch_norm.update_stats(state.stats, moments), state.stats)
    new_state = TrainState(
        step=state.step + finite.to(state.step.dtype),
        params=params,
        stats=stats,
        opt_state=opt_state,
        loss_scale=precision.adjust(state.loss_scale, finite, cfg=cfg.apex),
    )
    return new_state, StepMetrics(value, losses, grad_norm, finite, state.loss_scale.value)


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


def sum_over_ranks(values: Any, collectives: Collectives) -> Any:
    """Sums every tensor of a tree over the ranks, in one contiguous buffer per dtype; the tree itself for one rank."""
    if collectives.size == 1:
        return values
    flat, unflatten = tree.flatten(values)
    summed: list[Tensor] = list(flat)
    for dtype in sorted({leaf.dtype for leaf in flat}, key=str):
        places = [index for index, leaf in enumerate(flat) if leaf.dtype == dtype]
        buffer = torch.cat([flat[index].reshape(-1) for index in places])
        collectives.all_reduce_async(buffer).wait()
        for index, piece in zip(places, buffer.split([flat[index].numel() for index in places]), strict=True):
            summed[index] = piece.view_as(flat[index])
    return unflatten(summed)
