"""Our training step, made as ``launch.train`` makes it."""

from collections.abc import Callable
from functools import partial

import attrs
from torch import Tensor

from ds2f import convert, ctc, optim, precision, rng
from ds2f.config import Config
from ds2f.runner.device import autotune
from ds2f.runner.device.backend import Backend
from ds2f.steps import Objective, init_state, objective, train_step
from ds2f.types import Batch


def policy_of(cfg: Config, backend: Backend) -> precision.Policy:
    """The dtypes that the command line asks for, on this device."""
    return backend.policy(cfg.apex)


def resolved(cfg: Config, backend: Backend) -> Config:
    """Puts the recurrent kernel that ``launch.train`` would choose here in the place of ``auto``."""
    dtype = policy_of(cfg, backend).compute
    kernel = autotune.choose(cfg.model, batch_size=cfg.data.batch_size, dtype=dtype, backend=backend)
    return attrs.evolve(cfg, model=attrs.evolve(cfg.model, kernel=kernel))


class Ours:
    """The functional step, which hands its buffers on from state to state."""

    def __init__(
        self,
        cfg: Config,
        backend: Backend,
        *,
        around_loss: Callable[[Objective], Objective] = lambda loss: loss,
        around_optimizer: Callable[[optim.GradientTransformation], optim.GradientTransformation] = lambda tx: tx,
    ) -> None:
        """Makes the first state.

        Args:
          cfg: a resolved configuration.
          backend: where to compute.
          around_loss: what the loss is wrapped in, for timing it.
          around_optimizer: what the optimizer is wrapped in.
        """
        cfg = resolved(cfg, backend)
        self._cfg, self._backend, self._taken = cfg, backend, 0
        tx = optim.from_config(cfg.optim, cfg.optim.learning_rate, fused=backend.fused_optimizer)
        self._state = backend.place_state(init_state(cfg, tx, key=cfg.training.seed))
        criterion = partial(ctc.ctc_loss, impl=cfg.model.ctc)
        loss = objective(cfg.model, criterion=criterion, policy=policy_of(cfg, backend))
        self._train_step = partial(
            train_step,
            loss=around_loss(loss),
            tx=around_optimizer(tx),
            cfg=cfg,
            donate=True,
            overflowed=backend.overflowed if backend.saturates else None,
        )

    def step(self, batch: Batch) -> Tensor:
        """Takes a training step and returns the mean loss of the batch before it, natural log."""
        self._backend.clear_overflow()
        key = rng.fold_in(self._cfg.training.seed, "step", self._taken)
        self._state, metrics = self._train_step(self._state, batch, key=key)
        self._taken += 1
        return metrics.loss

    def weights(self) -> dict[str, Tensor]:
        """Parameters and statistics under deepspeech.pytorch's names, copied to the CPU."""
        return convert.to_reference(self._cfg.model, self._state.params, self._state.stats)
