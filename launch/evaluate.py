"""Evaluates a trained model: python -m launch.evaluate --run_dir=runs/an4_1p [--lm.path=lm.arpa]."""

import json
from pathlib import Path

import attrs
from absl import flags as absl_flags

from ds2f.errors import InputError
from launch import decoding, flags

flags.define(only=("data_path", "run_dir", "device", "data", "apex"))
decoding.define()
absl_flags.DEFINE_enum("split", "test", ["train", "val", "test"], "Which manifest to evaluate.")
absl_flags.DEFINE_string(
    "which", "best", "Which checkpoint: best, last, its number, or best:5 or last:5 for the mean weights of so many."
)
absl_flags.DEFINE_string("save_output", "", "Also write a JSON list of audio, reference and transcript here.")
absl_flags.DEFINE_string("save_results", "", "Also write the counts and rates as JSON here, as results.json has them.")


def main(_: list[str]) -> None:
    """Prints the word and character error rates of a run's model over a manifest."""
    chosen = absl_flags.FLAGS
    run_dir = Path(chosen.run_dir)
    if not chosen.run_dir:
        raise InputError("--run_dir is missing: the folder of the run to evaluate, such as runs/an4_1p")

    output, results = flags.output_file("save_output"), flags.output_file("save_results")

    from ds2f.checkpoint import load_config
    from ds2f.files import write_atomically
    from ds2f.runner.evaluator import as_results
    from ds2f.runner.telemetry import errors_table, terminal

    stored = load_config(run_dir)
    cfg = flags.config_from_flags(stored)
    decoder, console = decoding.decoder(cfg.model.labels), terminal()
    run = decoding.open_run(cfg, run_dir, split=chosen.split, which=chosen.which, console=console)
    split = run.split
    if stored.data.train_on_val and chosen.split != "test":
        console.print(f"this run was trained on the {chosen.split} set too (data.train_on_val)", markup=False)
    found = decoding.evaluate(run, cfg, decoder)
    if output:
        rows = [
            {"audio": str(split.utterances[row].audio), "reference": split.references[row], "transcript": text}
            for row, text in sorted(found.transcripts.items())
        ]
        write_atomically(output, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    rates = {chosen.split: as_results(found.counts)}
    if results:
        written = {"name": run_dir.name, "seed": cfg.training.seed, "which": chosen.which, **rates}
        write_atomically(results, json.dumps(written | {"lm": attrs.asdict(decoding.settings())}, indent=2) + "\n")
    console.print(errors_table(run_dir.name, rates))


if __name__ == "__main__":
    flags.run(main)
