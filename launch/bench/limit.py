"""The machine's own limit: how fast it multiplies large matrices, in the type that the step computes in."""

import math
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ds2f.config import Config
from ds2f.precision import dtype_name
from ds2f.runner.device.backend import Backend, open_backend
from launch.bench.machine import model_of, seconds_of, spread
from launch.bench.options import Options

SIZE = 2048
_SECONDS = 0.3  # of one measurement, at least one product


class Product:
    """A product of two matrices that is timed again and again."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, backend: Backend) -> None:
        """Makes the matrices, [M, K] and [K, N], and multiplies them twice to warm up."""
        rows, inner, columns = shape
        generator = torch.Generator().manual_seed(0)
        self._backend = backend
        # The weights of a layer lie transposed.
        self._factors = (
            torch.randn(rows, inner, generator=generator).to(backend.device, dtype),
            torch.randn(columns, inner, generator=generator).to(backend.device, dtype).T,
        )
        self._flops = 2 * rows * inner * columns
        self._count = 1
        seconds = min(seconds_of(self._multiply, backend) for _ in range(2))
        self._count = max(1, math.ceil(_SECONDS / seconds))

    def flops_per_second(self) -> float:
        """Measures once, over about 0.3 seconds."""
        return self._flops * self._count / seconds_of(self._multiply, self._backend)

    def _multiply(self) -> None:
        for _ in range(self._count):
            torch.mm(*self._factors)


def limit_of(cfg: Config, backend: Backend) -> Product:
    """The product that the limit is measured by: 2048 x 2048 x 2048 in the type that the step computes in."""
    return Product((SIZE, SIZE, SIZE), backend.policy(cfg.apex).compute, backend)


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """The limit, and beside it the product that a frame of a recurrent layer asks for, in turns."""
    backend = open_backend(cfg.device)
    dtype, units = backend.policy(cfg.apex).compute, cfg.model.hidden_size
    large, recurrent = limit_of(cfg, backend), Product((cfg.data.batch_size, units, 4 * units), dtype, backend)
    pairs = [(large.flops_per_second(), recurrent.flops_per_second()) for _ in range(options.rounds)]
    limits, rates = zip(*pairs, strict=True)
    return {
        **model_of(cfg),
        "dtype": dtype_name(dtype),
        "size": SIZE,
        "flops_per_second": spread(limits),
        "recurrent": {"shape": [cfg.data.batch_size, units, 4 * units], "flops_per_second": spread(rates)},
    }


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a row per case."""
    table = Table("product", "type", title="matrix products, GFLOP/s", title_justify="left")
    table.add_column("median (min to max)", justify="right")
    for result in results:
        table.add_row(f"{result['size']} cubed", result["dtype"], _rates(result["flops_per_second"]))
        shape = " x ".join(map(str, result["recurrent"]["shape"]))
        table.add_row(f"{shape}, of a frame", result["dtype"], _rates(result["recurrent"]["flops_per_second"]))
    console.print(table)


def _rates(found: dict[str, float]) -> str:
    low, middle, high = (found[which] / 1e9 for which in ("min", "median", "max"))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"
