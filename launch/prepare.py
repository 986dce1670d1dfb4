"""Prepares a corpus: python -m launch.prepare --dataset=an4 --data_path=data.

A published corpus that is unpacked: python -m launch.prepare --dataset=librispeech --source=LibriSpeech.
Or recordings of one's own: python -m launch.prepare --source=RECORDINGS --output=data/mine.
"""

import textwrap
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.text import shown
from launch import decoding, flag_effects, flags, next_steps, progress_bars
from launch.tables import print_sizes

if TYPE_CHECKING:
    from collections import Counter

    from ds2f.data.corpora.layout import Corpus, Progress
    from ds2f.data.corpora.preparation import PreparedCorpus

_LISTED = 80  # labels that a message lists
_RARE = 5  # occurrences of a character below which a message doubts that it can be learnt

FLAGS = absl_flags.FLAGS
_PUBLISHED = ("librispeech", "tedlium3", "aishell1", "commonvoice", "voxforge")  # of ds2f.data.corpora.readers
_OWN = ("folder", "table")
absl_flags.DEFINE_enum(
    "dataset",
    "synthetic",
    ["synthetic", "an4", *_PUBLISHED, *_OWN],
    "Corpus: synthetic needs no download, an4 is real speech; the others are read where they lie, in --source; folder "
    "and table are recordings of your own.",
)
absl_flags.DEFINE_list(
    "subset", [], "Parts of the corpus in --source: LibriSpeech's, as in train-clean-100, or Common Voice's language."
)
absl_flags.DEFINE_string(
    "archive", "", "Archive of AN4 (raw, SPHERE or WAV), its unpacked tree, or the folder of either; empty: download."
)
absl_flags.DEFINE_string(
    "language",
    "",
    "Language, an ISO 639 code: of the synthetic corpus (en, cmn, de, es; empty: en), or of the transcripts, by which "
    "letters change their case to that of the labels (tr, az).",
)
absl_flags.DEFINE_enum(
    "numerals", "keep", ["keep", "refuse"], "Digits in transcripts: they become labels, or the command ends."
)
absl_flags.DEFINE_integer("seed", 0, "Seed of the synthetic corpus; the same seed gives the same bytes.", lower_bound=0)
absl_flags.DEFINE_list("utterances", "1200,60,100", "Training, validation and test utterances of the synthetic corpus.")
absl_flags.DEFINE_integer(
    "num_workers",
    0,
    "Processes that speak the synthetic corpus (0: one for each core), or threads that open recordings (0: four for "
    "each core).",
    lower_bound=0,
)
absl_flags.DEFINE_integer(
    "max_unpacked_bytes", 1 << 29, "Limit of the size of an archive's files, unpacked, bytes.", lower_bound=1
)
absl_flags.DEFINE_integer("max_members", 20_000, "Limit of the number of an archive's members.", lower_bound=1)
absl_flags.DEFINE_string(
    "source",
    "",
    "Folder of the corpus; or recordings of your own, a folder or table in any form of manifest. Parts of recordings "
    "(offsets, Kaldi's segments, text grids) stay where they are.",
)
absl_flags.DEFINE_string(
    "output",
    "",
    "Folder for train.csv, val.csv, test.csv and labels.json of --source, such as data/mine. Empty: manifests of the "
    "dataset's name, in --data_path.",
)
absl_flags.DEFINE_bool(
    "download", False, "Fetch and unpack the corpus first, into --source (default: NAME in --data_path)."
)
absl_flags.DEFINE_list(
    "columns", [], "Columns of --dataset=table by their meaning, as in audio=path,text=sentence,speaker=client."
)
absl_flags.DEFINE_float("min_duration", 0.0, "Leave out shorter utterances, seconds.", lower_bound=0)
absl_flags.DEFINE_float("max_duration", 0.0, "Leave out longer utterances, seconds; 0: none.", lower_bound=0)
absl_flags.DEFINE_enum(
    "unknown_words", "leave_out", ["leave_out", "remove"], "Utterances with <unk>: leave them out, or remove the mark."
)
absl_flags.DEFINE_enum(
    "convert", None, ["flac"], "Copy recordings as FLAC, 16 kHz, with parts cut out. Empty: no copies are made."
)
absl_flags.DEFINE_float(
    "held_out",
    0.1,
    "Fraction of the utterances for validation, and again for the test, where --source has no sets; 1,000 at most.",
    0,
    0.4,
)
absl_flags.DEFINE_string(
    "speaker",
    "",
    "Regular expression with one group, which matches the speaker in a path of --source, as in '/wav/([^/]+)/': no "
    "speaker is then in two sets. Empty: divided by recordings.",
)
absl_flags.DEFINE_bool("punctuation", False, "Keep punctuation marks and symbols as labels.")
absl_flags.DEFINE_string(
    "labels",
    "",
    "File to write: a list of labels, of all characters in the transcripts of --data.train_manifest and of the "
    "validation and test manifests that are named or lie beside it. auto: labels.json beside the training manifest.",
)
absl_flags.DEFINE_integer(
    "pieces",
    0,
    "With --labels: labels and pieces of words together, by byte-pair encoding of the training transcripts; needs "
    "sentencepiece. 0: letters alone.",
    lower_bound=0,
)
_OF_SOURCES = (
    *("download", "subset", "output", "columns", "min_duration", "max_duration", "unknown_words", "convert"),
    *("held_out", "speaker"),
)
_MANIFESTS = ("train_manifest", "val_manifest", "test_manifest")
_LIMITS = ("max_unusable", "max_text_bytes", "max_manifest_bytes", "max_recording_seconds")
flags.define(only=("data_path", *(f"data.{name}" for name in (*_MANIFESTS, *_LIMITS))))


