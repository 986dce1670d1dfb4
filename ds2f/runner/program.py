"""Assembles the training step of a configuration on a device. Training, benchmark and scaling all use it.

Every setting of ``model``, ``optim`` and ``apex`` takes effect here and nowhere else.
"""

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import torch

from ds2f import ctc, optim
from ds2f.config import Config
from ds2f.optim import GradientTransformation, schedules
from ds2f.precision import Policy
from ds2f.runner import spans as tracing
from ds2f.runner.device import autotune
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import ALONE, Group
from ds2f.runner.spans import Spans
from ds2f.steps import Objective, init_state, objective, train_step
from ds2f.types import Batch, Collectives, Criterion, StepMetrics, TrainState, identity


@attrs.frozen
class Program:
    """A training step ``(state, batches, key) -> (state, metrics)`` and its parts.

    ``build`` assembles the parts, and ``step`` uses them::

        kernel = model.kernel, or the kernel that rank 0 times as fastest for auto
        policy = dtypes of apex.opt_level and apex.dtype on this device
        criterion = CTC as model.ctc implements it
        loss = objective(model, policy, augmentation; all-reduce of batch moments if model.sync_batch_norm)
        schedule = schedules.from_config(optim, steps per epoch, steps of the run)
        tx = optim.from_config(optim, schedule; fused if the device's operators skip a bad step)

        step(state, batches, key):
            clear the device's overflow flag
            place the micro-batches on the device
            return train_step(state, micro-batches; loss, tx, group, key, the overflow flag of a saturating device)

    Attributes:
      cfg: the configuration with a named recurrent kernel.
      backend: this rank's device.
      group: the ranks.
      policy: dtypes of the forward pass.
      criterion: the loss per utterance that evaluation reports.
      loss: the objective that ``step`` differentiates.
      schedule: learning rate by step.
      tx: the optimizer.
    """

    cfg: Config
    backend: Backend
    group: Group
    policy: Policy
    criterion: Criterion
    loss: Objective
    schedule: Callable[[torch.Tensor], torch.Tensor]
    tx: GradientTransformation

    def init(self) -> TrainState:
        """Returns the state before the first step, on the CPU; ``training.seed`` decides the parameters."""
        return init_state(self.cfg, self.tx, key=self.cfg.training.seed)

    def step(
        self,
        state: TrainState,
        batches: Sequence[Batch],
        *,
        key: int,
        collectives: Collectives | None = None,
        overlap: bool = True,
        spans: Spans | None = None,
    ) -> tuple[TrainState, StepMetrics]:
        """Takes a training step; the buffers of ``state`` are reused and must not be read afterwards.

        Args:
          state: the state before the step, on the device.
          batches: this rank's shard of the global batch, as micro-batches on the CPU or the device.
          key: random key of dropout and augmentation. All ranks pass the same key, and a new key for every step.
          collectives: replace the group, for measuring or slowing down an all-reduce.
          overlap: whether the backward pass continues during an all-reduce. The bits are the same either way.
          spans: records the time of every stage, all-reduce and update. The bits are the same with and without.

        Returns:
          The new state and the metrics, on the device. Nothing waits for the device, except for ``spans``.
        """
        loss, tx, ranks = self.loss, self.tx, collectives or self.group
        if spans is not None:
            loss, tx = tracing.traced_loss(loss, spans), tracing.traced_optimizer(tx, spans)
            ranks = tracing.TracedCollectives(ranks, spans)
        self.backend.clear_overflow()
        state, metrics = train_step(
            state,
            [self.backend.place(batch) for batch in batches],
            loss=loss,
            tx=tx,
            collectives=ranks,
            cfg=self.cfg,
            key=key,
            donate=True,
            overlap=overlap,
            overflowed=self.backend.overflowed if self.backend.saturates else None,
        )
        if spans is not None:
            spans.end_step()
        return state, metrics


def build(cfg: Config, backend: Backend, group: Group = ALONE, *, steps_per_epoch: int | None = None) -> Program:
    """Assembles the training step of a configuration.

    Args:
      cfg: a resolved configuration, the same on all ranks in every setting that decides numbers.
      backend: this rank's device.
      group: the ranks. All ranks call this function.
      steps_per_epoch: global batches per epoch. Schedules by epoch or with an end depend on this number. None outside a
        training: an epoch is one step for the schedules.

    Raises:
      InputError: when a library that the configuration needs is missing.
    """
    ctc.require(cfg.model.ctc, device=backend.device)
    cfg = resolve_kernel(cfg, backend, group, steps_per_epoch=steps_per_epoch)
    steps_per_epoch = steps_per_epoch or 1
    policy = backend.policy(cfg.apex)
    schedule = schedules.from_config(
        cfg.optim,
        steps_per_epoch=steps_per_epoch,
        total_steps=steps_per_epoch * cfg.training.epochs,
        hidden_size=cfg.model.hidden_size,
    )
    loss = objective(
        cfg.model,
        policy=policy,
        augmentation=cfg.augmentation,
        reduce_moments=group.all_reduce if cfg.model.sync_batch_norm else identity,
    )
    return Program(
        cfg=cfg,
        backend=backend,
        group=group,
        policy=policy,
        criterion=partial(ctc.ctc_loss, impl=cfg.model.ctc),
        loss=loss,
        schedule=schedule,
        tx=optim.from_config(cfg.optim, schedule, fused=backend.fused_optimizer),
    )


def resolve_kernel(
    cfg: Config, backend: Backend, group: Group = ALONE, *, steps_per_epoch: int | None = None
) -> Config:
    """Replaces ``model.kernel=auto`` by the name of a recurrent kernel, which rank 0 chooses for all ranks.

    Args:
      cfg: a configuration.
      backend: this rank's device.
      group: the ranks. All ranks call this function.
      steps_per_epoch: global batches per epoch, None outside a training. In a short training, timing the kernels costs
        more than it saves, and the kernel is ``fused``.
    """
    if cfg.model.kernel != "auto":
        return cfg
    kernel = None
    if group.rank == 0:
        dtype, steps = backend.policy(cfg.apex).compute, run_length(cfg, steps_per_epoch or 0)
        kernel = autotune.choose(cfg.model, batch_size=cfg.data.batch_size, dtype=dtype, backend=backend, steps=steps)
    return attrs.evolve(cfg, model=attrs.evolve(cfg.model, kernel=group.gather(kernel)[0]))


def run_length(cfg: Config, steps_per_epoch: int) -> int:
    """Steps of a whole training: the steps of all epochs, at most ``training.max_steps``."""
    steps = steps_per_epoch * cfg.training.epochs
    return min(steps, cfg.training.max_steps or steps)
