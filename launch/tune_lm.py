"""Tunes the weights of a language model: python -m launch.tune_lm --run_dir=runs/an4_1p --lm.path=lm.arpa."""

import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.text import shown
from launch import decoding, flags, guard, long_recordings, next_steps, progress_bars

if TYPE_CHECKING:
    from rich.table import Table

    from ds2f.inference.beam_pool import BeamPool
    from ds2f.inference.tuner import ScoredBatch, Trial
    from ds2f.metrics import ErrorCounts, Rate

flags.define(only=("data_path", "run_dir", "device", "data", "training.metric", "apex.opt_level", "apex.dtype"))
decoding.define()
decoding.define_which()
absl_flags.DEFINE_list("weights", "0,0.25,0.5,0.75,1,1.5,2", "Values of lm.weight to try first.")
absl_flags.DEFINE_list("word_scores", "0,0.5,1,2", "Values of lm.word_score to try with every weight.")
absl_flags.DEFINE_integer(
    "refinements",
    2,
    "Number of times to try the neighbours of the best pair, at half the distance each time.",
    lower_bound=0,
)
absl_flags.DEFINE_string(
    "logits", "", "In place of --run_dir, logits of launch.evaluate --split=val --save_logits=FILE."
)
absl_flags.DEFINE_string("output", "", "Also write all trials to this file, as JSON.")

_SHOWN = 10  # rows of the table


class _Scored(NamedTuple):
    """Logits of the validation set."""

    batches: "list[ScoredBatch]"
    labels: Sequence[str]
    metric: str  # training.metric
    source: dict[str, str]  # for the report


def main(_: list[str]) -> None:
    """Decodes the validation set with many weights, and prints the flags with the fewest errors."""
    chosen = absl_flags.FLAGS
    lm_cfg = attrs.evolve(decoding.settings(), decoder="beam")
    if chosen.logits and (chosen.run_dir or chosen["which"].present):
        raise InputError("--logits names logits that are computed: leave out --run_dir and --which")
    run_dir = None if chosen.logits else decoding.run_dir()
    if not lm_cfg.path:
        raise InputError("--lm.path is missing: give a language model; python -m launch.build_lm makes one")
    output = flags.output_file("output")
    weights, word_scores = _numbers("weights", chosen.weights, lowest=0), _numbers("word_scores", chosen.word_scores)

    from ds2f import decode, metrics
    from ds2f.files import json_text, write_atomically
    from ds2f.inference import tuner
    from ds2f.runner.telemetry import terminal

    console = terminal()
    with ExitStack() as opened:

        def start(labels: Sequence[str]) -> "BeamPool":
            return opened.enter_context(decoding.beam_pool(lm_cfg, labels))

        pool, scored = _read(Path(chosen.logits), start) if run_dir is None else _computed(run_dir, start)
        batches, labels, metric, source = scored
        hot = decoding.hot_words(lm_cfg, labels)

        def measure(weight: float, word_score: float) -> "ErrorCounts":
            status.update(f"weight {weight:g}, word score {word_score:g}")
            cfg = attrs.evolve(lm_cfg, weight=weight, word_score=word_score)
            return tuner.total_errors(batches, pool.best(cfg, hot_words=hot), labels)

        with console.status("decoding") as status:
            greedy = tuner.total_errors(batches, decode.greedy, labels)
            without_lm = pool.best(attrs.evolve(lm_cfg, path=""), hot_words=hot)
            alone = tuner.total_errors(batches, without_lm, labels)
            references = [reference for batch in batches for reference in batch.references]
            first = metrics.deciding_rate(metric, references)
            trials = tuner.search(
                measure,
                weights=weights,
                word_scores=word_scores,
                refinements=chosen.refinements,
                first=first,
            )
    best = attrs.evolve(lm_cfg, weight=trials[0].weight, word_score=trials[0].word_score)
    advice = flags.section_text("lm", best)
    console.print(_table(greedy, alone, trials, first))
    console.print(f"{len(trials)} pairs on {len(references)} validation utterances; the best:\n{shown(advice)}")
    chosen_run = str(run_dir or "RUN")
    guard.tell(next_steps.text(("evaluate", f"--run_dir={chosen_run}", *shlex.split(advice))))
    if output:
        report = _report(greedy, alone, trials) | source | {"flags": advice}
        write_atomically(output, json_text(report, indent=2) + "\n")