def main(_: list[str]) -> None:
    """Prepares the corpus that the flags name, or the user's own, and prints its size; or writes a file of labels."""
    if FLAGS.labels:
        return _write_labels()

    if FLAGS.pieces:
        raise InputError("--pieces: has an effect on --labels=FILE only; prepare the corpus first")
    lying = bool(FLAGS.source) or FLAGS.dataset in (*_PUBLISHED, *_OWN)
    idle = [] if lying else [name for name in _OF_SOURCES if flag_effects.typed(name)]
    if idle:
        raise InputError(f"--{idle[0]}: has no effect on --dataset={FLAGS.dataset}; leave it out")
    from ds2f.runner import output_lease

    place, flag = Path(FLAGS.output or FLAGS.data_path), "--output" if FLAGS.output else "--data_path"
    held = output_lease.hold(place, "corpus" if FLAGS.output else FLAGS.dataset, flag=flag, what="a preparation")
    with held, progress_bars.shown_progress() as show:
        if lying:
            prepared = _prepare_lying(show)
        else:
            corpus = _prepare(show)
    if lying:
        _print_prepared(prepared)
    else:
        _print(corpus)


def _write_labels() -> None:
    from ds2f.data import manifests
    from ds2f.data.corpora import bpe, label_lists
    from ds2f.data.manifest_paths import manifest_path

    cfg = flags.config_from_flags()
    if not any(getattr(cfg.data, name) for name in _MANIFESTS):
        raise InputError("--labels: name the manifests whose characters to take, --data.train_manifest=FILE")
    path = manifest_path(cfg, "train").with_name("labels.json") if FLAGS.labels == "auto" else Path(FLAGS.labels)
    if path.exists() or not path.absolute().parent.is_dir():
        raise InputError(f"--labels={path}: give a new file in a folder that exists, such as labels.json")
    paths = {}
    for split in ("train", "val", "test"):
        with suppress(InputError):  # a set that is neither named nor beside a named one
            paths[split] = manifest_path(cfg, split)
    said = {split: [each.transcript for each in manifests.read(path, cfg=cfg.data)] for split, path in paths.items()}
    characters = label_lists.characters([*chain(*said.values())], language=FLAGS.language, numerals=FLAGS.numerals)
    labels = label_lists.of(characters, punctuation=FLAGS.punctuation)
    if FLAGS.pieces:
        labels = bpe.pieces(said["train"], labels, number=FLAGS.pieces)
    label_lists.write(path, labels)
    _print_labels(path, characters, labels)
    print(f"from {sum(map(len, said.values())):,} transcripts of {shown(', '.join(map(str, paths.values())))}")


def _prepare_lying(progress: "Progress") -> "PreparedCorpus":
    """Prepares the corpus in ``--source``: a published one, or recordings of one's own."""
    from ds2f.data.corpora import downloads, installation, preparation
    from ds2f.processes import cpu_count

    name, source = FLAGS.dataset, Path(FLAGS.source or Path(FLAGS.data_path, FLAGS.dataset))
    if FLAGS.download:
        archives = downloads.archives_of(name, tuple(FLAGS.subset))
        installation.install(archives, source, progress=progress)
    elif not FLAGS.source:
        where = "is unpacked" if name in _PUBLISHED else "lies"
        raise InputError(f"--dataset={name} needs --source=FOLDER, where the corpus {where}")
    if name not in (*_PUBLISHED, *_OWN):
        if flag_effects.typed("dataset"):
            raise InputError(f"--source: has no effect on --dataset={name}; leave one of the two out")
        if not FLAGS.output:
            raise InputError("--source needs --output=FOLDER, for the tables and labels; or name the --dataset")
        name = "folder" if source.is_dir() else "table"
    if FLAGS.columns and name != "table":
        raise InputError(f"--columns: has no effect on --dataset={name}; leave it out")
    pairs = [each.partition("=") for each in FLAGS.columns]
    if wrong := [ours for ours, _, theirs in pairs if not theirs]:
        raise InputError(f"--columns={wrong[0]}: give MEANING=NAME, as in audio=path")
    choices = preparation.Choices(
        subset=tuple(FLAGS.subset),
        min_duration=FLAGS.min_duration,
        max_duration=FLAGS.max_duration or float("inf"),
        unknown_words=FLAGS.unknown_words,
        speaker=decoding.speaker() if FLAGS.speaker else None,
        held_out=FLAGS.held_out,
        salt=f"{FLAGS.seed} ",
        copies=bool(FLAGS.convert),
        punctuation=FLAGS.punctuation,
        language=FLAGS.language,
        numerals=FLAGS.numerals,
        workers=FLAGS.num_workers or 4 * cpu_count(),
    )
    output = Path(FLAGS.output) if FLAGS.output else None
    destination = preparation.of_ones_own(output) if output else preparation.of_corpus(name, Path(FLAGS.data_path))
    columns = {ours: theirs for ours, _, theirs in pairs}
    cfg = flags.config_from_flags().data
    return preparation.prepare(name, source, destination, choices, cfg=cfg, columns=columns, progress=progress)


