"""Which recurrent kernel a run takes where ``--model.kernel=auto`` leaves it open: timed, for the run's own shape."""

import logging
import time

import torch

from ds2f.config import ModelConfig
from ds2f.model import layers, recurrent
from ds2f.runner.device.backend import Backend

_log = logging.getLogger(__name__)
_FRAMES = 32  # of the layer that is timed: all candidates take them one by one
_ROUNDS = 3  # that count, after one that warms caches and compilers up
_MARGIN = 0.95  # what is not fused has to take less than this share of its time
_SMALLEST = 512  # units; with fewer, all of a step is quick, and its start would be what is long


def choose(cfg: ModelConfig, *, batch_size: int, dtype: torch.dtype, backend: Backend) -> str:
    """The name of the kernel to train with.

    Candidates are what the backend names, since most leave no choice: cuDNN's and Ascend's operators are the only fast
    ones there, and in float32 oneDNN's runs at nearly the speed of the processor's matrix products. All this costs
    less than one training step.

    Args:
      cfg: the ``model`` section.
      batch_size: utterances that a layer sees at once.
      dtype: dtype to compute in.
      backend: the device.

    Returns:
      ``cfg.kernel``, or what it means here if that is ``auto``.
    """
    if cfg.kernel != "auto":
        return cfg.kernel
    candidates = backend.kernels(dtype) if cfg.rnn_type == "lstm" and cfg.hidden_size >= _SMALLEST else ("fused",)
    if len(candidates) == 1:
        return candidates[0]
    seconds = _measure(candidates, cfg, batch_size=batch_size, dtype=dtype, backend=backend)
    fastest = min(seconds, key=lambda name: seconds[name])
    return fastest if seconds[fastest] < _MARGIN * seconds["fused"] else "fused"


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
