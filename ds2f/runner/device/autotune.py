"""Chooses the recurrent kernel for ``--model.kernel=auto`` by timing the candidates on the run's own shape.

The times are stored in the user's cache folder (``$XDG_CACHE_HOME/ds2f/kernels.json``), by processor, thread count,
torch version, dtype and shape. A missing, damaged or read-only cache file costs time and is no error.
"""

import logging
import os
import time

import torch

from ds2f.config import ModelConfig
from ds2f.model import layers, recurrent
from ds2f.runner.device import processor, user_cache
from ds2f.runner.device.backend import Backend

_log = logging.getLogger(__name__)
_FILE = "kernels.json"
_FRAMES = 32  # length of the timed sequence; every candidate processes frame after frame
_ROUNDS = 3  # timed rounds, after one warm-up round for caches
_MARGIN = 0.95  # another kernel replaces the fused kernel if it takes less than this fraction of the time
_SMALLEST = 512  # units per layer; for smaller layers, timing costs more than it saves
_REPAID = 100  # steps; in a shorter run, timing (a few seconds) costs more than it saves


def choose(cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype, backend: Backend, steps: int = 0) -> str:
    """Returns the name of the recurrent kernel to train with: ``cfg.kernel``, or for ``auto`` the fastest candidate.

    Most devices have one candidate, and nothing is timed: cuDNN's and Ascend's operators have no fast alternative, and
    in float32 oneDNN's operator is nearly as fast as the processor's matrix products.

    Args:
      cfg: the ``model`` section.
      batch_size: utterances per forward pass.
      dtype: compute dtype.
      backend: the device.
      steps: length of the run in steps, 0 if unknown. A short run uses times from the cache or the fused kernel.
    """
    if cfg.kernel != "auto":
        return cfg.kernel
    candidates = backend.kernels(dtype) if cfg.rnn_type == "lstm" and cfg.hidden_size >= _SMALLEST else ("fused",)
    if len(candidates) == 1:
        return candidates[0]
    key = _key(cfg, batch_size=batch_size, dtype=dtype)
    seconds = _read_cache(key)
    if seconds is None or not set(seconds) <= set(candidates):
        if 0 < steps < _REPAID:
            return "fused"
        _log.info("timing the recurrent kernels %s for this processor and shape, once", " and ".join(candidates))
        seconds = _measure(candidates, cfg, batch_size=batch_size, dtype=dtype, backend=backend)
        user_cache.write(_FILE, key, seconds)
    fastest = min(seconds, key=lambda name: seconds[name])
    return fastest if seconds[fastest] < _MARGIN * seconds["fused"] else "fused"


def _key(cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype) -> str:
    """Everything on which the times depend, as a key of the cache."""
    return ", ".join(
        [
            processor.name(),
            processor.capability(),
            f"oneDNN {os.environ.get('ONEDNN_MAX_CPU_ISA', 'default')}",
            f"{torch.get_num_threads()} threads",
            f"torch {torch.__version__}",
            f"{dtype} {cfg.rnn_type} of {cfg.hidden_size} units, batch {batch_size}",
        ]
    )


def _read_cache(key: str) -> dict[str, float] | None:
    """The times by kernel that an earlier run stored, seconds; None without valid times."""
    seconds = user_cache.read(_FILE, key)
    if not isinstance(seconds, dict) or "fused" not in seconds:
        return None
    return seconds if all(isinstance(value, float) and value > 0 for value in seconds.values()) else None


def _measure(
    candidates: tuple[str, ...], cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype, backend: Backend
) -> dict[str, float]:
    """Times forward and backward pass of one direction of a layer with each kernel: the fastest round, in seconds."""
    size, device = cfg.hidden_size, backend.device
    frames = layers.frames(torch.full((batch_size,), _FRAMES, device=device), _FRAMES)
    x = torch.full((_FRAMES, batch_size, size), 0.1, dtype=dtype, device=device)
    shapes = {"w_ih": (4 * size, size), "w_hh": (4 * size, size), "b_ih": (4 * size,), "b_hh": (4 * size,)}
    weights = {name: torch.full(shape, 1 / size, dtype=dtype, device=device) for name, shape in shapes.items()}
    kernels = {name: recurrent.named(name, cfg.rnn_type) for name in candidates}

    def seconds_of(kernel: recurrent.Kernel) -> float:
        backend.synchronize()
        started = time.perf_counter()
        y, pullback, *_ = torch.func.vjp(lambda x, w: kernel(x, frames, None, [w])[0], x, weights)
        with torch.no_grad():
            pullback(y)
        backend.synchronize()
        return time.perf_counter() - started

    for name in candidates[1:]:
        try:
            seconds_of(kernels[name])
        except RuntimeError as error:  # this processor or torch release lacks an operator
            _log.warning("the recurrent kernel %s does not run here and is skipped: %s", name, error)
            del kernels[name]
    seconds_of(kernels["fused"])
    rounds = [{name: seconds_of(kernel) for name, kernel in kernels.items()} for _ in range(_ROUNDS)]
    return {name: min(times[name] for times in rounds) for name in kernels}
