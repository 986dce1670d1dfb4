"""Times the functional training step beside an imperative one: python -m launch.bench [--model.hidden_size=1024].

Both run the same kernels (``launch.imperative`` says what they share) on the same made-up batch, in turns, so that what
disturbs the machine disturbs both, and every round gives a ratio of times. The rounds before the clock starts must end
in the same losses and the same parameters.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from absl import flags as absl_flags

from ds2f.config import Config, ModelConfig, OptimConfig
from ds2f.errors import InputError
from launch import flags

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ds2f.precision import Policy
    from ds2f.runner.backend import Backend
    from ds2f.types import Batch, StepMetrics, TrainState

BASE = Config(
    model=ModelConfig(hidden_size=512, hidden_layers=3),
    optim=OptimConfig(schedule="constant", learning_rate=3e-4),
)
TOLERANCE = 0.01  # relative; on a CPU they are a thousand times closer

FLAGS = absl_flags.FLAGS
flags.define(only=("device", "model", "apex.opt_level", "apex.dtype", "training.seed"))
for name in ("hidden_size", "hidden_layers"):
    FLAGS.set_default(f"model.{name}", getattr(BASE.model, name))
absl_flags.DEFINE_integer("batch_size", 16, "Utterances in the batch.", lower_bound=1)
absl_flags.DEFINE_integer(
    "frames", 0, "Frames of every utterance; 0: drawn from 70 to 640, 270 in the mean, as AN4's are.", lower_bound=0
)
absl_flags.DEFINE_integer("repeats", 7, "Rounds that are timed.", lower_bound=1)
absl_flags.DEFINE_integer("warmup", 2, "Rounds before, in which results are compared.", lower_bound=1)
absl_flags.DEFINE_string("json", "", "Also write the results to this file.")


class Program(Protocol):
    """Something that trains, one step at a time."""

    def step(self, batch: "Batch", *, key: int) -> "Tensor":
        """Takes a step, dropout drawn from ``key``, and returns the mean loss of the batch before it."""

    def parameters(self) -> "list[Tensor]":
        """The parameters, in the flat order of their tree."""


class Functional:
    """The functional step, which hands its buffers on from state to state."""

    def __init__(self, state: "TrainState", train_step: "Callable[..., tuple[TrainState, StepMetrics]]") -> None:
        """Starts from ``state``, whose buffers are given away."""
        self._state, self._train_step = state, train_step

    def step(self, batch: "Batch", *, key: int) -> "Tensor":
        """Takes a step and returns the mean loss of the batch before it."""
        self._state, metrics = self._train_step(self._state, batch, key=key)
        return metrics.loss

    def parameters(self) -> "list[Tensor]":
        """The parameters, in the flat order of their tree."""
        from ds2f import tree

        return tree.leaves(self._state.params)


def main(_: list[str]) -> None:
    """Prints how long a training step takes in either style, and writes it where ``--json`` says."""
    from rich.console import Console

    from ds2f.runner.run_dir import write_atomically

    cfg = flags.config_from_flags(BASE)
    target = Path(FLAGS.json) if FLAGS.json else None
    if target and not target.parent.is_dir():
        raise InputError(f"--json={target}: there is no folder {target.parent}; make it first")
    with Console(stderr=True).status("measuring"):
        results = measure(
            cfg, batch_size=FLAGS.batch_size, frames=FLAGS.frames, warmup=FLAGS.warmup, repeats=FLAGS.repeats
        )
    show(results, Console(highlight=False, soft_wrap=True))
    if target:
        write_atomically(target, json.dumps(results, indent=2) + "\n")


def measure(cfg: Config, *, batch_size: int, frames: int, warmup: int, repeats: int) -> dict[str, Any]:
    """Compares the programs and times them.

    Returns:
      What ``--json`` writes: the machine, the work, and for each variant its times (milliseconds), its speed, its times
      relative to the imperative program's of the same round, and by how much their results differ.

    Raises:
      RuntimeError: when the programs do not compute the same, so that their times mean nothing.
    """
    import torch

    from ds2f import precision
    from ds2f.runner.backend import open_backend
    from launch.noise import draw_batch

    backend = open_backend(cfg.device)
    policy = precision.policy(cfg.apex.opt_level, backend.dtype(cfg.apex.dtype))
    programs = make_programs(cfg, policy, backend)
    batch = backend.place(draw_batch(cfg, batch_size=batch_size, frames=frames))

    differences = compare(programs, batch, rounds=warmup)
    times: dict[str, list[float]] = {variant: [] for variant in programs}
    for key in range(warmup, warmup + repeats):
        for variant, program in programs.items():
            backend.synchronize()
            started = time.perf_counter()
            program.step(batch, key=key)
            backend.synchronize()
            times[variant].append(1000 * (time.perf_counter() - started))

    return {
        "machine": backend.description,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "opt_level": cfg.apex.opt_level,
        "dtype": str(policy.compute).removeprefix("torch."),
        "model": attrs.asdict(cfg.model, filter=lambda field, _: field.name != "labels"),
        "batch_size": batch_size,
        "frames": {"longest": int(batch.lengths.max()), "mean": round(float(batch.lengths.float().mean()), 1)},
        "rounds": repeats,
        "variants": {
            variant: _summary(times[variant], times["imperative"], batch_size) | differences[variant]
            for variant in programs
        },
    }


def make_programs(cfg: Config, policy: "Policy", backend: "Backend") -> dict[str, Program]:
    """The contestants by name, the imperative one first, each with its own copy of the same first parameters."""
    from ds2f import ctc, optim
    from ds2f.steps import init_state, objective, train_step
    from launch.imperative import Imperative, Network

    loss = objective(cfg.model, criterion=partial(ctc.ctc_loss, impl=cfg.model.ctc), policy=policy)
    fused = backend.fused_optimizer
    tx = optim.from_config(cfg.optim, cfg.optim.learning_rate, fused=fused)

    def first_state() -> "TrainState":
        return backend.place_state(init_state(cfg, tx, key=cfg.training.seed))

    network = Network(first_state().params, first_state().stats, loss=loss)
    programs: dict[str, Program] = {"imperative": Imperative(network, cfg=cfg, policy=policy, fused=fused)}
    for engine in ("func", "autograd") if backend.engine == "func" else ("autograd",):
        own = attrs.evolve(cfg, training=attrs.evolve(cfg.training, engine=engine))
        step = partial(train_step, loss=loss, tx=tx, cfg=own, donate=True)
        programs[f"functional, {engine}"] = Functional(first_state(), step)
    return programs


def compare(programs: dict[str, Program], batch: "Batch", *, rounds: int) -> dict[str, dict[str, float]]:
    """Lets every program take ``rounds`` steps and holds the others to the first one.

    Parameters are compared after one step: a bias before batch norm has a true gradient of zero, and Adam makes full
    steps of the rounding that is left of it, which later differs.

    Returns:
      By variant: ``loss_difference``, the largest relative one, and ``parameter_difference``, the distance between the
      parameters as a share of the way that they went.

    Raises:
      RuntimeError: when either is above ``TOLERANCE``.
    """
    import torch

    from ds2f import tree

    reference = next(iter(programs))
    start = [leaf.clone() for leaf in programs[reference].parameters()]
    losses = {variant: [float(program.step(batch, key=0))] for variant, program in programs.items()}
    after = {variant: torch._foreach_sub(program.parameters(), start) for variant, program in programs.items()}
    apart = {variant: tree.global_norm(torch._foreach_sub(way, after[reference])) for variant, way in after.items()}
    for key in range(1, rounds):
        for variant, program in programs.items():
            losses[variant].append(float(program.step(batch, key=key)))

    found = {}
    for variant in programs:
        pairs = zip(losses[variant], losses[reference], strict=True)
        found[variant] = {
            "loss_difference": max(abs(ours / theirs - 1) for ours, theirs in pairs),
            "parameter_difference": float(apart[variant] / tree.global_norm(after[reference])),
        }
        if not all(difference <= TOLERANCE for difference in found[variant].values()):
            raise RuntimeError(f"{variant} and {reference} compute different things: {found[variant]}")
    return found


def show(results: dict[str, Any], console: "Console") -> None:
    """Prints the results for people."""
    from rich.table import Table

    model, frames, variants = results["model"], results["frames"], results["variants"]
    directions = "bidirectional" if model["bidirectional"] else "unidirectional"
    console.print(
        f"torch {results['torch']} on {results['machine']}\n"
        f"{model['hidden_layers']} x {model['hidden_size']} {directions} {model['rnn_type']}, {results['opt_level']} "
        f"{results['dtype']}, {results['batch_size']} utterances of {frames['mean']:.0f} frames "
        f"(longest {frames['longest']}), {results['rounds']} rounds"
    )
    drawn = Table("training step")
    for heading in ("median ms", "utterances/s", "ratio (min to max)"):
        drawn.add_column(heading, justify="right")
    for name, variant in variants.items():
        ratio = variant["ratio"]
        drawn.add_row(
            name,
            f"{variant['median_ms']:.1f}",
            f"{variant['utterances_per_second']:.2f}",
            f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})",
        )
    console.print(drawn)
    apart = max(variant["parameter_difference"] for variant in variants.values())
    console.print(f"The ratio is of times within a round. After a step, parameters agree to {apart:.0e} of their way.")


def _summary(times: list[float], reference: list[float], batch_size: int) -> dict[str, Any]:
    ratios = [ours / theirs for ours, theirs in zip(times, reference, strict=True)]
    return {
        "milliseconds": [round(each, 3) for each in times],
        "median_ms": round(median(times), 3),
        "utterances_per_second": round(1000 * batch_size / median(times), 3),
        "ratio": {"min": min(ratios), "median": median(ratios), "max": max(ratios)},
    }


if __name__ == "__main__":
    flags.run(main)
