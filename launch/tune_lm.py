"""Tunes the weights of a language model: python -m launch.tune_lm --run_dir=runs/an4_1p --lm.path=lm.arpa."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.text import shown
from launch import decoding, flags

if TYPE_CHECKING:
    from rich.table import Table

    from ds2f.inference.tuner import Trial
    from ds2f.metrics import ErrorCounts

flags.define(only=("data_path", "run_dir", "device", "data", "apex"))
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
absl_flags.DEFINE_string("output", "", "Also write all trials to this file, as JSON.")

_SHOWN = 10  # rows of the table


def main(_: list[str]) -> None:
    """Decodes the validation set with many weights, and prints the flags with the fewest word errors."""
    chosen, run_dir = absl_flags.FLAGS, decoding.run_dir()
    lm_cfg = attrs.evolve(decoding.settings(), decoder="beam")
    if not lm_cfg.path:
        raise InputError("--lm.path is missing: give a language model; python -m launch.build_lm makes one")
    output = flags.output_file("output")
    weights, word_scores = _numbers("weights", chosen.weights, lowest=0), _numbers("word_scores", chosen.word_scores)

    from ds2f import decode
    from ds2f.checkpoint import load_config
    from ds2f.config import manifest_path
    from ds2f.files import json_text, write_atomically
    from ds2f.inference import tuner
    from ds2f.runner.telemetry import terminal

    stored, console = load_config(run_dir), terminal()
    cfg = flags.config_from_flags(stored)
    if stored.data.train_on_val and manifest_path(cfg, "val") == manifest_path(stored, "val"):
        raise InputError(
            f"{run_dir} was trained on its validation set, which then cannot choose weights; train another run "
            "with --nodata.train_on_val, tune with that run, and use its weights here"
        )
    labels = cfg.model.labels
    lm = decoding.language_model(lm_cfg, labels)
    run = decoding.open_run(cfg, run_dir, split="val", which=chosen.which, console=console)
    scored = tuner.compute_logits(
        run.params,
        run.stats,
        run.loader.epoch(),
        run.split.references,
        cfg=cfg.model,
        policy=run.policy,
        backend=run.backend,
    )

    def measure(weight: float, word_score: float) -> "ErrorCounts":
        status.update(f"weight {weight:g}, word score {word_score:g}")
        decoder = decode.best_of_beam(attrs.evolve(lm_cfg, weight=weight, word_score=word_score), lm)
        return tuner.total_errors(scored, decoder, labels)

    with console.status("decoding") as status:
        greedy = tuner.total_errors(scored, decode.greedy, labels)
        alone = tuner.total_errors(scored, decode.best_of_beam(attrs.evolve(lm_cfg, path="")), labels)
        trials = tuner.search(measure, weights=weights, word_scores=word_scores, refinements=chosen.refinements)
    best = attrs.evolve(lm_cfg, weight=trials[0].weight, word_score=trials[0].word_score)
    count = len(run.split.references)
    advice = flags.section_text("lm", best)
    console.print(_table(greedy, alone, trials))
    console.print(f"{len(trials)} pairs on {count} validation utterances; the best:\n{shown(advice)}")
    if output:
        report = _report(greedy, alone, trials) | {"run_dir": str(run_dir), "which": chosen.which, "flags": advice}
        write_atomically(output, json_text(report, indent=2) + "\n")


def _numbers(name: str, texts: Sequence[str], *, lowest: float = float("-inf")) -> list[float]:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if not numbers or not all(lowest <= number < float("inf") for number in numbers):
        raise InputError(f"--{name}={','.join(texts)}: a list of numbers such as 0,0.5,1")
    return numbers


def _table(greedy: "ErrorCounts", alone: "ErrorCounts", trials: "Sequence[Trial]") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("decoder", "weight", "word score", "WER %", "CER %", "words"):
        table.add_column(heading, justify="left" if heading == "decoder" else "right")
    rows = [("greedy", "", "", greedy), ("beam, no language model", "", "", alone)]
    rows += [("beam", f"{trial.weight:g}", f"{trial.word_score:g}", trial.counts) for trial in trials[:_SHOWN]]
    for *cells, counts in rows:
        table.add_row(*cells, f"{counts.wer:.3f}", f"{counts.cer:.3f}", f"{counts.word_errors}/{counts.words}")
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
