"""A training epoch with its data loading: the shares of time in the training step and in waiting for the loader."""

import time
from itertools import islice
from typing import Any

from rich.console import Console

from ds2f.config import Config
from ds2f.runner import program
from ds2f.runner.device.backend import open_backend
from ds2f.runner.splits import Split
from launch.bench.comparison import Ours
from launch.bench.machine import model_of
from launch.bench.options import Options

_STEP, _PADDING = 95, 8  # percent: the share of the step, at least; of padding, at most


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Trains for an epoch as ``launch.train`` does, with its feature cache.

    The clock starts with the request for the first batch; the loader has started by then. After every step the host
    waits for the device, so that the time of the step contains no time of the loader.

    Raises:
      InputError: the training manifest or a file in it cannot be used.
    """
    backend = open_backend(cfg.device)
    cfg = program.resolve_kernel(cfg, backend)
    split = Split.read("train", cfg, train=True)
    loader = split.load(cfg, pin_memory=backend.pin_memory, start_method=backend.start_method)
    ours = Ours(cfg, backend)
    stepping = waiting = 0.0
    steps = utterances = frames = computed = 0
    batches = iter(islice(loader.epoch(), options.steps or None))
    began = time.perf_counter()
    while True:
        requested = time.perf_counter()
        batch = next(batches, None)
        got = time.perf_counter()
        waiting += got - requested
        if batch is None:
            break
        ours.step(backend.place(batch))
        backend.synchronize()
        stepping += time.perf_counter() - got
        steps, utterances = steps + 1, utterances + len(batch.ids)
        frames += int(batch.lengths.sum())
        computed += batch.features.shape[0] * batch.features.shape[2]
    seconds = time.perf_counter() - began
    loader.close()
    return {
        **model_of(cfg),
        "workers": cfg.data.num_workers,
        "steps": steps,
        "steps_of_the_epoch": loader.steps,
        "utterances": utterances,
        "seconds": seconds,
        "utterances_per_second": utterances / seconds,
        "step_share": stepping / seconds,
        "waiting_share": waiting / seconds,
        "padding_share": 1 - frames / computed,
    }


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a sentence per result."""
    for found in results:
        console.print(
            f"epoch of {found['preset']}, batch {found['batch_size']}, {found['workers']} worker(s), "
            f"{found['steps']} of {found['steps_of_the_epoch']} steps: {found['utterances_per_second']:.3g} utt/s; "
            f"in the step {100 * found['step_share']:.1f} % of the time (target: at least {_STEP}), waiting for "
            f"the loader {100 * found['waiting_share']:.1f} %; padding {100 * found['padding_share']:.1f} % of frames "
            f"(target: at most {_PADDING})"
        )
