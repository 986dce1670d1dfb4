"""Chooses the recurrent kernel for ``--model.kernel=auto`` by timing the candidates on the run's own shape.

The times are stored in the user's cache folder (``$XDG_CACHE_HOME/ds2f/kernels.json``), by processor and thread count,
or by device and driver, and by torch version, dtype and shape. A missing, damaged or read-only cache file costs time
and is no error.
"""

import logging
import os
import time
from typing import Any

import torch
from torch import Tensor

from ds2f import rng
from ds2f.config import ModelConfig
from ds2f.grad import value_and_grad
from ds2f.model import layers, recurrent
from ds2f.runner.device import inspection, processor, user_cache
from ds2f.runner.device.backend import Backend

_log = logging.getLogger(__name__)
_FILE = "kernels.json"
_FRAMES, _FRAMES_ON_DEVICE = 32, 256  # longest timed utterance; every candidate processes frame after frame
_ROUNDS = 3  # timed rounds, after one warm-up round for caches
_MARGIN = 0.95  # another kernel replaces the fused kernel if it takes less than this fraction of the time
_SMALLEST = 512  # units per layer; for smaller layers, timing costs more than it saves
_APART = 0.1  # relative distance of a layer's outputs from the fused kernel's that half precision does not explain
_REPAID = 100  # steps; in a shorter run, timing (a few seconds) costs more than it saves


def choose(cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype, backend: Backend, steps: int = 0) -> str:
    """Returns the name of the recurrent kernel to train with: ``cfg.kernel``, or for ``auto`` the fastest candidate.

    With one candidate, nothing is timed: Ascend's operator has no fast alternative, and in float32 oneDNN's operator is
    nearly as fast as the processor's matrix products.

    Args:
      cfg: the ``model`` section.
      batch_size: utterances per forward pass.
      dtype: compute dtype.
      backend: the device.
      steps: length of the run in steps, 0 if unknown. A short run uses times from the cache or the fused kernel.
    """
    if cfg.kernel != "auto":
        return cfg.kernel
    names = candidates(cfg, dtype=dtype, backend=backend)
    if len(names) == 1:
        return names[0]
    seconds = _read_cache(_key(cfg, batch_size=batch_size, dtype=dtype, backend=backend))
    if seconds is None or not set(seconds) <= set(names):
        if 0 < steps < _REPAID:
            return "fused"
        _log.info("timing the recurrent kernels %s for this processor and shape, once", " and ".join(names))
        seconds = measure(cfg, batch_size=batch_size, dtype=dtype, backend=backend)
    return fastest(seconds)


def candidates(cfg: ModelConfig, *, dtype: torch.dtype, backend: Backend) -> tuple[str, ...]:
    """The kernels that ``auto`` would time; ``fused`` first. Arguments as of ``choose``."""
    if cfg.hidden_size < _SMALLEST:
        return ("fused",)
    fits = {"hoisted": cfg.rnn_type == "lstm", "paired": cfg.rnn_type != "rnn" and cfg.bidirectional}
    return tuple(name for name in backend.kernels(dtype) if fits.get(name, True))


def measure(cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype, backend: Backend) -> dict[str, float]:
    """Times the candidates, stores the times for ``choose``, and returns them by kernel, seconds.

    Arguments as of ``choose``.
    """
    names = candidates(cfg, dtype=dtype, backend=backend)
    seconds = _measure(names, cfg, batch_size=batch_size, dtype=dtype, backend=backend)
    user_cache.write(_FILE, _key(cfg, batch_size=batch_size, dtype=dtype, backend=backend), seconds)
    return seconds


def fastest(seconds: dict[str, float]) -> str:
    """The kernel to take, by the times of all: ``fused`` unless another is clearly faster.

    >>> fastest({"fused": 1.0, "hoisted": 0.96}), fastest({"fused": 1.0, "hoisted": 0.9})
    ('fused', 'hoisted')
    """
    name = min(seconds, key=lambda name: seconds[name])
    return name if seconds[name] < _MARGIN * seconds["fused"] else "fused"


