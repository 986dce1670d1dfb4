"""Learning-rate schedules: pure functions from the number of applied updates to a rate.

A schedule takes an int64 scalar tensor that counts from 0 and returns a float32 scalar tensor on the same device, so
that no step waits for the host. Rates are absolute, except that Noam's is made from a factor.
"""

import math

import torch
from torch import Tensor

from ds2f.config import OptimConfig
from ds2f.errors import InputError
from ds2f.optim.base import Schedule


def constant(learning_rate: float) -> Schedule:
    """The same rate at every step."""
    return lambda step: torch.full((), learning_rate, dtype=torch.float32, device=step.device)


def as_schedule(learning_rate: float | Schedule) -> Schedule:
    """Makes a number a constant schedule and returns a schedule as it is."""
    return learning_rate if callable(learning_rate) else constant(learning_rate)


def exponential(learning_rate: float, *, factor: float, steps_per_epoch: int) -> Schedule:
    """Multiplies the rate by ``factor`` after every epoch, as deepspeech.pytorch does with its ``learning_anneal``.

    Args:
      learning_rate: the rate during the first epoch.
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
      warmup: steps until the peak; at most 1 means none.
    """
    slope = max(warmup, 1) ** -1.5

    def schedule(step: Tensor) -> Tensor:
        n = step.to(torch.float32) + 1
        return factor * model_size**-0.5 * torch.minimum(torch.rsqrt(n), n * slope)

    return schedule


def one_cycle(peak: float, *, total_steps: int, warmup: float, start: float = 25.0, end: float = 25e4) -> Schedule:
    """Rises from ``peak / start`` to ``peak`` and falls to ``peak / end``, each along half a cosine.

    Smith and Topin 2018 (https://arxiv.org/abs/1708.07120), with the phases of ``torch.optim.lr_scheduler.OneCycleLR``:
    the peak is at step ``warmup - 1``, the end at step ``total_steps - 1``, and the rate stays there.
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
    """

    def schedule(step: Tensor) -> Tensor:
        n = step.to(torch.float32)
        rise = peak * (n + 1) / max(warmup, 1)
        fall = _half_cosine(peak, 0.0, (n - warmup) / max(total_steps - warmup, 1))
        return torch.minimum(rise, fall)

    return schedule


def _half_cosine(start: float, end: float, progress: Tensor) -> Tensor:
    """Goes from ``start`` to ``end`` while ``progress`` goes from 0 to 1, and stays at the nearer one outside."""
    return end + (start - end) * (1 + torch.cos(math.pi * progress.clamp(0, 1))) / 2


def from_config(cfg: OptimConfig, *, steps_per_epoch: int, total_steps: int, hidden_size: int) -> Schedule:
    """The schedule that ``optim.schedule`` names.

    Args:
      cfg: the ``optim`` section; ``warmup`` is a number of steps, or below 1 a share of ``total_steps``.
      steps_per_epoch: optimizer steps in an epoch.
      total_steps: optimizer steps in the whole run, even if it is to stop early.
      hidden_size: of the model, for Noam's.

    Raises:
      InputError: a warm-up of ``one_cycle`` or ``cosine`` that would not end within the run.
    """
    warmup = cfg.warmup * total_steps if cfg.warmup < 1 else cfg.warmup
    if cfg.schedule in ("one_cycle", "cosine") and warmup >= total_steps:
        raise InputError(
            f"optim.warmup={cfg.warmup:g} with optim.schedule={cfg.schedule}: the run has {total_steps} steps, so the "
            "rate would never reach its peak. Give fewer steps, or a share of the run such as --optim.warmup=0.1."
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
