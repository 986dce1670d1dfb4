"""The table of parts: what ``--parts`` may name, and the room where each is measured.

A room has ``measure(cfg, options) -> dict``, ready for JSON, and ``show(results, console)``, which prints the
dictionaries of one part. It is imported when it is asked for, so that ``--help`` does without torch.
"""

import importlib
from typing import Any, NamedTuple


class Part(NamedTuple):
    """Something that can be measured."""

    room: str  # the module
    every_case: bool = True  # or once, with the first preset and batch size

    def open(self) -> Any:
        """The module, with its ``measure`` and ``show``."""
        return importlib.import_module(self.room)


PARTS = {
    "step": Part("launch.bench.step"),
    "stages": Part("launch.bench.stages"),
    "memory": Part("launch.bench.memory"),
    "limit": Part("launch.bench.limit"),
    "loader": Part("launch.bench.loader", every_case=False),
    "features": Part("launch.bench.features", every_case=False),
    "decode": Part("launch.bench.decode", every_case=False),
    "epoch": Part("launch.bench.epoch", every_case=False),
    "ranks": Part("launch.bench.ranks", every_case=False),
    "startup": Part("launch.bench.startup", every_case=False),
}
