"""A training epoch from the files on: how much of its time is the step's, and how much the loader is waited for."""

import time
from itertools import islice
from typing import Any

from rich.console import Console

from ds2f.config import Config
from ds2f.runner import program
from ds2f.runner.device.backend import open_backend
from ds2f.runner.splits import Split
from launch.bench.machine import model_of
from launch.bench.options import Options
from launch.bench.ours import Ours

_STEP, _PADDING = 95, 8  # percent: at least, at most


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Trains on an epoch as ``launch.train`` does, cached features read where there are any.

    The clock starts when the first batch is asked for, the loader having started. Every step is waited for, so that
    what the host does meanwhile on an accelerator counts as the step's, and nothing of the loader's does.

    Raises:
      InputError: when the training manifest or what it names cannot be used.
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
        asked = time.perf_counter()
        batch = next(batches, None)
        got = time.perf_counter()
        waiting += got - asked
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
    """Prints the shares."""
    for found in results:
        console.print(
            f"epoch of {found['preset']}, batch {found['batch_size']}, {found['workers']} worker(s), "
            f"{found['steps']} of {found['steps_of_the_epoch']} steps: {found['utterances_per_second']:.3g} utt/s; "
            f"in the step {100 * found['step_share']:.1f} % of the time (meant to be at least {_STEP}), waiting for "
            f"the loader {100 * found['waiting_share']:.1f} %; padding {100 * found['padding_share']:.1f} % of frames "
            f"(at most {_PADDING})"
        )
