"""The contestants by name, and the proof that they compute the same."""

from collections.abc import Iterable
from typing import Protocol

import attrs
import torch
from torch import Tensor

from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.device.backend import Backend
from ds2f.types import Batch
from launch.bench.baselines import Baseline
from launch.bench.ours import Ours
from launch.synthetic_batches import make_batch

TOLERANCE = 1e-3  # relative, in fp32
WHAT_THEY_ARE = {
    "ours": "functional, as launch.train",
    "usual": "nn.Module, packed sequences, fp32, as deepspeech.pytorch",
    "best": "nn.Module, padded, one fused call per direction, channels last, autocast, fused AdamW",
    "amp": "nn.Module, packed sequences, autocast, AdamW",
}


class Program(Protocol):
    """Something that trains, one step at a time."""

    def step(self, batch: Batch) -> Tensor:
        """Takes a training step and returns the mean loss of the batch before it, natural log."""

    def weights(self) -> dict[str, Tensor]:
        """Parameters and statistics under deepspeech.pytorch's names."""


def make(name: str, cfg: Config, backend: Backend) -> Program:
    """Makes a contestant; the baselines start from parameters of their own.

    Raises:
      InputError: for settings that the baselines do not have.
    """
    if name == "ours":
        return Ours(cfg, backend)
    return make_baseline(name, cfg, half=backend.policy(cfg.apex).compute, device=backend.device)


def make_baseline(name: str, cfg: Config, *, half: torch.dtype, device: torch.device) -> Baseline:
    """Makes one of the others, of which those under autocast compute in ``half`` (float32: without it).

    Raises:
      InputError: for settings that the baselines do not have.
    """
    if cfg.model.dropout:
        raise InputError("--model.dropout: the baselines have none, as deepspeech.pytorch has none; leave it at 0")
    packed, dtype, fused = {
        "usual": (True, torch.float32, False),
        "best": (False, half, True),
        "amp": (True, half, False),
    }[name]
    return Baseline(cfg, packed=packed, dtype=dtype, fused=fused, device=device)


def line_up(names: Iterable[str], cfg: Config, backend: Backend) -> dict[str, Program]:
    """Makes contestants that start from the same parameters, ours, if it is one of them."""
    programs = {name: make(name, cfg, backend) for name in names}
    baselines = [program for program in programs.values() if isinstance(program, Baseline)]
    if "ours" in programs and baselines:
        start = programs["ours"].weights()
        for baseline in baselines:
            baseline.load(start)
    return programs


def require_agreement(cfg: Config, backend: Backend) -> dict[str, float]:
    """Lets all contestants take two steps of a small model in fp32, on a batch without padding.

    There the usual way's batch norm counts the same frames as ours. The optimizer's epsilon is large, so that its steps
    follow the gradients and not the rounding of those that are zero; gradients are clipped.

    Returns:
      By contestant, how far it is from ours: the larger of the losses' relative difference and of the distance between
      the parameters as a share of the way that they went.

    Raises:
      RuntimeError: when one is farther than ``TOLERANCE``, so that times would mean nothing.
    """
    small = attrs.evolve(
        cfg,
        model=attrs.evolve(cfg.model, hidden_size=16, hidden_layers=2, num_bins=41),
        apex=attrs.evolve(cfg.apex, opt_level="O0"),
        optim=attrs.evolve(cfg.optim, learning_rate=0.1, eps=0.1, max_norm=10.0, weight_decay=0.1),
    )
    batch = backend.place(make_batch(small, [64, 64, 64]))
    programs = line_up(WHAT_THEY_ARE, small, backend)
    start = _on_cpu(programs["ours"].weights())
    losses, ends = {}, {}
    for name, program in programs.items():
        losses[name] = [float(program.step(batch)) for _ in range(2)]
        ends[name] = _on_cpu(program.weights())
    apart = {name: max(_loss_distance(losses, name), _distance(ends, name, start)) for name in WHAT_THEY_ARE}
    if not max(apart.values()) <= TOLERANCE:
        raise RuntimeError(f"the contestants compute different things: {apart}")
    return apart


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to("cpu", copy=True) for name, value in weights.items() if value.is_floating_point()}


def _loss_distance(losses: dict[str, list[float]], name: str) -> float:
    return max(abs(theirs / ours - 1) for theirs, ours in zip(losses[name], losses["ours"], strict=True))


def _distance(ends: dict[str, dict[str, Tensor]], name: str, start: dict[str, Tensor]) -> float:
    """Between the weights of two contestants, relative to the way that ours went; the farthest tensor's."""
    return max(
        float((ends[name][path] - ours).norm() / (ours - start[path]).norm()) for path, ours in ends["ours"].items()
    )
