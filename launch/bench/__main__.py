"""Measures speed and memory, part by part: python -m launch.bench [--parts=step,epoch] [--presets=5x1024]."""

import sys
import time
from pathlib import Path
from typing import Any

import attrs
from absl import flags as absl_flags

from ds2f import config
from ds2f.config import Config, OptimConfig
from ds2f.errors import InputError
from launch import flags
from launch.bench.options import CONTESTANTS, Options, cases, require_known
from launch.bench.registry import PARTS

BASE = Config(optim=OptimConfig(schedule="constant", learning_rate=3e-4))
PRESETS = ("5x1024", "3x512")

sys.argv[0] = str(Path(__file__).parent)  # the program name in messages and --help
FLAGS = absl_flags.FLAGS
flags.define(
    only=("device", "model", "optim", "apex", "spect", "augmentation", "data_path", "training.seed", "training.engine")
    + ("nproc_per_node", "max_restarts", "restart_window", "rdzv_timeout", "collective_timeout")
    + ("data.dataset", "data.train_manifest", "data.test_manifest", "data.num_workers", "data.cache_features")
    + ("data.max_frames", "data.padded_shapes", "data.bucket_jitter")
)
absl_flags.DEFINE_list("parts", ["step"], f"Parts to measure: {', '.join(PARTS)}.")
absl_flags.DEFINE_list(
    "presets",
    [],
    f"Models, layers x units. Default: {','.join(PRESETS)}, or the model of --model.hidden_layers and "
    "--model.hidden_size.",
)
absl_flags.DEFINE_list(
    "batch_sizes", ["10", "32", "64"], "Utterances per batch. Parts that time no training step take the first number."
)
absl_flags.DEFINE_list(
    "contestants", list(Options().contestants), f"Implementations of the training step: {', '.join(CONTESTANTS)}."
)
absl_flags.DEFINE_integer("rounds", Options().rounds, "Timed rounds.", lower_bound=1)
absl_flags.DEFINE_integer(
    "warmup", Options().warmup, "Steps before the timed rounds, on the shortest batch.", lower_bound=0
)
absl_flags.DEFINE_integer(
    "steps", Options().steps, "Batches of an epoch, for the parts loader and epoch; 0: all.", lower_bound=0
)
absl_flags.DEFINE_integer("rows", Options().rows, "Utterances of the drawn corpus, for the part scale.", lower_bound=1)
absl_flags.DEFINE_string("json", "", "Also write the results to this file.")
absl_flags.DEFINE_string(
    "trace", "", "Also write a profile of steps of ds2f, of the first model and batch size, for chrome://tracing."
)


def main(_: list[str]) -> None:
    """Measures the parts; prints each when it is done, and writes all results so far to ``--json``."""
    cfg = config.resolve(flags.config_from_flags(BASE))
    require_known("parts", FLAGS.parts, list(PARTS))
    require_known("contestants", FLAGS.contestants, CONTESTANTS)
    given = list(cases(cfg, _presets(), FLAGS.batch_sizes))
    if not given:
        raise InputError("--batch_sizes: name at least one")
    target = flags.output_file("json")
    flags.output_file("trace")

    from rich.console import Console

    from ds2f.files import json_text, write_atomically
    from ds2f.runner.device.backend import open_backend
    from launch.bench import machine

    options = Options(
        rounds=FLAGS.rounds,
        warmup=FLAGS.warmup,
        contestants=tuple(FLAGS.contestants),
        steps=FLAGS.steps,
        rows=FLAGS.rows,
        trace=FLAGS.trace,
    )
    console, progress = Console(highlight=False), Console(stderr=True, highlight=False)
    results = {"machine": machine.describe(cfg, open_backend(cfg.device)), "options": attrs.asdict(options)}
    console.print(machine.headline(results["machine"]))
    parts: dict[str, list[dict[str, Any]]] = {}
    for name in FLAGS.parts:
        module, parts[name] = PARTS[name].open(), []
        for case in given if PARTS[name].every_case else given[:1]:
            title = f"{name}: {case.model.hidden_layers} x {case.model.hidden_size}, batch {case.data.batch_size}"
            began = time.monotonic()
            with progress.status(title):
                parts[name].append(module.measure(case, options))
            progress.print(f"{title}: measured in {time.monotonic() - began:.0f} s")
            if name == "step":
                options = attrs.evolve(options, trace="")
            if target:
                write_atomically(target, json_text(results | {"parts": parts}, indent=2) + "\n")
        module.show(parts[name], console)


def _presets() -> list[str]:
    """The models to measure; empty for the model of the flags."""
    own = FLAGS["model.hidden_layers"].present or FLAGS["model.hidden_size"].present
    if own and FLAGS.presets:
        raise InputError("--presets and --model.hidden_layers or --model.hidden_size both name models; take one")
    return list(FLAGS.presets or ([] if own else PRESETS))


if __name__ == "__main__":
    flags.run(main)
