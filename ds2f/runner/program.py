"""The training step of a configuration on a device, assembled in one place for training, benchmark and scaling.

Every setting of ``model``, ``optim`` and ``apex`` takes effect here and nowhere else. Training, benchmark and scaling
take their steps from a ``Program``.
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
    """A training step, and the parts that it is made of.

    Attributes:
      cfg: the configuration, with the recurrent kernel that ``model.kernel=auto`` came to.
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
        """The state before the first step, on the CPU."""
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
          key: dropout draws from it; the same on all ranks, another one for every step.
          collectives: take the group's place where an all-reduce is measured or slowed down.
          overlap: whether the backward pass goes on during an all-reduce; the same bits either way.
          spans: records the time of every stage, all-reduce and update; the same bits either way.

        Returns:
          The new state and the metrics, on the device.
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


def build(cfg: Config, backend: Backend, group: Group = ALONE, *, steps_per_epoch: int = 1) -> Program:
    """Assembles the training step of a configuration.

    Args:
      cfg: a resolved configuration, the same on all ranks in every setting that decides numbers.
      backend: this rank's device.
      group: the ranks. All of them call this function.
      steps_per_epoch: for schedules that follow epochs or end.
    """
    cfg = resolve_kernel(cfg, backend, group, steps=steps_per_epoch * cfg.training.epochs)
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


def resolve_kernel(cfg: Config, backend: Backend, group: Group = ALONE, *, steps: int = 0) -> Config:
    """Puts the recurrent kernel that ``model.kernel=auto`` means here in its place; rank 0 chooses for all.

    Args:
      cfg: a configuration.
      backend: this rank's device.
      group: the ranks, all of which call this function.
      steps: the length of the run, 0 if unknown; timing the kernels would not repay itself in a short run.
    """
    if cfg.model.kernel != "auto":
        return cfg
    kernel = None
    if group.rank == 0:
        dtype = backend.policy(cfg.apex).compute
        kernel = autotune.choose(cfg.model, batch_size=cfg.data.batch_size, dtype=dtype, backend=backend, steps=steps)
    return attrs.evolve(cfg, model=attrs.evolve(cfg.model, kernel=group.gather(kernel)[0]))
