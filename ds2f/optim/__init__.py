"""Optimizers as pure functions over pytrees, in optax's shape."""

from ds2f.optim import average, schedules, transforms
from ds2f.optim.base import (
    EmptyState,
    GradientTransformation,
    Schedule,
    apply_step,
    apply_updates,
    chain,
    partition,
    pass_through,
)
from ds2f.optim.optimizers import adamw, from_config, lamb, muon, novograd, sgd
from ds2f.optim.transforms import clip_by_global_norm, clip_factor

__all__ = [
    "EmptyState",
    "GradientTransformation",
    "Schedule",
    "adamw",
    "apply_step",
    "apply_updates",
    "average",
    "chain",
    "clip_by_global_norm",
    "clip_factor",
    "from_config",
    "lamb",
    "muon",
    "novograd",
    "partition",
    "pass_through",
    "schedules",
    "sgd",
    "transforms",
]
