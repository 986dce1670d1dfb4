"""The limit of the machine: its speed on large matrix products, in the dtype of the training step."""

import math
from typing import Any

import torch
from rich.console import Console

from ds2f.config import Config
from ds2f.precision import dtype_name
from ds2f.runner.device.backend import Backend, open_backend
from launch.bench.machine import model_of, seconds_of, spread
from launch.bench.options import Options
from launch.tables import terminal_table

SIZE = 2048
_SECONDS = 0.3  # per measurement, at least one product


class Product:
    """A repeatedly timed product of two matrices."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, backend: Backend) -> None:
        """Makes the matrices for ``shape``, (M, K, N), and multiplies them twice as a warm-up."""
        rows, inner, columns = shape
        generator = torch.Generator().manual_seed(0)
        self._backend = backend
        # The second matrix is transposed, like the weights of a layer.
        self._factors = (
            torch.randn(rows, inner, generator=generator).to(backend.device, dtype),
            torch.randn(columns, inner, generator=generator).to(backend.device, dtype).T,
        )
        self._flops = 2 * rows * inner * columns
        self._count = 1
        seconds = min(seconds_of(self._multiply, backend) for _ in range(2))
        self._count = max(1, math.ceil(_SECONDS / seconds))

    def flops_per_second(self) -> float:
        """Floating-point operations per second, measured over about 0.3 seconds."""
        return self._flops * self._count / seconds_of(self._multiply, self._backend)

    def _multiply(self) -> None:
        for _ in range(self._count):
            torch.mm(*self._factors)


def limit_of(cfg: Config, backend: Backend) -> Product:
    """The product that measures the limit: 2048 x 2048 x 2048 in the dtype of the training step."""
    return Product((SIZE, SIZE, SIZE), backend.policy(cfg.apex).compute, backend)


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Measures the limit and the product of one frame of a recurrent layer, in turns."""
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
    table = terminal_table("matrix products, GFLOP/s", ["product", "dtype"], ["median (min to max)"])
    for result in results:
        table.add_row(f"{result['size']} cubed", result["dtype"], _rates(result["flops_per_second"]))
        shape = " x ".join(map(str, result["recurrent"]["shape"]))
        table.add_row(f"{shape}, one frame", result["dtype"], _rates(result["recurrent"]["flops_per_second"]))
    console.print(table)


def _rates(found: dict[str, float]) -> str:
    low, middle, high = (found[which] / 1e9 for which in ("min", "median", "max"))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"
