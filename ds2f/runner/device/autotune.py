"""The recurrent kernel of a run whose ``--model.kernel=auto`` leaves it open: timed for the run's own shape.

What is timed once is kept in a file of the user's cache folder (``$XDG_CACHE_HOME/ds2f/kernels.json``), by processor,
thread count, torch version, dtype and shape. The file saves time alone: a missing, damaged or unwritable one is no
error.
"""

import json
import logging
import os
import time
from pathlib import Path

import torch

from ds2f.config import ModelConfig
from ds2f.files import write_atomically
from ds2f.model import layers, recurrent
from ds2f.runner.device import processor
from ds2f.runner.device.backend import Backend

_log = logging.getLogger(__name__)
_FRAMES = 32  # of the layer that is timed: all candidates take them one by one
_ROUNDS = 3  # that count, after one that warms caches and compilers up
_MARGIN = 0.95  # a kernel other than the fused one has to take less than this share of its time
_SMALLEST = 512  # units; a step with fewer is quick, and the timing would take longer than it saves
_REPAID = 100  # steps; in a shorter run the timing, a few seconds to half a minute, does not repay itself


def choose(cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype, backend: Backend, steps: int = 0) -> str:
    """The name of the kernel to train with.

    The backend names the candidates, and mostly one alone: cuDNN's and Ascend's operators are the only fast ones there,
    and in float32 oneDNN's runs at nearly the speed of the processor's matrix products.

    Args:
      cfg: the ``model`` section.
      batch_size: utterances that a layer sees at once.
      dtype: dtype to compute in.
      backend: the device.
      steps: the length of the run, 0 if unknown; a short run takes the fused kernel unless the cache knows better.

    Returns:
      ``cfg.kernel``, or its meaning here if that is ``auto``.
    """
    if cfg.kernel != "auto":
        return cfg.kernel
    candidates = backend.kernels(dtype) if cfg.rnn_type == "lstm" and cfg.hidden_size >= _SMALLEST else ("fused",)
    if len(candidates) == 1:
        return candidates[0]
    key = _key(cfg, batch_size=batch_size, dtype=dtype)
    seconds = _remembered(key)
    if seconds is None or not set(seconds) <= set(candidates):
        if 0 < steps < _REPAID:
            return "fused"
        _log.info("timing the recurrent kernels %s for this processor and shape, once", " and ".join(candidates))
        seconds = _measure(candidates, cfg, batch_size=batch_size, dtype=dtype, backend=backend)
        _remember(key, seconds)
    fastest = min(seconds, key=lambda name: seconds[name])
    return fastest if seconds[fastest] < _MARGIN * seconds["fused"] else "fused"


def _key(cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype) -> str:
    """All that the times depend on."""
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


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ds2f" / "kernels.json"


def _remembered(key: str) -> dict[str, float] | None:
    """Seconds by kernel, as an earlier run measured them here; None if none did."""
    try:
        seconds = json.loads(_cache_file().read_text(encoding="utf-8"))[key]
        valid = "fused" in seconds and all(isinstance(value, float) and value > 0 for value in seconds.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return seconds if valid else None


def _remember(key: str, seconds: dict[str, float]) -> None:
    try:
        path = _cache_file()
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            known = known if isinstance(known, dict) else {}
        except (OSError, ValueError, RecursionError):
            known = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(known | {key: seconds}, indent=1, sort_keys=True) + "\n")
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        _log.debug("the times of the recurrent kernels are not kept: %s", error)


def _measure(
    candidates: tuple[str, ...], cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype, backend: Backend
) -> dict[str, float]:
    """Seconds that one direction of a layer takes forward and backward with each kernel: the fastest of some rounds."""
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
        except RuntimeError as error:  # a processor or a release of torch without an operator that it needs
            _log.warning("the recurrent kernel %s does not run here and is left aside: %s", name, error)
            del kernels[name]
    seconds_of(kernels["fused"])
    rounds = [{name: seconds_of(kernel) for name, kernel in kernels.items()} for _ in range(_ROUNDS)]
    return {name: min(times[name] for times in rounds) for name in kernels}
