"""Peak memory of a training, by implementation of the training step, each in a process of its own."""

import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ds2f.config import Config
from ds2f.runner.device.backend import open_backend
from ds2f.runner.program import resolve_kernel
from ds2f.types import Batch
from launch.bench import comparison
from launch.bench.machine import case_cells, model_of
from launch.bench.options import Options
from launch.synthetic_batches import epoch_batches
from launch.tables import terminal_table


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Trains every implementation on one batch per round, from short to long."""
    backend = open_backend(cfg.device)
    cfg = resolve_kernel(cfg, backend)  # here, so that the timing does not count in a contestant's memory
    half, device = backend.policy(cfg.apex).compute, backend.device
    found: dict[str, int | None] = {}
    for name in options.contestants:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                found[name] = pool.submit(peak, cfg, name, options.rounds, half=half, device=device).result()
            except BrokenProcessPool:  # killed by the system, most likely for lack of memory
                found[name] = None
    ours = found.get("ours")
    return {
        **model_of(cfg),
        "steps": options.rounds,
        "peak_bytes": found,
        "ours_over": {name: ours / peak for name, peak in found.items() if ours and peak and name != "ours"},
    }


def peak(cfg: Config, name: str, steps: int, *, half: torch.dtype, device: torch.device) -> int:
    """Trains in this process and returns its peak memory in bytes: resident memory, or memory of the accelerator.

    On a CPU, the baselines run without the malloc settings of ``open_backend``, which suit the step of ds2f. They
    inherit the smaller cache of oneDNN.
    """
    if name == "ours":
        backend = open_backend(cfg.device)
        implementation: comparison.Implementation = comparison.make(name, cfg, backend)
        place = backend.place
    else:
        implementation = comparison.make_baseline(name, cfg, half=half, device=device)
        place = partial(_place, device=device)
    for batch in epoch_batches(cfg, steps):
        float(implementation.step(place(batch)))
    return _peak_resident() if device.type == "cpu" else torch.accelerator.max_memory_allocated(device)


def _place(batch: Batch, *, device: torch.device) -> Batch:
    return batch._replace(features=batch.features.to(device), labels=batch.labels.to(device))


def _peak_resident() -> int:
    """Peak resident memory of this program. ``getrusage`` would include the program that forked this process."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a row per case and implementation."""
    table = terminal_table("peak memory", ["model", "batch", "training"], ["GB", "ours / this"])
    for result in results:
        for index, (name, peak_bytes) in enumerate(result["peak_bytes"].items()):
            ratio = result["ours_over"].get(name)
            table.add_row(
                *case_cells(result, index),
                name,
                f"{peak_bytes / 1e9:.2f}" if peak_bytes else "killed",
                f"{ratio:.2f}" if ratio else "",
                end_section=index == len(result["peak_bytes"]) - 1,
            )
    console.print(table)