def _print_prepared(corpus: "PreparedCorpus") -> None:
    print_sizes(f"{corpus.name} in {shown(str(corpus.source))}", corpus.parts)
    for why, (number, examples) in corpus.left_out.items():
        print(f"left out: {number:,} {why}, such as\n  {shown(examples[0])}")
    if corpus.left_out_path:
        print(f"all that is left out: {shown(str(corpus.left_out_path))}")
    if corpus.by_recordings:
        print("Speakers may be in several sets, which flatters the model: --speaker=REGEX keeps each in one.")
    _print_labels(corpus.labels_path, corpus.characters, corpus.labels)
    folder = Path(FLAGS.output or corpus.name)
    values = {
        "flagfile": "configs/own.flags",
        "run_dir": f"runs/{folder.absolute().name}",
        "data_path": FLAGS.output or FLAGS.data_path,
        **({"data.train_manifest": str(corpus.manifests["train"])} if FLAGS.output else {"data.dataset": corpus.name}),
        "data.labels_path": str(corpus.labels_path),
    }
    print(shown(next_steps.text(("train", *(f"--{flag}={value}" for flag, value in values.items()))), lines=True))


def _print_labels(path: Path, characters: "Counter[str]", labels: "Sequence[str]") -> None:
    pieces = [each for each in labels if len(each) > 1]
    listed = "".join([each for each in labels if len(each) == 1][:_LISTED])
    more = f", and {' '.join(pieces[:_LISTED])!r}" if pieces else ""
    more += "..." * (max(len(pieces), len(labels) - len(pieces)) > _LISTED)
    print(f"{shown(str(path))}: {len(labels):,} labels, the blank _ included: {shown(listed)!r}{more}")
    rare = [f"{label!r} {characters[label]}" for label in labels if 0 < characters[label] < _RARE]
    if rare:
        more = f" and {len(rare) - _LISTED:,} more" if len(rare) > _LISTED else ""
        print(
            f"seen fewer than {_RARE} times: {', '.join(rare[:_LISTED])}{more}. Correct mistakes in the texts; other "
            "characters so rare are not learnt."
        )
    if any(label.isdigit() for label in labels):
        print("Digits are spoken in many ways: better spell them out.")
    if marks := [f"{mark!r} {number}" for mark, number in characters.most_common() if mark not in labels]:
        print(f"no labels: {', '.join(marks)}. --data.unknown_characters=drop_character passes over them in training;")
        print("--punctuation makes them labels.")


def _prepare(progress: "Progress") -> "Corpus":
    from ds2f.data.corpora import an4, archives, synthetic
    from ds2f.data.corpora.grammars import GRAMMARS

    data_path = Path(FLAGS.data_path)
    if FLAGS.dataset == "an4":
        archive = Path(FLAGS.archive) if FLAGS.archive else None
        limits = archives.Limits(unpacked_bytes=FLAGS.max_unpacked_bytes, members=FLAGS.max_members)
        return an4.prepare(data_path, archive=archive, limits=limits, progress=progress)
    counts = synthetic.parse_counts(FLAGS.utterances)
    if (language := FLAGS.language or synthetic.ENGLISH) not in GRAMMARS:
        raise InputError(f"--language={language}: the synthetic corpus is spoken in {', '.join(GRAMMARS)}")
    return synthetic.prepare(
        data_path,
        seed=FLAGS.seed,
        utterances=counts,
        language=language,
        workers=FLAGS.num_workers,
        progress=progress,
    )


def _print(corpus: "Corpus") -> None:
    state = "was there already, and is whole" if corpus.reused else "is ready"
    print_sizes(f"{corpus.name} {state} in {shown(str(corpus.folder))}", corpus.parts)
    print(f"{textwrap.fill(corpus.verdict, 80)}\nSHA-256 of all files:\n  {corpus.digest}")
    path = [f"--data_path={FLAGS.data_path}"] if FLAGS.data_path != "data" else []
    if corpus.labels_path:
        path += [f"--data.dataset={corpus.name}", f"--data.labels_path={corpus.labels_path}"]
    print(
        shown(
            next_steps.text(("train", f"--flagfile=configs/{next_steps.flagfile(corpus.name)}.flags", *path)),
            lines=True,
        )
    )


if __name__ == "__main__":
    flags.run(main, output_matters=False)
