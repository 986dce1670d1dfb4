"""The training step as PyTorch programs usually have it, to measure the functional one against.

Parameters and running statistics live in an ``nn.Module`` and change in place: ``backward()``, ``clip_grad_norm_``,
``torch.optim.AdamW``. The forward pass and the loss are the functional model's own functions, called with the module's
parameters, so that both programs run the same recurrent kernel, masked batch norm, casts and CTC, and differ in their
style alone. Losses are scaled for fp16 only, where people do so. What the functional step does besides (it scales the
loss, and judges whether the gradient is finite, in every dtype) counts against it.
"""

import torch
from torch import Tensor, nn

from ds2f import tree
from ds2f.config import Config
from ds2f.model.batch_norm import update_stats
from ds2f.precision import Policy
from ds2f.steps import Loss
from ds2f.types import Batch, Params, Stats


class Network(nn.Module):
    """DeepSpeech2 and its loss as a module that owns its parameters and running statistics."""

    def __init__(self, params: Params, stats: Stats, *, loss: Loss) -> None:
        """Takes over the tensors of ``params`` and ``stats``, which change in place; ``loss`` as for ``train_step``."""
        super().__init__()
        self._loss = loss
        self._params = tree.map(nn.Parameter, params)
        self._stats = stats
        for path, parameter in tree.flatten_with_paths(self._params).items():
            self.register_parameter(path, parameter)
        for path, buffer in tree.flatten_with_paths(stats).items():
            self.register_buffer(path, buffer)

    def forward(self, batch: Batch, *, key: int | None = None) -> Tensor:
        """The losses [B] of a batch, in natural log; running statistics move."""
        losses, moments = self._loss(self._params, self._stats, batch, key=key)
        with torch.no_grad():
            new_stats = update_stats(self._stats, moments)
            torch._foreach_copy_(tree.leaves(self._stats), tree.leaves(new_stats))
        return losses


class Imperative:
    """A network and the optimizer that changes it."""

    def __init__(self, network: Network, *, cfg: Config, policy: Policy, fused: bool = True) -> None:
        """Makes AdamW at ``cfg.optim.learning_rate``, a constant, and the loss scale that fp16 needs."""
        self.network = network
        self._max_norm = cfg.optim.max_norm
        self._optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=cfg.optim.learning_rate,
            betas=(cfg.optim.beta1, cfg.optim.beta2),
            eps=cfg.optim.eps,
            weight_decay=cfg.optim.weight_decay,
            fused=fused,
        )
        self._scaler = torch.amp.GradScaler(
            next(network.parameters()).device.type,
            init_scale=cfg.apex.initial_scale,
            growth_interval=cfg.apex.growth_interval,
            enabled=policy.compute is torch.float16,
        )

    def step(self, batch: Batch, *, key: int | None = None) -> Tensor:
        """Takes one training step on utterances that can all be transcribed; returns the mean loss, natural log."""
        loss = self.network(batch, key=key).mean()
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self._max_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def parameters(self) -> list[Tensor]:
        """The parameters in the flat order of their tree."""
        return [parameter.detach() for parameter in self.network.parameters()]
