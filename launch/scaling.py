"""Measures the overlap of all-reduce and backward pass, and predicts many devices.

python -m launch.scaling: two ranks take the same training steps with and without overlap, over a network that delays
every all-reduce in proportion to its bytes. ``step_seconds`` predicts a step from the time and the bytes of each stage.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags as absl_flags

from ds2f.config import Config, DataConfig, OptimConfig
from ds2f.errors import InputError
from launch import flags

if TYPE_CHECKING:
    from ds2f.runner.distributed.collectives import Group
    from launch.slow_network import StageTime, TimedStep

BASE = Config(
    nproc_per_node=2,
    data=DataConfig(batch_size=10),
    optim=OptimConfig(schedule="constant", learning_rate=3e-4),
)

FLAGS = absl_flags.FLAGS
flags.define(
    only=("device", "model", "optim", "apex", "augmentation", "training.seed", "training.engine", "data.batch_size")
    + ("nproc_per_node", "rdzv_timeout", "collective_timeout", "max_restarts", "restart_window")
)
FLAGS.set_default("nproc_per_node", BASE.nproc_per_node)
FLAGS.set_default("data.batch_size", BASE.data.batch_size)
absl_flags.DEFINE_integer("rounds", 5, "Timed rounds.", lower_bound=1)
absl_flags.DEFINE_float(
    "delay",
    0.3,
    "Time of all all-reduces of a step on the slow network, as a share of the backward pass.",
    lower_bound=0,
)
absl_flags.DEFINE_list("cards", ["8", "64"], "Numbers of devices to predict for.")
absl_flags.DEFINE_list(
    "links", ["1.25", "12.5", "25"], "Links to predict for: gigabytes that a device sends per second."
)
absl_flags.DEFINE_float("latency", 2e-5, "Latency of a message, seconds.", lower_bound=0)
absl_flags.DEFINE_list(
    "speeds",
    ["4@10", "94@10", "3000@128"],
    "Devices to predict for, as SPEED@BATCH: utterances per second of one device alone, and utterances in its batch.",
)
absl_flags.DEFINE_string("json", "", "Also write the results to this file.")
absl_flags.DEFINE_string(
    "trace", "", "Also write a trace of one step of every rank to this file, for chrome://tracing or Perfetto."
)

MODES = {"apart": (False, False), "overlapped": (True, False), "apart, delayed": (False, True)}
MODES["overlapped, delayed"] = (True, True)  # overlap, delay


class Case(NamedTuple):
    """Devices and a link to predict for."""

    utterances_per_second: float  # of one device alone
    batch_size: int
    cards: int
    gigabytes_per_second: float


def main(_: list[str]) -> int | None:
    """Starts the ranks; rank 0 prints and writes the results."""
    cfg, cases = flags.config_from_flags(BASE), _cases()
    for flag in ("json", "trace"):
        flags.output_file(flag)
    if cfg.nproc_per_node < 2:
        raise InputError(f"--nproc_per_node={cfg.nproc_per_node}: one rank has no all-reduce; give at least 2")

    from ds2f.runner.distributed import agent, worker

    if worker.is_worker():
        return worker.work(lambda: _run(cfg, cases))
    return agent.launch(cfg, [sys.executable, "-m", "launch.scaling", *sys.argv[1:]])


def _run(cfg: Config, cases: Sequence[Case]) -> int:
    from rich.console import Console

    from ds2f.files import json_text, write_atomically
    from ds2f.runner.device.backend import open_backend
    from ds2f.runner.distributed import worker
    from ds2f.runner.distributed.collectives import open_group
    from ds2f.runner.spans import trace_text
    from launch.slow_network import make_step

    job = worker.job()
    backend = open_backend(cfg.device, local_rank=job.local_rank, local_ranks=job.local_ranks)
    group = open_group(
        backend.collectives, device=backend.device, timeout=cfg.collective_timeout, rdzv_timeout=cfg.rdzv_timeout
    )
    take = make_step(cfg, backend, group)
    results, last = measure(take, group, rounds=FLAGS.rounds, delay=FLAGS.delay)
    events = [event for events in group.gather(last.events) for event in events]
    if group.rank == 0:
        results = {"ranks": group.size, "device": backend.description, "batch_size": cfg.data.batch_size} | results
        results["predictions"] = predict(results, cases)
        _show(results, Console(highlight=False, soft_wrap=True))
        for flag, text in (("json", json_text(results, indent=2) + "\n"), ("trace", trace_text(events))):
            if path := flags.output_file(flag):
                write_atomically(path, text)
    group.close()
    return 0


def measure(
    take: "Callable[..., TimedStep]", group: "Group", *, rounds: int, delay: float
) -> "tuple[dict[str, Any], TimedStep]":
    """Times the modes in turns.

    Args:
      take: a training step, ``launch.slow_network.make_step``.
      group: the ranks, all of which call this function.
      rounds: steps per mode.
      delay: time of all all-reduces of a step, as a share of the backward pass.

    Returns:
      Medians over the rounds, in seconds, and shares; and the last overlapped step with delays, for the trace.
    """
    trial = min((take(True, 0.0) for _ in range(3)), key=lambda step: step.backward)  # the first steps warm up
    total = sum(part.bytes for part in trial.parts)
    rate = group.gather(delay * trial.backward / total)[0]
    steps: dict[str, list[TimedStep]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode, (overlap, delayed) in MODES.items():
            steps[mode].append(take(overlap, rate if delayed else 0.0))
    seconds = {mode: median(step.seconds for step in taken) for mode, taken in steps.items()}
    added = {
        way: median(
            delayed.seconds - plain.seconds for delayed, plain in zip(steps[f"{way}, delayed"], steps[way], strict=True)
        )
        for way in ("apart", "overlapped")
    }
    plain, last = steps["overlapped"], steps["overlapped, delayed"][-1]
    left = (seconds["overlapped, delayed"] - seconds["overlapped"]) / (
        seconds["apart, delayed"] - seconds["overlapped"]
    )
    results = {
        "rounds": rounds,
        "seconds": seconds,
        "delay_seconds": rate * total,
        "added_seconds": added,
        "hidden_share": 1 - added["overlapped"] / added["apart"],
        "hidden_share_of_all_communication": 1 - left,
        "first_sum_starts_at": (last.transfers[0].start - last.forward) / last.backward,
        "forward_seconds": median(step.forward for step in plain),
        "after_seconds": median(step.seconds - step.forward - step.backward for step in steps["overlapped"]),
        "parts": [
            part._replace(seconds=median(step.parts[index].seconds for step in plain))._asdict()
            for index, part in enumerate(trial.parts)
        ],
    }
    return results, last


def step_seconds(
    parts: "Sequence[StageTime]",
    *,
    forward: float,
    after: float,
    devices: int,
    bytes_per_second: float,
    latency: float,
    overlap: bool,
) -> float:
    """Predicts the seconds of a step on several devices.

    A ring of N devices all-reduces n bytes in 2 (N - 1) messages of n / N bytes per device. That takes
    2 (N - 1) / N * n / bytes_per_second + 2 (N - 1) * latency seconds. The all-reduce of a stage starts when the
    backward pass of the stage and the previous all-reduce have ended.

    Args:
      parts: backward passes of the stages, from the top down.
      forward: seconds of the forward pass.
      after: seconds after the last all-reduce: clipping and optimizer.
      devices: number of devices.
      bytes_per_second: send rate of each device.
      latency: seconds of latency per message.
      overlap: whether the backward pass continues during an all-reduce; otherwise it waits.

    Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
    """
    computed, reduced = forward, 0.0
    for part in parts:
        transfer = 2 * (devices - 1) / devices * part.bytes / bytes_per_second + 2 * (devices - 1) * latency
        computed += part.seconds
        reduced = max(reduced, computed) + transfer
        if not overlap:
            computed = reduced
    return max(computed, reduced) + after


def predict(results: dict[str, Any], cases: Sequence[Case]) -> list[dict[str, float]]:
    """Efficiencies of the cases: stages take the shares of a step that they take here, at the speed of the case."""
    from launch.slow_network import StageTime

    parts = [StageTime(**part) for part in results["parts"]]
    here = results["forward_seconds"] + sum(part.seconds for part in parts) + results["after_seconds"]
    return [
        case._asdict() | _efficiencies(parts, results, case, case.batch_size / case.utterances_per_second / here)
        for case in cases
    ]


def _cases() -> list[Case]:
    """All combinations of ``--speeds``, ``--cards`` and ``--links``.

    Raises:
      InputError: a value is no positive number.
    """
    speeds = [tuple(case.split("@")) for case in FLAGS.speeds]
    try:
        cases = [
            Case(float(speed), int(batch), int(cards), float(link))
            for speed, batch in speeds
            for cards in FLAGS.cards
            for link in FLAGS.links
        ]
    except ValueError:
        cases = []
    if not cases or not all(0 < number < float("inf") for case in cases for number in case):
        given = " ".join(f"--{name}={','.join(FLAGS[name].value or [])}" for name in ("speeds", "cards", "links"))
        raise InputError(f"{given}: give positive numbers, as in --speeds=4@10,94@10 --cards=8,64 --links=1.25,12.5")
    return cases


def _efficiencies(parts: "Sequence[StageTime]", results: dict[str, Any], case: Case, factor: float) -> dict[str, float]:
    """Step time of one device / step time of many, with and without overlap; ``factor`` scales the measured times."""
    scaled = [part._replace(seconds=part.seconds * factor) for part in parts]
    forward, after = results["forward_seconds"] * factor, results["after_seconds"] * factor
    alone = forward + sum(part.seconds for part in scaled) + after
    together = partial(
        step_seconds,
        scaled,
        forward=forward,
        after=after,
        devices=case.cards,
        bytes_per_second=1e9 * case.gigabytes_per_second,
        latency=FLAGS.latency,
    )
    return {"apart": alone / together(overlap=False), "overlapped": alone / together(overlap=True)}


def _show(results: dict[str, Any], console: Any) -> None:
    from launch.tables import terminal_table

    seconds, added = results["seconds"], results["added_seconds"]
    console.print(f"{results['ranks']} ranks of {results['batch_size']} utterances, each {results['device']}")
    stages = terminal_table("backward pass by stage", ["stage"], ["ms", "MB"])
    for part in results["parts"]:
        stages.add_row(part["name"], f"{1e3 * part['seconds']:.0f}", f"{part['bytes'] / 1e6:.1f}")
    console.print(stages)
    console.print(
        f"step {seconds['overlapped']:.3f} s, without overlap {seconds['apart']:.3f} s; all-reduces of "
        f"{results['delay_seconds']:.3f} s add {added['overlapped']:.3f} s, without overlap {added['apart']:.3f} s: "
        f"{100 * results['hidden_share']:.1f} % hidden. The first all-reduce starts after "
        f"{100 * results['first_sum_starts_at']:.1f} % of the backward pass."
    )
    numbers = ("one device, utt/s", "batch", "devices", "link, GB/s", "efficiency without overlap", "with overlap")
    table = terminal_table("prediction", [], numbers)
    for row in results["predictions"]:
        table.add_row(
            f"{row['utterances_per_second']:g}",
            f"{row['batch_size']}",
            f"{row['cards']}",
            f"{row['gigabytes_per_second']:g}",
            f"{100 * row['apart']:.1f} %",
            f"{100 * row['overlapped']:.1f} %",
        )
    console.print(table)


if __name__ == "__main__":
    flags.run(main)
