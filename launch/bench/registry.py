"""The table of parts: what ``--parts`` may name, and the module where each is measured.

Such a module has ``measure(cfg, options) -> dict``, ready for JSON, and ``show(results, console)``, which prints the
dictionaries of one part. It is imported when it is asked for, so that ``--help`` does without torch.
"""

import importlib
from typing import Any, NamedTuple


class Benchmark(NamedTuple):
    """Something that can be measured."""

    module: str
    every_case: bool = True  # or once, with the first preset and batch size

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
    "decode": Benchmark("launch.bench.decoding_speed", every_case=False),
    "epoch": Benchmark("launch.bench.epoch", every_case=False),
    "ranks": Benchmark("launch.bench.ranks", every_case=False),
    "startup": Benchmark("launch.bench.startup", every_case=False),
}
