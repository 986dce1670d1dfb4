"""The parts of the benchmark by name, with the module of each.

A module has two functions. ``measure(cfg, options) -> dict`` returns a result, ready for JSON.
``show(results, console)`` prints the results of all cases. A module is imported only for its part, so that ``--help``
needs no torch.
"""

import importlib
from typing import Any, NamedTuple


class Benchmark(NamedTuple):
    """A part of the benchmark."""

    module: str
    every_case: bool = True  # False: the first preset and batch size only

    def open(self) -> Any:
        """The module, with its ``measure`` and ``show``."""
        return importlib.import_module(self.module)


PARTS = {
    "step": Benchmark("launch.bench.step"),
    "stages": Benchmark("launch.bench.stages"),
    "memory": Benchmark("launch.bench.memory"),
    "limit": Benchmark("launch.bench.limit"),
    "loader": Benchmark("launch.bench.loader", every_case=False),
    "features": Benchmark("launch.bench.feature_speed", every_case=False),
    "augmentation": Benchmark("launch.bench.augmentation_speed", every_case=False),
    "streaming": Benchmark("launch.bench.streaming_speed", every_case=False),
    "transcription": Benchmark("launch.bench.transcription_speed", every_case=False),
    "exports": Benchmark("launch.bench.export_speed", every_case=False),
    "decode": Benchmark("launch.bench.decoding_speed", every_case=False),
    "epoch": Benchmark("launch.bench.epoch", every_case=False),
    "ranks": Benchmark("launch.bench.ranks", every_case=False),
    "scale": Benchmark("launch.bench.corpus_scale", every_case=False),
    "startup": Benchmark("launch.bench.startup", every_case=False),
}
