"""Learning-rate schedules: pure functions from the number of applied updates to a learning rate.

A schedule takes that number as an int64 scalar tensor and returns a float32 scalar tensor on the same device, so no
step waits for the host. Learning rates are absolute; only Noam's schedule takes a factor.
"""

import math

import torch
from torch import Tensor

from ds2f.config import OptimConfig
from ds2f.errors import InputError
from ds2f.optim.base import Schedule


def constant(learning_rate: float) -> Schedule:
    """The same learning rate at every step."""
    return lambda step: torch.full((), learning_rate, dtype=torch.float32, device=step.device)


def as_schedule(learning_rate: float | Schedule) -> Schedule:
    """Turns a number into a constant schedule; returns a schedule unchanged."""
    return learning_rate if callable(learning_rate) else constant(learning_rate)


def exponential(learning_rate: float, *, factor: float, steps_per_epoch: int) -> Schedule:
    """Multiplies the learning rate by ``factor`` after every epoch, as ``learning_anneal`` of deepspeech.pytorch.

    Args:
      learning_rate: of the first epoch.
      factor: at most 1; 0.99 halves the rate in 69 epochs.
      steps_per_epoch: optimizer steps in an epoch.
    """

    def schedule(step: Tensor) -> Tensor:
        epoch = torch.div(step, steps_per_epoch, rounding_mode="floor")
        return learning_rate * torch.pow(factor, epoch.to(torch.float32))

    return schedule


def noam(factor: float, *, model_size: int, warmup: float) -> Schedule:
    """Rises linearly for ``warmup`` steps, then falls with the inverse square root of the step.

    ``factor * model_size**-0.5 * min(n**-0.5, n * warmup**-1.5)`` with ``n = step + 1``: Vaswani et al. 2017
    (https://arxiv.org/abs/1706.03762), equation 3.

    Args:
      factor: of order 1.
      model_size: the hidden size.
      warmup: steps until the peak; at most 1: no warm-up.

    >>> schedule = noam(1.0, model_size=1024, warmup=4000)
    >>> [f"{schedule(torch.tensor(step)):.2e}" for step in (0, 3999, 15999)]
    ['1.24e-07', '4.94e-04', '2.47e-04']
    """
    slope = max(warmup, 1) ** -1.5

    def schedule(step: Tensor) -> Tensor:
        n = step.to(torch.float32) + 1
        return factor * model_size**-0.5 * torch.minimum(torch.rsqrt(n), n * slope)

    return schedule


def one_cycle(peak: float, *, total_steps: int, warmup: float, start: float = 25.0, end: float = 25e4) -> Schedule:
    """Rises from ``peak / start`` to ``peak`` and falls to ``peak / end``, each along half a cosine.

    Smith and Topin 2018 (https://arxiv.org/abs/1708.07120), with the phases of ``torch.optim.lr_scheduler.OneCycleLR``:
    the peak is at step ``warmup - 1``, the end at step ``total_steps - 1``. Afterwards the learning rate is constant.

    >>> schedule = one_cycle(1.0, total_steps=101, warmup=31, start=4.0)
    >>> [round(schedule(torch.tensor(step)).item(), 2) for step in (0, 15, 30, 65, 100)]
    [0.25, 0.62, 1.0, 0.5, 0.0]
    """
    top = warmup - 1

    def schedule(step: Tensor) -> Tensor:
        n = step.to(torch.float32)
        rise = _half_cosine(peak / start, peak, n / max(top, 1))
        fall = _half_cosine(peak, peak / end, (n - top) / max(total_steps - 1 - top, 1))
        return torch.where(n <= top, rise, fall)

    return schedule


def cosine(peak: float, *, total_steps: int, warmup: float) -> Schedule:
    """Rises linearly to ``peak`` at step ``warmup - 1`` and falls to zero at ``total_steps`` along half a cosine.

    Loshchilov and Hutter 2017 (https://arxiv.org/abs/1608.03983), without restarts.

    >>> schedule = cosine(1.0, total_steps=30, warmup=10)
    >>> [round(schedule(torch.tensor(step)).item(), 2) for step in (0, 9, 20, 30)]
    [0.1, 1.0, 0.5, 0.0]
    """

    def schedule(step: Tensor) -> Tensor:
        n = step.to(torch.float32)
        rise = peak * (n + 1) / max(warmup, 1)
        fall = _half_cosine(peak, 0.0, (n - warmup) / max(total_steps - warmup, 1))
        return torch.minimum(rise, fall)

    return schedule


def _half_cosine(start: float, end: float, progress: Tensor) -> Tensor:
    """Goes from ``start`` to ``end`` while ``progress`` goes from 0 to 1; ``progress`` is clamped to this range."""
    return end + (start - end) * (1 + torch.cos(math.pi * progress.clamp(0, 1))) / 2


def from_config(cfg: OptimConfig, *, steps_per_epoch: int, total_steps: int, hidden_size: int) -> Schedule:
    """Makes the schedule of ``optim.schedule``.

    Args:
      cfg: the ``optim`` section.
      steps_per_epoch: optimizer steps in an epoch.
      total_steps: optimizer steps of all epochs, even if ``training.max_steps`` ends the run earlier.
      hidden_size: of the model, for Noam's schedule.

    Raises:
      InputError: if the warm-up of ``one_cycle`` or ``cosine`` would not end within the run.
    """
    warmup = cfg.warmup_steps(total_steps)
    if cfg.schedule in ("one_cycle", "cosine") and warmup >= total_steps:
        raise InputError(
            f"optim.warmup={cfg.warmup:g} with optim.schedule={cfg.schedule}: the run has {total_steps} steps, so the "
            "learning rate would never reach its peak. Give fewer steps, or a fraction of the run such as "
            "--optim.warmup=0.1."
        )
    match cfg.schedule:
        case "constant":
            return constant(cfg.learning_rate)
        case "exponential":
            return exponential(cfg.learning_rate, factor=cfg.learning_anneal, steps_per_epoch=steps_per_epoch)
        case "noam":
            return noam(cfg.learning_rate, model_size=hidden_size, warmup=warmup)
        case "one_cycle":
            return one_cycle(cfg.learning_rate, total_steps=total_steps, warmup=warmup)
        case "cosine":
            return cosine(cfg.learning_rate, total_steps=total_steps, warmup=warmup)
    raise ValueError(f"no schedule is called {cfg.schedule!r}")


def warmup_problem(cfg: OptimConfig, *, total_steps: int, steps: int) -> str:
    """A warning about a run that ends before the learning rate has reached its peak; empty if it reaches it.

    Args:
      cfg: the ``optim`` section.
      total_steps: optimizer steps of all epochs.
      steps: optimizer steps of the run, which ``training.max_steps`` may end earlier.

    >>> warmup_problem(OptimConfig(), total_steps=280, steps=280)[:81]
    'optim.schedule=noam warms up for 4,000 steps, and the run has 280: the learning r'
    """
    warmup = cfg.warmup_steps(total_steps)
    if cfg.schedule in ("constant", "exponential") or steps >= warmup:
        return ""
    schedule = from_config(cfg, steps_per_epoch=1, total_steps=total_steps, hidden_size=1)
    reached, peak = (float(schedule(torch.tensor(max(0, math.ceil(n) - 1)))) for n in (steps, warmup))
    return (
        f"optim.schedule={cfg.schedule} warms up for {warmup:,.0f} steps, and the run has {steps:,}: the learning rate "
        f"ends at {100 * reached / peak:.2g} % of its peak. Give --optim.warmup=0.1, a tenth of it, or train longer"
    )
