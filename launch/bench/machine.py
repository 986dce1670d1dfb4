"""Description of the machine and of a case; timing and statistics."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

import ds2f
from ds2f.config import Config
from ds2f.precision import dtype_name
from ds2f.processes import cpu_count
from ds2f.runner.device import processor
from ds2f.runner.device.backend import Backend


def describe(cfg: Config, backend: Backend) -> dict[str, Any]:
    """Machine, versions, numbers of threads and precision, ready for JSON."""
    policy = backend.policy(cfg.apex)
    return {
        "device": backend.description,
        "processor": processor.name(),
        "processors": cpu_count(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "versions": {
            "ds2f": ds2f.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "cuda": torch.version.cuda,
        },
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "opt_level": cfg.apex.opt_level,
        "dtype": dtype_name(policy.compute),
        "engine": backend.engine if cfg.training.engine == "auto" else cfg.training.engine,
    }


def headline(machine: dict[str, Any]) -> str:
    """The description as three lines of text."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return (
        f"{machine['processor']}, {machine['processors']} processors, load {machine['load']:.1f}; {machine['device']}\n"
        f"{versions}; {machine['threads']} threads, {machine['interop_threads']} between operators\n"
        f"{machine['opt_level']} in {machine['dtype']}, gradients by {machine['engine']}"
    )


def seconds_of(work: Callable[[], Any], backend: Backend) -> float:
    """Seconds from the start of ``work`` until the device has finished it."""
    backend.synchronize()
    started = time.perf_counter()
    work()
    backend.synchronize()
    return time.perf_counter() - started


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum.

    >>> spread([3.0, 1.0, 2.0])
    {'min': 1.0, 'median': 2.0, 'max': 3.0}
    """
    return {"min": min(values), "median": median(values), "max": max(values)}


def model_of(cfg: Config) -> dict[str, Any]:
    """The model and the batch size of a case, ready for JSON."""
    model = cfg.model
    return {
        "preset": f"{model.hidden_layers}x{model.hidden_size}",
        "rnn_type": model.rnn_type,
        "bidirectional": model.bidirectional,
        "kernel": model.kernel,
        "ctc": model.ctc,
        "batch_size": cfg.data.batch_size,
    }


def case_cells(result: dict[str, Any], row: int) -> tuple[str, str]:
    """The cells for model and batch size in a table with several rows per case; empty after the first row."""
    return ("", "") if row else (result["preset"], str(result["batch_size"]))
