"""Training steps side by side: every round, all contestants in turn take one on the same batch."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from torch import profiler

from ds2f.config import Config
from ds2f.runner import program
from ds2f.runner.device.backend import Backend, open_backend
from ds2f.types import Batch
from launch.bench import comparison
from launch.bench.comparison import Program
from launch.bench.flops import training_flops
from launch.bench.limit import limit_of
from launch.bench.machine import model_of, seconds_of, spread
from launch.bench.options import Options
from launch.synthetic_batches import epoch_batches, padding_share


class _Taken(NamedTuple):
    """A step that was timed."""

    seconds: float
    processor: float  # seconds of all processors in this process, which others on the machine disturb less
    loss: float


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Times the contestants on batches from the shortest to the longest of an epoch, one a round.

    Who begins changes from round to round. What a program does when it first sees a shape counts, as it does in a
    training's first epoch; what it does when it first runs does not: the warm-up is on the shortest batch.

    Raises:
      RuntimeError: when the contestants do not compute the same, or a loss is not finite.
    """
    backend = open_backend(cfg.device)
    cfg = program.resolve_kernel(cfg, backend)
    agreement = comparison.require_agreement(cfg, backend)
    batches = [backend.place(batch) for batch in epoch_batches(cfg, options.rounds)]
    programs = comparison.line_up(options.contestants, cfg, backend)
    limit = limit_of(cfg, backend)
    for _ in range(options.warmup):
        for name, contestant in programs.items():
            _step(name, contestant, batches[0], backend)
    taken: dict[str, list[_Taken]] = {name: [] for name in programs}
    limits = []
    for index, batch in enumerate(batches):
        first = index % len(programs)
        for name in [*programs, *programs][first : first + len(programs)]:
            limits.append(limit.flops_per_second())
            taken[name].append(_step(name, programs[name], batch, backend))
    if options.trace and "ours" in programs:
        _trace(programs["ours"], batches[0], Path(options.trace))
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


def _step(name: str, program: Program, batch: Batch, backend: Backend) -> _Taken:
    losses = []
    began = time.process_time()
    seconds = seconds_of(lambda: losses.append(program.step(batch)), backend)
    processor = time.process_time() - began
    loss = float(losses[0])
    if not math.isfinite(loss):
        raise RuntimeError(f"{name}: the loss is {loss}, so that times mean nothing")
    return _Taken(seconds, processor, loss)


def _compare(cfg: Config, batches: list[Batch], taken: dict[str, list[_Taken]], *, limit: float) -> dict[str, Any]:
    """Speeds over all rounds, and how many times faster ours was, over all rounds and in each."""
    utterances = sum(len(batch.ids) for batch in batches)
    flops = sum(training_flops(cfg.model, frames) for batch in batches for frames in batch.lengths.tolist())
    contestants = {}
    for name, steps in taken.items():
        seconds = sum(step.seconds for step in steps)
        contestants[name] = {
            "seconds": [step.seconds for step in steps],
            "processor_seconds": [step.processor for step in steps],
            "losses": [step.loss for step in steps],
            "utterances_per_second": utterances / seconds,
            "flops_per_second": flops / seconds,
            "share_of_limit": flops / seconds / limit,
        }
    ratios = {name: _ratio(steps, taken["ours"]) for name, steps in taken.items() if name != "ours" and "ours" in taken}
    return {"gflop_per_utterance": flops / utterances / 1e9, "contestants": contestants, "ours_over": ratios}


def _ratio(theirs: list[_Taken], ours: list[_Taken]) -> dict[str, Any]:
    pairs = list(zip(theirs, ours, strict=True))
    rounds = [their.seconds / our.seconds for their, our in pairs]
    return {
        "total": sum(step.seconds for step in theirs) / sum(step.seconds for step in ours),
        "processor_total": sum(step.processor for step in theirs) / sum(step.processor for step in ours),
        "rounds": rounds,
        **spread(rounds),
        "loss_difference": max(abs(their.loss / our.loss - 1) for their, our in pairs),
    }


def _trace(program: Program, batch: Batch, target: Path) -> None:
    """Writes a profile of one step, for chrome://tracing or Perfetto."""
    with profiler.profile() as profile:
        program.step(batch)
    profile.export_chrome_trace(str(target))


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a row per case and contestant."""
    table = Table("model", "batch", "step", title="training step", title_justify="left")
    for heading in ("utt/s", "limit", "ratio", "rounds", "by CPU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        for index, (name, found) in enumerate(result["contestants"].items()):
            ratio = result["ours_over"].get(name)
            table.add_row(
                "" if index else result["preset"],
                "" if index else str(result["batch_size"]),
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
        "ratio: how many times as many utterances per second ours has, over all rounds and in each; by CPU: the same "
        "per processor second, which a busy machine disturbs less."
    )
    for name in results[0]["contestants"]:
        console.print(f"{name}: {comparison.WHAT_THEY_ARE[name]}")
    limits = [result["limit_flops_per_second"]["median"] for result in results]
    padding = max(result["frames"]["padding_share"] for result in results)
    console.print(
        "The limit of the machine's matrix products, measured before every step: "
        f"{min(limits) / 1e9:.0f} to {max(limits) / 1e9:.0f} GFLOP/s. "
        f"Padding, at most {100 * padding:.1f} % of frames, is no work."
    )
    apart = [ratio["loss_difference"] for result in results for ratio in result["ours_over"].values()]
    if apart:
        console.print(
            f"All start from the same parameters; in these steps their losses part by at most {100 * max(apart):.2g} %."
        )
