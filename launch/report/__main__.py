"""Reports results and errors of runs: python -m launch.report [RUN ... | --errors RUN | --ablation FOLDER | ...].

RUN is the folder of a training: its page is written. Of several, it is the page that compares them. Without an argument
or a flag, configs/results/README.md is printed, the page of results.
"""

import sys
from pathlib import Path

from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.text import shown
from launch import decoding, flagfiles, flags, guard, long_recordings

sys.argv[0] = str(Path(__file__).parent)  # the program name in messages and --help
FLAGS = absl_flags.FLAGS
flags.define(only=("data_path", "device", "data", "apex.opt_level", "apex.dtype"))
decoding.define()
decoding.define_which()
decoding.define_speaker()
absl_flags.DEFINE_string("errors", "", "Analyse the errors of this run; its model transcribes the split.")
absl_flags.DEFINE_string("transcripts", "", "Analyse the errors of this file of launch.evaluate --save_output.")
absl_flags.DEFINE_enum("split", "val", ["train", "val", "test"], "Split that --errors transcribes and --compare reads.")
absl_flags.DEFINE_integer("rows", 15, "Printed rows of a long table.", lower_bound=0)
absl_flags.DEFINE_integer("worst", 10, "Printed utterances with their alignments.", lower_bound=0)
absl_flags.DEFINE_string(
    "output", "", "File of the page; or, with --errors and --transcripts, of the whole analysis, as JSON."
)
absl_flags.DEFINE_string("results", "configs/results", "Folder of results for the page.")
absl_flags.DEFINE_string("ablation", "", "Print the table of the ablation in this folder.")
absl_flags.DEFINE_string(
    "compare", "", "Compare the error rates of the runs that match this pattern, such as 'runs/eight-*', ..."
)
absl_flags.DEFINE_string(
    "against", "", "... with the error rates of the runs that match this pattern; means over seeds."
)


def main(argv: list[str]) -> None:
    """Writes the page of a run or of several, analyses errors, compares runs, or prints the page of results."""
    runs = argv[1:]
    given = [f"--{name}" for name in ("errors", "transcripts", "ablation", "compare") if FLAGS[name].value]
    given += ["the folder of a run"] if runs else []
    if len(given) > 1:
        raise InputError(f"take one of {' and '.join(given)}")
    if bool(FLAGS.compare) != bool(FLAGS.against):
        raise InputError("--compare and --against go together: two patterns of run folders")
    if FLAGS.output and not (FLAGS.errors or FLAGS.transcripts or runs):
        raise InputError("--output is for the page of a run, --errors or --transcripts")

    if runs:
        _pages(list(map(Path, runs)))
    elif FLAGS.errors or FLAGS.transcripts:
        _errors()
    else:
        print(_markdown())


def _pages(runs: list[Path]) -> None:
    """Writes the page of a run, or the comparison of several."""
    output = flags.output_file("output")

    from launch.report.run_page import run_comparison, run_report

    if len(runs) > 1:
        guard.tell(f"wrote {run_comparison.write(runs, output=output)}")
    else:
        guard.tell(f"wrote {run_report.write(runs[0], output=output)}")


def _markdown() -> str:
    from launch.report import ablation, compare, results_page

    if FLAGS.compare:
        return "\n".join(map(shown, compare.rows(FLAGS.compare, FLAGS.against, split=FLAGS.split)))
    if FLAGS.ablation:
        return "\n".join(map(shown, ablation.rows(Path(FLAGS.ablation))))
    return results_page.page(flagfiles.shipped(Path(FLAGS.results)), name=Path(FLAGS.results))


def _errors() -> None:
    speaker = decoding.speaker()
    output = flags.output_file("output")

    from ds2f.files import json_text, write_atomically
    from ds2f.runner.telemetry import terminal
    from launch.report import error_analysis, error_tables, results_io

    if FLAGS.transcripts:
        source = {"transcripts": FLAGS.transcripts}
        transcripts = results_io.read_transcripts(Path(FLAGS.transcripts))
    else:
        source = {"run": FLAGS.errors, "split": FLAGS.split, "which": FLAGS.which}
        transcripts = _transcribe(Path(FLAGS.errors))
    found = error_analysis.analyse(transcripts, speaker=speaker)
    if output:
        write_atomically(output, json_text({"source": source} | found, indent=1, ascii_only=False) + "\n")
    console = terminal()
    console.print(shown(", ".join(source.values())), markup=False)
    error_tables.show(found, console, rows=FLAGS.rows, worst=FLAGS.worst)
    if output:
        guard.tell(f"wrote {output}")


def _transcribe(run_dir: Path) -> list[decoding.Transcript]:
    """Transcribes a split with the model of a run."""
    from ds2f.checkpoint import load_config
    from ds2f.runner.telemetry import terminal

    cfg = flags.config_from_flags(load_config(run_dir))
    with decoding.decoder(cfg.model.labels) as decoder:
        whole, short = long_recordings.read(FLAGS.split, cfg)
        run = decoding.open_run(cfg, run_dir, short, which=FLAGS.which, console=terminal())
        return decoding.transcripts(whole, long_recordings.evaluate(run, whole, cfg, decoder)[0])


if __name__ == "__main__":
    flags.run(main, positional=True)