def _key(cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype, backend: Backend) -> str:
    """Everything on which the times depend, as a key of the cache."""
    shape = [f"torch {torch.__version__}", f"{dtype} {cfg.rnn_type} of {cfg.hidden_size} units, batch {batch_size}"]
    if backend.name != "cpu":
        driver = inspection.driver_version(backend.name) or "unknown"
        return ", ".join([backend.name, backend.description, f"driver {driver}", *shape])
    isa, threads = os.environ.get("ONEDNN_MAX_CPU_ISA", "default"), torch.get_num_threads()
    return ", ".join([processor.name(), processor.capability(), f"oneDNN {isa}", f"{threads} threads", *shape])


def _read_cache(key: str) -> dict[str, float] | None:
    """The times by kernel that an earlier run stored, seconds; None without valid times."""
    seconds = user_cache.read(_FILE, key)
    if not isinstance(seconds, dict) or "fused" not in seconds:
        return None
    return seconds if all(isinstance(value, float) and value > 0 for value in seconds.values()) else None


def _measure(
    names: tuple[str, ...], cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype, backend: Backend
) -> dict[str, float]:
    """Times forward and backward pass of a layer with each kernel: the fastest round, in seconds.

    Both directions are timed where a kernel treats them together. A kernel that does not run is left out, and so is one
    that does not compute what the fused kernel computes.
    """
    inputs, frames = _layer(
        cfg, batch_size=batch_size, dtype=dtype, backend=backend, directions=1 + ("paired" in names)
    )
    kernels = {name: recurrent.named(name, cfg.rnn_type) for name in names}

    def run(kernel: recurrent.Kernel) -> Tensor:
        def summed(inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
            y, _ = kernel(inputs["x"], frames, None, inputs["weights"])
            return y.sum(), y

        (_, y), _ = value_and_grad(summed, has_aux=True, engine=backend.engine)(inputs)
        return y

    def seconds_of(kernel: recurrent.Kernel) -> float:
        backend.synchronize()
        started = time.perf_counter()
        run(kernel)
        backend.synchronize()
        return time.perf_counter() - started

    expected = run(kernels["fused"]).float()
    for name in names[1:]:
        try:
            apart = float((run(kernels[name]).float() - expected).norm() / expected.norm())
            problem = "" if apart <= _APART else f"its outputs are off by {apart:.1g}"
        except RuntimeError as error:  # this processor or torch release lacks an operator
            problem = str(error)
        if problem:
            _log.warning("the recurrent kernel %s does not run here and is skipped: %s", name, problem)
            del kernels[name]
    rounds = [{name: seconds_of(kernel) for name, kernel in kernels.items()} for _ in range(_ROUNDS)]
    return {name: min(times[name] for times in rounds) for name in kernels}


def _layer(
    cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype, backend: Backend, directions: int
) -> tuple[dict[str, Any], layers.Frames]:
    """Input and weights of a layer, drawn, and the frames of a batch whose utterances are 7/8 as long or longer."""
    size, longest = cfg.hidden_size, _FRAMES if backend.name == "cpu" else _FRAMES_ON_DEVICE
    rows, random = recurrent.GATES[cfg.rnn_type] * size, rng.generator(0)
    shapes = {"w_ih": (rows, size), "w_hh": (rows, size), "b_ih": (rows,), "b_hh": (rows,)}

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device="cpu").to(backend.device, dtype)

    weights = [{name: drawn(*shape) * (0.5 / size**0.5) for name, shape in shapes.items()} for _ in range(directions)]
    lengths = torch.linspace(longest, longest * 7 // 8, batch_size, device="cpu").long().to(backend.device)
    return {"x": drawn(longest, batch_size, size), "weights": weights}, layers.frames(lengths, longest)
