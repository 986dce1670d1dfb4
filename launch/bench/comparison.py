"""The implementations of the training step by name, and the check that they compute the same."""

from collections.abc import Iterable
from typing import Protocol

import attrs
import torch
from torch import Tensor

from ds2f import convert, rng
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner import program
from ds2f.runner.device.backend import Backend
from ds2f.runner.spans import Spans
from ds2f.types import Batch
from launch.bench.baselines import Baseline
from launch.synthetic_batches import make_batch

TOLERANCE = 1e-3  # relative, in fp32
DESCRIPTIONS = {
    "ours": "functional, as launch.train",
    "usual": "nn.Module, packed sequences, fp32, as deepspeech.pytorch",
    "best": "nn.Module, padded, one fused call per direction, channels last, autocast, fused AdamW",
    "amp": "nn.Module, packed sequences, autocast, AdamW",
}


class Implementation(Protocol):
    """An implementation of the training step, with its state."""

    def step(self, batch: Batch) -> Tensor:
        """Takes a training step; returns the mean loss of the batch before the step, natural log."""

    def weights(self) -> dict[str, Tensor]:
        """Parameters and batch-norm statistics; names are those of deepspeech.pytorch."""


class Ours:
    """The training step of ds2f, ``ds2f.runner.program``, with its state."""

    def __init__(self, cfg: Config, backend: Backend, *, spans: Spans | None = None) -> None:
        """Makes the initial state.

        Args:
          cfg: a resolved configuration.
          backend: the device.
          spans: records the time of every stage.
        """
        self._program, self._spans, self._steps = program.build(cfg, backend), spans, 0
        self._state = backend.place_state(self._program.init())

    def step(self, batch: Batch) -> Tensor:
        """Takes a training step; returns the mean loss of the batch before the step, natural log."""
        key = rng.fold_in(self._program.cfg.training.seed, "step", self._steps)
        self._state, metrics = self._program.step(self._state, [batch], key=key, spans=self._spans)
        self._steps += 1
        return metrics.loss

    def weights(self) -> dict[str, Tensor]:
        """Parameters and batch-norm statistics on the CPU; names are those of deepspeech.pytorch."""
        return convert.to_reference(self._program.cfg.model, self._state.params, self._state.stats)


def make(name: str, cfg: Config, backend: Backend) -> Implementation:
    """Makes an implementation with its own initial parameters.

    Raises:
      InputError: the baselines lack a setting of ``cfg``.
    """
    if name == "ours":
        return Ours(cfg, backend)
    return make_baseline(name, cfg, half=backend.policy(cfg.apex).compute, device=backend.device)


def make_baseline(name: str, cfg: Config, *, half: torch.dtype, device: torch.device) -> Baseline:
    """Makes a baseline; ``half`` is the dtype of autocast in baselines that use it, float32 for none.

    Raises:
      InputError: the baselines lack a setting of ``cfg``.
    """
    if cfg.model.dropout:
        raise InputError("--model.dropout: the baselines have no dropout, like deepspeech.pytorch; leave it at 0")
    lacking = {
        "model.label_smoothing": cfg.model.label_smoothing,
        "model.intermediate_ctc": cfg.model.intermediate_ctc,
        "model.consistency": cfg.model.consistency,
        "optim.name": cfg.optim.name if cfg.optim.name != "adamw" else "",
        "optim.schedule": cfg.optim.schedule if cfg.optim.schedule != "constant" else "",
        "optim.decay_matrices_only": cfg.optim.decay_matrices_only,
        "optim.average_decay": cfg.optim.average_decay,
    }
    for flag, value in lacking.items():
        if value:
            raise InputError(f"--{flag}={value}: the baselines do not have it; measure with --contestants=ours alone")
    packed, dtype, fused = {
        "usual": (True, torch.float32, False),
        "best": (False, half, True),
        "amp": (True, half, False),
    }[name]
    return Baseline(cfg, packed=packed, dtype=dtype, fused=fused, device=device)


def make_all(names: Iterable[str], cfg: Config, backend: Backend) -> dict[str, Implementation]:
    """Makes implementations; if ``ours`` is among them, the others start from its parameters."""
    made = {name: make(name, cfg, backend) for name in names}
    baselines = [each for each in made.values() if isinstance(each, Baseline)]
    if "ours" in made and baselines:
        start = made["ours"].weights()
        for baseline in baselines:
            baseline.load(start)
    return made


def require_agreement(cfg: Config, backend: Backend) -> dict[str, float]:
    """Compares all implementations over two steps of a small model in fp32.

    The batch has no padding, since the batch norm of the baselines counts padding. Epsilon of the optimizer is large,
    so that rounding errors of zero gradients have no effect. Gradients are clipped.

    Returns:
      By implementation, its distance from ``ours``: the relative difference of the losses, or the difference of the
      parameters relative to their change, whichever is larger.

    Raises:
      RuntimeError: a distance is above ``TOLERANCE``. A comparison of speeds would mean nothing.
    """
    small = attrs.evolve(
        cfg,
        model=attrs.evolve(cfg.model, hidden_size=16, hidden_layers=2, num_bins=41),
        apex=attrs.evolve(cfg.apex, opt_level="O0"),
        optim=attrs.evolve(cfg.optim, learning_rate=0.1, eps=0.1, max_norm=10.0, weight_decay=0.1),
    )
    batch = backend.place(make_batch(small, [64, 64, 64]))
    implementations = make_all(DESCRIPTIONS, small, backend)
    start = _on_cpu(implementations["ours"].weights())
    losses, ends = {}, {}
    for name, implementation in implementations.items():
        losses[name] = [float(implementation.step(batch)) for _ in range(2)]
        ends[name] = _on_cpu(implementation.weights())
    apart = {name: max(_loss_distance(losses, name), _distance(ends, name, start)) for name in DESCRIPTIONS}
    if not max(apart.values()) <= TOLERANCE:
        raise RuntimeError(f"the implementations compute different things: {apart}")
    return apart


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to("cpu", copy=True) for name, value in weights.items() if value.is_floating_point()}


def _loss_distance(losses: dict[str, list[float]], name: str) -> float:
    return max(abs(theirs / ours - 1) for theirs, ours in zip(losses[name], losses["ours"], strict=True))


def _distance(ends: dict[str, dict[str, Tensor]], name: str, start: dict[str, Tensor]) -> float:
    """The largest distance of a tensor from ``ours``, relative to the change of the tensor in ``ours``."""
    return max(
        float((ends[name][path] - ours).norm() / (ours - start[path]).norm()) for path, ours in ends["ours"].items()
    )
