"""Prepares a corpus: python -m launch.prepare --dataset=an4 --data_path=data."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from ds2f.text import shown
from launch import flags

if TYPE_CHECKING:
    from ds2f.data.corpora.layout import Corpus, Progress

FLAGS = absl_flags.FLAGS
absl_flags.DEFINE_enum(
    "dataset", "synthetic", ["synthetic", "an4"], "Corpus: synthetic needs no download, an4 is real speech."
)
absl_flags.DEFINE_string(
    "archive", "", "Archive of AN4 (raw, SPHERE or WAV), its unpacked tree, or the folder of either; empty: download."
)
absl_flags.DEFINE_integer("seed", 0, "Seed of the synthetic corpus; the same seed gives the same bytes.", lower_bound=0)
absl_flags.DEFINE_list("utterances", "1200,60,100", "Training, validation and test utterances of the synthetic corpus.")
absl_flags.DEFINE_integer(
    "num_workers", 0, "Processes that speak the synthetic corpus; 0: as many as cores.", lower_bound=0
)
absl_flags.DEFINE_integer(
    "max_unpacked_bytes", 1 << 29, "Limit of the size of an archive's files, unpacked, bytes.", lower_bound=1
)
absl_flags.DEFINE_integer("max_members", 20_000, "Limit of the number of an archive's members.", lower_bound=1)
flags.define(only=["data_path"])


def main(_: list[str]) -> None:
    """Prepares the corpus that the flags name, and prints its size."""
    from rich import progress
    from rich.console import Console

    columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn())
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total or None)

        corpus = _prepare(show)
    _print(corpus)


def _prepare(progress: "Progress") -> "Corpus":
    from ds2f.data.corpora import an4, archives, synthetic

    data_path = Path(FLAGS.data_path)
    if FLAGS.dataset == "an4":
        archive = Path(FLAGS.archive) if FLAGS.archive else None
        limits = archives.Limits(unpacked_bytes=FLAGS.max_unpacked_bytes, members=FLAGS.max_members)
        return an4.prepare(data_path, archive=archive, limits=limits, progress=progress)
    counts = synthetic.parse_counts(FLAGS.utterances)
    return synthetic.prepare(
        data_path, seed=FLAGS.seed, utterances=counts, workers=FLAGS.num_workers, progress=progress
    )


def _print(corpus: "Corpus") -> None:
    from rich.console import Console

    from launch.tables import terminal_table

    state = "was there already, and is whole" if corpus.reused else "is ready"
    numbers = ("utterances", "speakers", "minutes", "words", "characters")
    table = terminal_table(f"{corpus.name} {state} in {shown(str(corpus.folder))}", ["split"], numbers)
    for split in corpus.parts:
        table.add_row(
            split.split,
            f"{split.utterances:,}",
            f"{split.speakers:,}",
            f"{split.seconds / 60:.1f}",
            f"{split.words:,}",
            f"{split.characters:,}",
        )
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print(f"{corpus.verdict}\nSHA-256 of all files: {corpus.digest}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    flags.run(main, output_matters=False)
