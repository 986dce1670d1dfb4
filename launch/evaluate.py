"""Evaluates a trained model: python -m launch.evaluate --run_dir=runs/an4_1p [--lm.path=lm.arpa]."""

import attrs
from absl import flags as absl_flags

from launch import decoding, flags

flags.define(only=("data_path", "run_dir", "device", "data", "apex"))
decoding.define()
decoding.define_which()
absl_flags.DEFINE_enum("split", "test", ["train", "val", "test"], "Split to evaluate.")
absl_flags.DEFINE_string(
    "save_output", "", "Also write audio, reference and transcript of every utterance to this file, as JSON."
)
absl_flags.DEFINE_string(
    "save_results", "", "Also write counts and rates to this file, with the fields of results.json."
)


def main(_: list[str]) -> None:
    """Prints the word and character error rates of a run's model on a split."""
    chosen, run_dir = absl_flags.FLAGS, decoding.run_dir()
    output, results = flags.output_file("save_output"), flags.output_file("save_results")

    from ds2f.checkpoint import load_config
    from ds2f.files import json_text, write_atomically
    from ds2f.runner.evaluator import as_results
    from ds2f.runner.telemetry import errors_table, terminal

    stored = load_config(run_dir)
    cfg = flags.config_from_flags(stored)
    decoder, console = decoding.decoder(cfg.model.labels), terminal()
    run = decoding.open_run(cfg, run_dir, split=chosen.split, which=chosen.which, console=console)
    if stored.data.train_on_val and chosen.split != "test":
        console.print(f"this run was trained on the {chosen.split} set, too (data.train_on_val)", markup=False)
    found = decoding.evaluate(run, cfg, decoder)
    if output:
        rows = [each._asdict() for each in decoding.transcripts(run, found)]
        write_atomically(output, json_text(rows, indent=2, ascii_only=False) + "\n")
    rates = {chosen.split: as_results(found.counts)}
    if results:
        written = {"name": run_dir.name, "seed": cfg.training.seed, "which": chosen.which, **rates}
        write_atomically(results, json_text(written | {"lm": attrs.asdict(decoding.settings())}, indent=2) + "\n")
    console.print(errors_table(run_dir.name, rates))


if __name__ == "__main__":
    flags.run(main)
