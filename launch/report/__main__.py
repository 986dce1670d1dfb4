"""Shows what runs achieved and where they err: python -m launch.report [--errors RUN | --ablation FOLDER | ...].

Without a flag it prints configs/results/README.md, the page of results.
"""

import json
import sys
from pathlib import Path

from absl import flags as absl_flags

from ds2f.errors import InputError
from launch import decoding, flags

sys.argv[0] = str(Path(__file__).parent)  # what messages and --help call the program
FLAGS = absl_flags.FLAGS
flags.define(only=("data_path", "device", "data", "apex"))
decoding.define()
absl_flags.DEFINE_string("errors", "", "Run whose errors are shown; its model transcribes the split.")
absl_flags.DEFINE_string(
    "transcripts", "", "Show the errors of these transcripts, which launch.evaluate --save_output wrote."
)
absl_flags.DEFINE_enum(
    "split", "val", ["train", "val", "test"], "Which set --errors transcribes, or --compare looks at."
)
absl_flags.DEFINE_string("which", "best", "Which checkpoint of --errors, as launch.evaluate takes it.")
flags.define_speaker()
absl_flags.DEFINE_integer("rows", 15, "Rows that are printed of a long table of errors.", lower_bound=0)
absl_flags.DEFINE_integer("worst", 10, "Utterances that are printed with their alignments.", lower_bound=0)
absl_flags.DEFINE_string("output", "", "Also write all about the errors to this file, as JSON.")
absl_flags.DEFINE_string("results", "configs/results", "Folder of the results that the page is made from.")
absl_flags.DEFINE_string("ablation", "", "Print the table of an ablation, made from the results in this folder.")
absl_flags.DEFINE_string(
    "compare", "", "Compare the error rates of the runs whose folders this pattern finds, such as 'runs/eight-*', ..."
)
absl_flags.DEFINE_string("against", "", "... with those of the runs that this one finds: means over seeds.")


def main(_: list[str]) -> None:
    """Shows errors, compares runs, or prints the page of results or one of its tables."""
    given = [name for name in ("errors", "transcripts", "ablation", "compare") if FLAGS[name].value]
    if len(given) > 1:
        raise InputError(f"take one of {' and '.join(f'--{name}' for name in given)}")
    if bool(FLAGS.compare) != bool(FLAGS.against):
        raise InputError("--compare and --against go together: two patterns of run folders")
    if FLAGS.output and not (FLAGS.errors or FLAGS.transcripts):
        raise InputError("--output is for --errors or --transcripts")

    if FLAGS.errors or FLAGS.transcripts:
        _errors()
    else:
        print(_markdown())


def _markdown() -> str:
    from launch.report import ablation, compare, results_page

    if FLAGS.compare:
        return "\n".join(compare.rows(FLAGS.compare, FLAGS.against, split=FLAGS.split))
    if FLAGS.ablation:
        return "\n".join(ablation.rows(Path(FLAGS.ablation)))
    return results_page.page(Path(FLAGS.results))


def _errors() -> None:
    speaker = flags.speaker()
    output = flags.output_file("output")

    from ds2f.files import write_atomically
    from ds2f.runner.telemetry import terminal
    from launch.report import error_analysis, error_tables, sources

    if FLAGS.transcripts:
        source = {"transcripts": FLAGS.transcripts}
        transcripts = sources.of_file(Path(FLAGS.transcripts))
    else:
        source = {"run": FLAGS.errors, "split": FLAGS.split, "which": FLAGS.which}
        transcripts = sources.of_run(Path(FLAGS.errors), split=FLAGS.split, which=FLAGS.which)
    found = error_analysis.analyse(transcripts, speaker=speaker)
    if output:
        write_atomically(output, json.dumps({"source": source} | found, indent=1, ensure_ascii=False) + "\n")
    console = terminal()
    console.print(", ".join(source.values()), markup=False)
    error_tables.show(found, console, rows=FLAGS.rows, worst=FLAGS.worst)


if __name__ == "__main__":
    flags.run(main)
