"""Optimizers: each is a chain of transforms, with a step over the same state.

SGD and AdamW have a fused step, the others a step that takes one leaf after the other on CPUs.
"""

import functools
from collections.abc import Callable

from ds2f.config import OptimConfig
from ds2f.errors import InputError
from ds2f.optim.base import GradientTransformation, Mask, Schedule, chain, partition, pass_through
from ds2f.optim.fused import adamw_step, sgd_step
from ds2f.optim.leafwise import leafwise_step
from ds2f.optim.transforms import (
    add_decayed_weights,
    hidden_matrices,
    matrices_only,
    orthogonalize,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_novograd,
    scale_by_trust_ratio,
    trace,
)


def sgd(
    learning_rate: float | Schedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
    fused: bool = True,
) -> GradientTransformation:
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``.

    Args:
      learning_rate: a number or a schedule.
      momentum: decay of the accumulated gradient; 0: no momentum and no state for it.
      nesterov: uses Nesterov's momentum.
      weight_decay: factor of the L2 regularisation that is added to the gradient.
      mask: as ``adamw``'s.
      fused: as ``adamw``'s.
    """
    step = sgd_step(learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, mask=mask)
    return chain(
        add_decayed_weights(weight_decay, mask=mask),
        trace(momentum, nesterov=nesterov) if momentum else pass_through(),
        scale_by_learning_rate(learning_rate),
    )._replace(step=step if fused else None)


def adamw(
    learning_rate: float | Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    mask: Mask | None = None,
    fused: bool = True,
) -> GradientTransformation:
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``.

    Loshchilov and Hutter 2019 (https://arxiv.org/abs/1711.05101), algorithm 2, with the decay multiplied by the
    learning rate.

    Args:
      learning_rate: a number or a schedule.
      b1: decay of the mean gradient.
      b2: decay of the mean squared gradient.
      eps: added to the denominator, outside the root.
      weight_decay: a step multiplies each parameter by ``1 - learning_rate * weight_decay``.
      mask: which leaves decay, for example ``transforms.matrices_only``; ``None``: all.
      fused: adds a ``step`` of a single kernel, for parameters of one dtype. The platform's kernel must honour
        ``found_inf``: the kernels of CPU and CUDA do; Ascend's ignores it and would apply a non-finite step.

    Raises:
      InputError: if ``b1`` or ``b2`` is outside [0, 1).

    >>> import torch
    >>> from ds2f import optim
    >>> tx = optim.adamw(0.5, weight_decay=0.0)
    >>> params, grads = {"w": torch.tensor([1.0, -1.0])}, {"w": torch.tensor([8.0, -8.0])}
    >>> updates, state = tx.update(grads, tx.init(params), params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([ 0.5000, -0.5000])}
    """
    _check_decays(b1=b1, b2=b2)
    step = adamw_step(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)
    return chain(
        scale_by_adam(b1, b2, eps),
        add_decayed_weights(weight_decay, mask=mask),
        scale_by_learning_rate(learning_rate),
    )._replace(step=step if fused else None)


def lamb(
    learning_rate: float | Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 1e-2,
    mask: Mask | None = None,
) -> GradientTransformation:
    """AdamW whose step for each leaf is scaled to the leaf's own norm, for large batches.

    You et al. 2019 (https://arxiv.org/abs/1904.00962), algorithm 2; the arguments are ``adamw``'s. Leaves outside
    ``mask`` take Adam's plain step, without decay and without scaling, as in the authors' code and in apex. Reason:
    biases and shifts start at zero, so their norm is no measure for a step. The paper has no such exception.
    """
    _check_decays(b1=b1, b2=b2)
    tx = chain(
        scale_by_adam(b1, b2, eps),
        add_decayed_weights(weight_decay, mask=mask),
        scale_by_trust_ratio(mask=mask),
        scale_by_learning_rate(learning_rate),
    )
    return tx._replace(step=leafwise_step(tx))


def novograd(
    learning_rate: float | Schedule,
    *,
    b1: float = 0.95,
    b2: float = 0.98,
    eps: float = 1e-8,
    weight_decay: float = 1e-3,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Momentum over gradients that are normalised leaf by leaf; its state is half as large as Adam's.

    Ginsburg et al. 2019 (https://arxiv.org/abs/1905.11286), algorithm 1, with the paper's defaults. Momentum is a sum
    (``m = b1 * m + g``), not an average. The arguments are ``adamw``'s.
    """
    _check_decays(b1=b1, b2=b2)
    tx = chain(
        scale_by_novograd(b2, eps),
        add_decayed_weights(weight_decay, mask=mask),
        trace(b1),
        scale_by_learning_rate(learning_rate),
    )
    return tx._replace(step=leafwise_step(tx))


def muon(
    learning_rate: float | Schedule,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    mask: Mask | None = None,
    matrices: Mask = hidden_matrices,
) -> GradientTransformation:
    """Orthogonalized momentum for the matrices inside the model, AdamW for all other leaves; for large batches.

    Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); as ``torch.optim.Muon`` with
    ``adjust_lr_fn="match_rms_adamw"``, but in the parameters' precision.

    Args:
      learning_rate: a number or a schedule, for all leaves; AdamW's usual values fit.
      momentum: decay of the matrices' momentum.
      nesterov: uses Nesterov's momentum for the matrices.
      b1: as ``adamw``'s, for the other leaves.
      b2: likewise.
      eps: likewise.
      weight_decay: as ``adamw``'s, for all leaves.
      mask: as ``adamw``'s.
      matrices: which leaves are orthogonalized; the default knows this project's model only.
    """
    _check_decays(b1=b1, b2=b2)
    tx = chain(
        partition(
            matrices,
            chain(trace(momentum, nesterov=nesterov), orthogonalize()),
            scale_by_adam(b1, b2, eps),
        ),
        add_decayed_weights(weight_decay, mask=mask),
        scale_by_learning_rate(learning_rate),
    )
    return tx._replace(step=leafwise_step(tx))


def from_config(cfg: OptimConfig, learning_rate: float | Schedule, *, fused: bool = True) -> GradientTransformation:
    """Makes the optimizer of ``optim.name``; without ``fused``, it has no ``step``, as in ``adamw``."""
    optimizers: dict[str, Callable[..., GradientTransformation]] = {
        "sgd": functools.partial(sgd, momentum=cfg.momentum, nesterov=cfg.nesterov),
        "adamw": functools.partial(adamw, b1=cfg.beta1, b2=cfg.beta2, eps=cfg.eps),
        "lamb": functools.partial(lamb, b1=cfg.beta1, b2=cfg.beta2, eps=cfg.eps),
        "muon": functools.partial(
            muon, momentum=cfg.momentum, nesterov=cfg.nesterov, b1=cfg.beta1, b2=cfg.beta2, eps=cfg.eps
        ),
        "novograd": functools.partial(novograd, b1=cfg.beta1, b2=cfg.beta2, eps=cfg.eps),
    }
    mask = matrices_only if cfg.decay_matrices_only else None
    tx = optimizers[cfg.name](learning_rate, weight_decay=cfg.weight_decay, mask=mask)
    return tx if fused else tx._replace(step=None)


def _check_decays(**decays: float) -> None:
    for name, value in decays.items():
        if not 0 <= value < 1:
            raise InputError(f"optim.beta{name[-1]}={value:g}: the decay of a moment must be at least 0 and below 1")