def _computed(run_dir: Path, start: "Callable[[Sequence[str]], BeamPool]") -> "tuple[BeamPool, _Scored]":
    """Starts the search, and computes the logits of a run's validation set."""
    from ds2f.checkpoint import load_config
    from ds2f.inference import tuner
    from ds2f.runner.telemetry import terminal

    stored, which = load_config(run_dir), absl_flags.FLAGS.which
    cfg = flags.config_from_flags(stored)
    if decoding.trained_on(stored, cfg, "val"):
        raise InputError(
            f"{run_dir} was trained on its validation set, which then cannot choose weights; train another run "
            "with --nodata.train_on_val, tune with that run, and use its weights here"
        )
    pool = start(cfg.model.labels)
    console = terminal()
    short = long_recordings.read_short("val", cfg, console)
    run = decoding.open_run(cfg, run_dir, short, which=which, console=console)
    batches = tuner.compute_logits(
        run.params,
        run.stats,
        progress_bars.counted(run.loader.epoch(), "computing logits", run.loader.steps),
        run.split.references,
        cfg=cfg.model,
        policy=run.policy,
        backend=run.backend,
    )
    return pool, _Scored(batches, cfg.model.labels, cfg.training.metric, {"run_dir": str(run_dir), "which": which})


def _read(path: Path, start: "Callable[[Sequence[str]], BeamPool]") -> "tuple[BeamPool, _Scored]":
    """Starts the search, and reads logits that launch.evaluate has saved."""
    from ds2f.inference import saved_logits

    saved = saved_logits.load(path)
    about = saved.about
    if about.trained_on or about.split == "test":
        why = "that the model was trained on" if about.trained_on else "of the test set"
        raise InputError(
            f"--logits={path}: logits of utterances {why} ({shown(about.manifest)}), which cannot choose weights; save "
            "those of a validation set: launch.evaluate --split=val --save_logits=FILE"
        )
    source = {"logits": str(path), "run": about.run, "which": about.which}
    metric = flags.config_from_flags().training.metric
    return start(about.labels), _Scored(saved.batches(), about.labels, metric, source)


def _numbers(name: str, texts: Sequence[str], *, lowest: float = float("-inf")) -> list[float]:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if not numbers or not all(lowest <= number < float("inf") for number in numbers):
        raise InputError(f"--{name}={','.join(texts)}: a list of numbers such as 0,0.5,1")
    return numbers


def _table(greedy: "ErrorCounts", alone: "ErrorCounts", trials: "Sequence[Trial]", first: "Rate") -> "Table":
    from rich import box
    from rich.table import Table

    from ds2f.metrics import in_order

    table, rates = Table(box=box.SIMPLE_HEAD), in_order(first)
    headings = (*(f"{rate.upper()} %" for rate in rates), "words" if first == "wer" else "characters")
    for heading in ("decoder", "weight", "word score", *headings):
        table.add_column(heading, justify="left" if heading == "decoder" else "right")
    rows = [("greedy", "", "", greedy), ("beam, no language model", "", "", alone)]
    rows += [("beam", f"{trial.weight:g}", f"{trial.word_score:g}", trial.counts) for trial in trials[:_SHOWN]]
    for *cells, counts in rows:
        wrong, of = counts[:2] if first == "wer" else counts[2:]
        table.add_row(*cells, *(f"{getattr(counts, rate):.3f}" for rate in rates), f"{wrong}/{of}")
    return table


def _report(greedy: "ErrorCounts", alone: "ErrorCounts", trials: "Sequence[Trial]") -> dict[str, Any]:
    from ds2f.runner.evaluator import as_results

    return {
        "greedy": as_results(greedy),
        "beam": as_results(alone),
        "trials": [{"weight": each.weight, "word_score": each.word_score} | as_results(each.counts) for each in trials],
    }


if __name__ == "__main__":
    flags.run(main)
