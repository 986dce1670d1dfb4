"""Mixed precision as explicit values: the dtypes of the forward pass, and the loss scale.

The levels are Apex's. O0 is fp32 throughout. O1 computes products (convolutions, recurrent layers, output layer) in
half precision and keeps activations in fp32. O2 keeps activations in half precision too; batch norm, the softmax and
the master weights stay in fp32. Parameters, statistics and gradients are fp32 at every level: the differentiated
function casts parameters to half precision, so their gradients are fp32.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ds2f.config import ApexConfig
from ds2f.types import LossScale

__all__ = ["DTYPES", "FULL", "LossScale", "Policy", "adjust", "dtype_name", "init_scale", "policy", "short_name"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # by short name, as flags give them


class Policy(NamedTuple):
    """Dtypes of the forward pass, and whether fused operators may be used."""

    compute: torch.dtype  # of convolutions, recurrent layers, output layer
    activation: torch.dtype  # of tensors between layers; batch norm computes in at least float32
    # Convolutions in channels-last memory format, and model/fused_norm.py: faster on CPUs, but without vmap and second
    # derivatives.
    fused: bool = False


FULL = Policy(torch.float32, torch.float32)


def policy(opt_level: str, dtype: torch.dtype) -> Policy:
    """The policy of an Apex level.

    Args:
      opt_level: ``"O0"``, ``"O1"`` or ``"O2"``.
      dtype: half-precision dtype of O1 and O2, ``torch.bfloat16`` or ``torch.float16``. With ``torch.float32``, for
        devices without fast half precision, every level is O0.

    Raises:
      ValueError: for another level.

    >>> policy("O1", torch.bfloat16)
    Policy(compute=torch.bfloat16, activation=torch.float32, fused=False)
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


def short_name(dtype: torch.dtype) -> str:
    """A floating-point dtype's name in ``DTYPES``.

    >>> short_name(torch.bfloat16)
    'bf16'
    """
    return next(name for name, each in DTYPES.items() if each == dtype)


def init_scale(cfg: ApexConfig, device: torch.device | str = "cpu") -> LossScale:
    """The loss scale of the first step: ``cfg.loss_scale``, or ``cfg.initial_scale`` if the scale is dynamic."""
    value = cfg.initial_scale if cfg.dynamic else float(cfg.loss_scale)
    return LossScale(
        value=torch.tensor(value, dtype=torch.float32, device=device),
        good_steps=torch.zeros((), dtype=torch.int32, device=device),
    )


def adjust(scale: LossScale, finite: Tensor, *, cfg: ApexConfig) -> LossScale:
    """The loss scale of the next step.

    A static scale is constant. A dynamic scale halves after a step with a non-finite gradient, down to
    ``cfg.min_scale``. It doubles after ``cfg.growth_interval`` finite steps in a row, up to ``cfg.max_scale``.

    Args:
      scale: the loss scale of this step.
      finite: boolean scalar tensor: whether this step's gradients were finite.
      cfg: the ``apex`` section.

    Returns:
      A new ``LossScale``. Nothing is read on the host.

    >>> cfg = ApexConfig(loss_scale="dynamic", growth_interval=2)
    >>> scale = LossScale(value=torch.tensor(1024.0), good_steps=torch.tensor(0, dtype=torch.int32))
    >>> for finite in (False, True, True):
    ...     scale = adjust(scale, torch.tensor(finite), cfg=cfg)
    ...     print(scale.value.item())
    512.0
    512.0
    1024.0
    """
    if not cfg.dynamic:
        return scale
    good_steps = torch.where(finite, scale.good_steps + 1, torch.zeros_like(scale.good_steps))
    grow = good_steps >= cfg.growth_interval
    grown = torch.where(grow, scale.value * 2, scale.value)
    value = torch.where(finite, grown, scale.value / 2).clamp(cfg.min_scale, cfg.max_scale)
    return LossScale(value, torch.where(grow, torch.zeros_like(good_steps), good_steps))
