"""Training steps side by side: in every round, all implementations take a step on the same batch, in turns."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from torch import profiler

from ds2f.config import Config
from ds2f.runner import program
from ds2f.runner.device.backend import Backend, open_backend
from ds2f.types import Batch
from launch.bench import comparison
from launch.bench.comparison import Implementation
from launch.bench.flops import training_flops
from launch.bench.limit import limit_of
from launch.bench.machine import case_cells, model_of, seconds_of, spread
from launch.bench.options import Options
from launch.synthetic_batches import epoch_batches, padding_share
from launch.tables import terminal_table


class _Taken(NamedTuple):
    """A timed step."""

    seconds: float
    processor: float  # seconds of processor time of this process; a busy machine changes them less
    loss: float


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Times the implementations on batches from the shortest to the longest of an epoch, one batch per round.

    The order of the implementations rotates from round to round. Work at the first sight of a shape counts, as in the
    first epoch of a training. Work at the first run does not count: the warm-up is on the shortest batch.

    Raises:
      RuntimeError: the implementations compute different things, or a loss is not finite.
    """
    backend = open_backend(cfg.device)
    cfg = program.resolve_kernel(cfg, backend)
    compared = set(options.contestants) - {"ours"}
    agreement = comparison.require_agreement(cfg, backend) if compared else {}
    batches = [backend.place(batch) for batch in epoch_batches(cfg, options.rounds)]
    implementations = comparison.make_all(options.contestants, cfg, backend)
    limit = limit_of(cfg, backend)
    for _ in range(options.warmup):
        for name, implementation in implementations.items():
            _step(name, implementation, batches[0], backend)
    taken: dict[str, list[_Taken]] = {name: [] for name in implementations}
    limits = []
    for index, batch in enumerate(batches):
        first = index % len(implementations)
        for name in [*implementations, *implementations][first : first + len(implementations)]:
            limits.append(limit.flops_per_second())
            taken[name].append(_step(name, implementations[name], batch, backend))
    if options.trace and "ours" in implementations:
        _trace(implementations["ours"], batches[0], backend, Path(options.trace))
    return {
        **model_of(cfg),
        "frames": {
            "mean": sum(float(batch.lengths.float().mean()) for batch in batches) / len(batches),
            "longest": [int(batch.lengths.max()) for batch in batches],
            "padding_share": padding_share(batches),
        },
        "rounds": options.rounds,
        "agreement": agreement,
        "limit_flops_per_second": spread(limits),
        **_compare(cfg, batches, taken, limit=spread(limits)["median"]),
    }


def _step(name: str, implementation: Implementation, batch: Batch, backend: Backend) -> _Taken:
    losses = []
    began = time.process_time()
    seconds = seconds_of(lambda: losses.append(implementation.step(batch)), backend)
    processor = time.process_time() - began
    loss = float(losses[0])
    if not math.isfinite(loss):
        raise RuntimeError(f"{name}: the loss is {loss}; times of such a step mean nothing")
    return _Taken(seconds, processor, loss)


def _compare(cfg: Config, batches: list[Batch], taken: dict[str, list[_Taken]], *, limit: float) -> dict[str, Any]:
    """Speeds over all rounds, and ratios to the speed of ``ours``, over all rounds and in each round."""
    utterances = sum(len(batch.ids) for batch in batches)
    flops = sum(training_flops(cfg.model, frames) for batch in batches for frames in batch.lengths.tolist())
    speeds = {}
    for name, steps in taken.items():
        seconds = sum(step.seconds for step in steps)
        speeds[name] = {
            "seconds": [step.seconds for step in steps],
            "processor_seconds": [step.processor for step in steps],
            "losses": [step.loss for step in steps],
            "utterances_per_second": utterances / seconds,
            "flops_per_second": flops / seconds,
            "share_of_limit": flops / seconds / limit,
        }
    ratios = {name: _ratio(steps, taken["ours"]) for name, steps in taken.items() if name != "ours" and "ours" in taken}
    return {"gflop_per_utterance": flops / utterances / 1e9, "contestants": speeds, "ours_over": ratios}


def _ratio(baseline: list[_Taken], ours: list[_Taken]) -> dict[str, Any]:
    pairs = list(zip(baseline, ours, strict=True))
    rounds = [its.seconds / our.seconds for its, our in pairs]
    return {
        "total": sum(step.seconds for step in baseline) / sum(step.seconds for step in ours),
        "processor_total": sum(step.processor for step in baseline) / sum(step.processor for step in ours),
        "rounds": rounds,
        **spread(rounds),
        "loss_difference": max(abs(its.loss / our.loss - 1) for its, our in pairs),
    }


def _trace(implementation: Implementation, batch: Batch, backend: Backend, target: Path) -> None:
    """Writes a profile for chrome://tracing or Perfetto: of one step on a CPU, of three on a device.

    On a device, the host prepares a step while the device computes the step before: only several steps show where the
    device waits for the host.
    """
    implementation.step(batch)  # the libraries know the batch's shape then
    backend.synchronize()
    with profiler.profile() as profile:
        for _ in range(1 if backend.name == "cpu" else 3):
            implementation.step(batch)
        backend.synchronize()
    profile.export_chrome_trace(str(target))


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a row per case and implementation."""
    numbers = ("utt/s", "limit", "ratio", "rounds", "by CPU")
    table = terminal_table("training step", ["model", "batch", "step"], numbers, no_wrap=True)
    for result in results:
        for index, (name, found) in enumerate(result["contestants"].items()):
            ratio = result["ours_over"].get(name)
            table.add_row(
                *case_cells(result, index),
                name,
                f"{found['utterances_per_second']:.3g}",
                f"{100 * found['share_of_limit']:.1f} %",
                f"{ratio['total']:.2f}" if ratio else "",
                f"{ratio['min']:.2f} to {ratio['max']:.2f}" if ratio else "",
                f"{ratio['processor_total']:.2f}" if ratio else "",
                end_section=index == len(result["contestants"]) - 1,
            )
    console.print(table)
    console.print(
        "limit: share of the speed of large matrix products; ratio: utterances per second of ours / of this step, over "
        "all rounds and in each; by CPU: the same per second of processor time, which a busy machine changes less."
    )
    for name in results[0]["contestants"]:
        console.print(f"{name}: {comparison.DESCRIPTIONS[name]}")
    limits = [result["limit_flops_per_second"]["median"] for result in results]
    padding = max(result["frames"]["padding_share"] for result in results)
    console.print(
        "Limit, measured before every step: "
        f"{min(limits) / 1e9:.0f} to {max(limits) / 1e9:.0f} GFLOP/s. "
        f"Padding, at most {100 * padding:.1f} % of frames, counts as no work."
    )
    differences = [ratio["loss_difference"] for result in results for ratio in result["ours_over"].values()]
    if differences:
        console.print(
            "All start from the same parameters; the losses of these steps differ by at most "
            f"{100 * max(differences):.2g} %."
        )
