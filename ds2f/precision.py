"""Mixed precision as explicit values: which dtype each part of the model computes in, and the loss scale.

The levels are Apex's: O0 is fp32 throughout; O1 computes products (convolutions, recurrent layers, the output
layer) in half precision and keeps what flows between them in fp32; O2 lets half precision flow and keeps fp32 for
batch norm, the softmax and the master weights. Parameters, statistics and gradients are fp32 at every level: a cast
inside the differentiated function makes the half-precision copy, so its gradient arrives in fp32.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ds2f.config import ApexConfig
from ds2f.types import LossScale

__all__ = ["FULL", "LossScale", "Policy", "adjust", "dtype_name", "init_scale", "policy"]


class Policy(NamedTuple):
    """Dtypes of the forward pass, and whether it may take operators of its own."""

    compute: torch.dtype  # convolutions, recurrent layers, output layer
    activation: torch.dtype  # what flows between them; batch norm's arithmetic is never below float32
    # Convolutions with channels innermost, and batch norm with a backward pass of its own: faster on CPUs, but leaves,
    # which are neither vmapped nor differentiated twice.
    fused: bool = False


FULL = Policy(torch.float32, torch.float32)


def policy(opt_level: str, dtype: torch.dtype) -> Policy:
    """The policy of an Apex level.

    Args:
      opt_level: ``"O0"``, ``"O1"`` or ``"O2"``.
      dtype: the half-precision type that O1 and O2 use: ``torch.bfloat16`` or ``torch.float16`` (or ``torch.float32``
        on a device without a fast one, which makes every level O0).
    """
    levels = {"O0": FULL, "O1": Policy(dtype, torch.float32), "O2": Policy(dtype, dtype)}
    if opt_level not in levels:
        raise ValueError(f"apex.opt_level is one of {', '.join(levels)}, not {opt_level!r}")
    return levels[opt_level]


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype's name without the module.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def init_scale(cfg: ApexConfig, device: torch.device | str = "cpu") -> LossScale:
    """The loss scale at the first step: ``cfg.loss_scale``, or ``cfg.initial_scale`` when that is ``dynamic``."""
    value = cfg.initial_scale if cfg.dynamic else float(cfg.loss_scale)
    return LossScale(
        value=torch.tensor(value, dtype=torch.float32, device=device),
        good_steps=torch.zeros((), dtype=torch.int32, device=device),
    )


def adjust(scale: LossScale, finite: Tensor, *, cfg: ApexConfig) -> LossScale:
    """The scale for the next step.

    A static scale stays. A dynamic one halves after a step with a non-finite gradient, down to ``cfg.min_scale``, and
    doubles after ``cfg.growth_interval`` finite steps in a row, up to ``cfg.max_scale``.

    Args:
      scale: the scale that the step used.
      finite: boolean scalar tensor, the step's verdict.
      cfg: the ``apex`` section.

    Returns:
      A new ``LossScale``; nothing is read on the host.
    """
    if not cfg.dynamic:
        return scale
    good_steps = torch.where(finite, scale.good_steps + 1, torch.zeros_like(scale.good_steps))
    grow = good_steps >= cfg.growth_interval
    grown = torch.where(grow, scale.value * 2, scale.value)
    value = torch.where(finite, grown, scale.value / 2).clamp(cfg.min_scale, cfg.max_scale)
    return LossScale(value, torch.where(grow, torch.zeros_like(good_steps), good_steps))
