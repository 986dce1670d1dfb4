"""The loader alone: utterances per second, with a cold and a warm feature cache."""

import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console

from ds2f.config import Config
from ds2f.data.manifest_paths import manifest_path
from ds2f.runner.splits import Split
from ds2f.types import Batch
from launch.bench.options import Options
from launch.tables import terminal_table

_WORKERS = (0, 1)


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Loads an epoch of the training set twice, with a cold and then a warm cache, for each number of workers.

    The cache is temporary. The clock starts with the request for the first batch.

    Raises:
      InputError: the training manifest or a file in it cannot be used.
    """
    found = []
    for workers in _WORKERS:
        with tempfile.TemporaryDirectory() as folder:
            own = _with_cache_in(cfg, folder, workers)
            loader = Split.read("train", own, train=True).load(own)
            for cache in ("cold", "warm"):
                batches = islice(loader.epoch(), options.steps or None)
                found.append({"workers": workers, "cache": cache} | _drain(batches, cfg.spect.window_stride))
            loader.close()
    return {"batch_size": cfg.data.batch_size, "epochs": found}


def _with_cache_in(cfg: Config, folder: str, workers: int) -> Config:
    manifest = str(manifest_path(cfg, "train").absolute())
    data = attrs.evolve(cfg.data, train_manifest=manifest, num_workers=workers, cache_features=True)
    return attrs.evolve(cfg, data=data, data_path=str(Path(folder)))


def _drain(batches: Iterable[Batch], frame_seconds: float) -> dict[str, float]:
    started = time.perf_counter()
    utterances = frames = computed = 0
    for batch in batches:
        utterances += len(batch.ids)
        frames += int(batch.lengths.sum())
        computed += batch.features.shape[0] * batch.features.shape[2]
    seconds = time.perf_counter() - started
    return {
        "utterances": utterances,
        "seconds": seconds,
        "utterances_per_second": utterances / seconds,
        "times_real_time": frames * frame_seconds / seconds,
        "padding_share": 1 - frames / computed,
    }


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a row per number of workers and state of the cache."""
    for result in results:
        padding = 100 * result["epochs"][0]["padding_share"]
        title = f"loader, batch {result['batch_size']}, padding {padding:.1f} % of frames"
        table = terminal_table(title, ["workers", "cache"], ["utt/s", "times real time"])
        for epoch in result["epochs"]:
            rate, times = epoch["utterances_per_second"], epoch["times_real_time"]
            table.add_row(str(epoch["workers"]), epoch["cache"], f"{rate:.0f}", f"{times:.0f}")
        console.print(table)
