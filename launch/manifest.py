"""Checks, counts, joins and converts manifests: python -m launch.manifest verify data/train.jsonl data/test.jsonl.

Actions: ``verify`` opens every recording; ``stats`` counts; ``merge``, ``split``, ``subset`` and ``convert`` write
manifests to ``--output``; ``shard`` writes tar shards.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.nearest import did_you_mean
from ds2f.text import shown
from launch import decoding, flag_effects, flags, manifest_figures, next_steps, progress_bars

if TYPE_CHECKING:
    from ds2f.data.manifest_opening import OpenedManifest
    from ds2f.data.manifests import Utterance

FLAGS = absl_flags.FLAGS
absl_flags.DEFINE_string("output", "", "The manifest to write; split: the folder; verify: a file for all problems.")
absl_flags.DEFINE_enum(
    "form",
    None,
    ["jsonl", "csv", "tsv", "two_columns", "json", "lhotse"],
    "Form of the output: NeMo's JSON lines, a table with a header row or with two columns, deepspeech.pytorch's JSON, "
    "Lhotse's cuts. Default: what the suffix of --output tells; split: jsonl.",
)
absl_flags.DEFINE_string(
    "transcripts", "", "New folder for the transcripts as files, for --form=two_columns and --form=json."
)
absl_flags.DEFINE_enum(
    "by", "speaker", ["speaker", "hash"], "What split keeps together: speakers; or recordings, each by its name alone."
)
absl_flags.DEFINE_float("held_out", 0.1, "Fraction for validation, and again for the test: split.", 0, 0.4)
absl_flags.DEFINE_integer("count", 0, "Utterances that subset draws; 0: all.", lower_bound=0)
absl_flags.DEFINE_float("hours", 0.0, "Hours of speech that subset draws; 0: all.", lower_bound=0)
absl_flags.DEFINE_float("min_duration", 0.0, "Shortest utterance of subset, seconds.", lower_bound=0)
absl_flags.DEFINE_float("max_duration", 0.0, "Longest utterance of subset, seconds; 0: any.", lower_bound=0)
absl_flags.DEFINE_string("match", "", "Regular expression that subset looks for in transcripts.")
absl_flags.DEFINE_string("match_path", "", "Regular expression that subset looks for in paths of recordings.")
absl_flags.DEFINE_integer("seed", 0, "Another seed makes subset and split draw others.", lower_bound=0)
absl_flags.DEFINE_bool("decode", False, "Decode recordings to their ends, not the headers alone: verify.")
absl_flags.DEFINE_string(
    "speaker",
    "",
    "Regular expression with one group, the speaker in a recording's path; empty: the manifest's speakers.",
)
absl_flags.DEFINE_integer("num_workers", 0, "Threads that open recordings; 0: four for each core.", lower_bound=0)
absl_flags.DEFINE_integer("shard_bytes", 1 << 30, "Bytes of a tar shard, but for its last recording.", lower_bound=1)
_LIMITS = ("data.max_unusable", "data.max_text_bytes", "data.max_manifest_bytes", "data.max_recording_seconds")
flags.define(only=("data.labels_path", *_LIMITS))
_WRITING = ("output", "form", "transcripts", "data.max_unusable")
_ACTIONS: dict[str, tuple[str, ...]] = {  # with the flags that have an effect
    "verify": ("output", "decode", "data.labels_path", "data.max_recording_seconds"),
    "stats": ("data.labels_path", "data.max_unusable"),
    "merge": _WRITING,
    "split": ("output", "form", "by", "held_out", "seed", "data.max_unusable"),
    "subset": (*_WRITING, "count", "hours", "min_duration", "max_duration", "match", "match_path", "seed"),
    "convert": _WRITING,
    "shard": ("output", "shard_bytes", "data.max_unusable"),
}
_SHARED = ("speaker", "num_workers", "data.max_text_bytes", "data.max_manifest_bytes")


def main(argv: list[str]) -> int:
    """Runs the action of the command line. The result is 1 if ``verify`` finds something wrong."""
    action, *paths = argv[1:] or [""]
    if action not in _ACTIONS:
        problem = f"there is no action {action!r}" if action else "give an action and manifests, as in verify a.csv"
        hint = did_you_mean(action, _ACTIONS) or "."
        raise InputError(f"{problem}{hint} Actions: {', '.join(_ACTIONS)}")
    if not paths or (len(paths) > 1 and action not in ("verify", "stats", "merge")):
        raise InputError(f"{action}: give {'the manifest' if len(paths) else 'a manifest'}, as in {action} train.jsonl")
    every = {name for names in _ACTIONS.values() for name in names}
    if idle := sorted(name for name in every - {*_ACTIONS[action], *_SHARED} if flag_effects.typed(name)):
        raise InputError(f"{action}: no effect has --{', --'.join(idle)}; leave it out")
    if action not in ("verify", "stats") and not FLAGS.output:
        what = "FOLDER" if action in ("split", "shard") else "FILE, such as new.jsonl"
        raise InputError(f"{action}: give --output={what}")
    if action == "verify":
        return _verify(paths)
    {"stats": _stats, "merge": _merge, "split": _split, "subset": _subset, "convert": _convert, "shard": _shard}[
        action
    ](paths)
    return 0


def _open(paths: Sequence[str], *, trust: bool, decode: bool = False) -> "list[OpenedManifest]":
    from ds2f.data.manifest_opening import open_manifest, with_speakers
    from ds2f.processes import cpu_count

    cfg = flags.config_from_flags().data
    pattern = decoding.speaker() if FLAGS.speaker else None
    workers = FLAGS.num_workers or 4 * cpu_count()
    with progress_bars.shown_progress() as show:
        opened = [
            open_manifest(Path(path), cfg=cfg, workers=workers, trust=trust, decode=decode, progress=show)
            for path in paths
        ]
    return [with_speakers(each, pattern) if pattern else each for each in opened]


def _usable(paths: Sequence[str], *, trust: bool) -> "list[OpenedManifest]":
    """The manifests, without up to ``--data.max_unusable`` rows of each that cannot be used.

    Raises:
      InputError: there are more.
    """
    from ds2f.data import problems

    opened = _open(paths, trust=trust)
    limit = flags.config_from_flags().data.max_unusable
    for each in opened:
        for remark in problems.require_few([each.checked], limit=limit).values():
            print(shown(f"{each.path}: {remark}"))
        if not each.utterances:
            raise InputError(f"{each.path}: no row can be used")
    return opened


def _verify(paths: Sequence[str]) -> int:
    from ds2f.data import manifest_opening, problems

    labels = _labels()
    opened = manifest_opening.with_shared_recordings(_open(paths, trust=False, decode=FLAGS.decode))
    if labels:
        opened = [manifest_opening.with_strange_characters(each, labels) for each in opened]
    for each in opened:
        manifest_figures.print_verdict(each)
    if shared := manifest_opening.shared_speakers(opened):
        names = ", ".join(list(shared)[:3])
        print(f"{len(shared):,} speakers are in several manifests, such as {shown(names)}: error rates will flatter")
    checked = [each.checked for each in opened]
    if not any(each.problems for each in checked):
        return 0
    if path := flags.output_file("output"):
        problems.write_all(path, checked)
        print(f"all problems: {shown(str(path))}")
    problems.require_few(checked)
    return 1


def _stats(paths: Sequence[str]) -> None:
    from ds2f.data.manifest_statistics import statistics

    labels = _labels()
    for each in _usable(paths, trust=True):
        manifest_figures.print_statistics(str(each.path), statistics(each.utterances, labels))


def _labels() -> tuple[str, ...] | None:
    """The labels of ``--data.labels_path``; None without it."""
    from ds2f.config import read_labels

    path = FLAGS["data.labels_path"].value
    return read_labels(path) if path else None


def _merge(paths: Sequence[str]) -> None:
    from ds2f.data.manifest_selection import merged

    utterances, repeated = merged(each.utterances for each in _usable(paths, trust=FLAGS.form != "two_columns"))
    _write(utterances)
    print(f"{repeated:,} repeated rows dropped")


def _convert(paths: Sequence[str]) -> None:
    _write(_usable(paths, trust=FLAGS.form != "two_columns")[0].utterances)


def _shard(paths: Sequence[str]) -> None:
    from ds2f.data import shard_writing

    opened = _usable(paths, trust=False)[0]
    name = opened.path.stem.partition(".")[0]
    with progress_bars.shown_progress() as show:
        found = shard_writing.write(
            opened.utterances,
            Path(FLAGS.output),
            name=name,
            most_bytes=FLAGS.shard_bytes,
            progress=lambda done, total: show(name, done, total),
        )
    print(
        f"{shown(str(found.manifest))}: {manifest_figures.size(opened.utterances)} in {found.shards:,} "
        f"shards of {found.bytes / 1e6:,.1f} MB in all"
    )
    _print_next(found.manifest)


def _subset(paths: Sequence[str]) -> None:
    from ds2f.data.manifest_selection import Selection, select

    selection = Selection(
        min_duration=FLAGS.min_duration,
        max_duration=FLAGS.max_duration or float("inf"),
        text=_pattern("match"),
        path=_pattern("match_path"),
        count=FLAGS.count,
        hours=FLAGS.hours,
        seed=FLAGS.seed,
    )
    opened = _usable(paths, trust=FLAGS.form != "two_columns")[0]
    found = select(opened.utterances, selection)
    if not found:
        raise InputError(f"{paths[0]}: none of {len(opened.utterances):,} utterances is selected")
    _write(found)
    print(f"of {len(opened.utterances):,} utterances")


def _pattern(flag: str) -> re.Pattern[str] | None:
    text = FLAGS[flag].value
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise InputError(f"--{flag}={text}: not a regular expression: {error}") from error


def _split(paths: Sequence[str]) -> None:
    from ds2f.data import division

    form = FLAGS.form or "jsonl"
    opened = _usable(paths, trust=form != "two_columns")[0]
    salt = f"{FLAGS.seed} " if FLAGS.seed else ""
    if FLAGS.by == "speaker":
        if unknown := [each for each in opened.utterances if not each.speaker]:
            raise InputError(
                f"{paths[0]}: {len(unknown):,} of {len(opened.utterances):,} rows name no speaker, such as "
                f"{unknown[0].audio}. Find it in the paths with --speaker=REGEX, or divide with --by=hash"
            )
        names = [each.speaker for each in opened.utterances]
        splits = division.by_groups(names, held_out=FLAGS.held_out, what="speakers", salt=salt)
    else:
        names = [_below(each.audio, opened.path) for each in opened.utterances]
        splits = division.by_hash(names, held_out=FLAGS.held_out, salt=salt)
    suffix = {"two_columns": "csv", "lhotse": "jsonl.gz"}.get(form, form)
    sets = {
        Path(FLAGS.output) / f"{split}.{suffix}": [
            each for each, own in zip(opened.utterances, splits, strict=True) if own == split
        ]
        for split in division.SPLITS
    }
    for path, members in sets.items():  # before anything is written
        _require_new(path)
        if not members:
            raise InputError(
                f"{paths[0]}: too few recordings; the set {path.name} is empty. Add some, or take another --seed"
            )
    for path, members in sets.items():
        _write_to(path, form, members)
    _print_next(next(iter(sets)))


def _below(path: Path, manifest: Path) -> str:
    """A recording's name that stays when the manifest is moved with its recordings."""
    folder = manifest.absolute() if manifest.is_dir() else manifest.absolute().parent
    path = path.absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _write(utterances: "Sequence[Utterance]") -> None:
    from ds2f.data.manifest_forms import form_of

    path = flags.output_file("output") or Path()
    _write_to(path, form_of(path, FLAGS.form or ""), utterances)
    _print_next(path)


def _print_next(path: Path) -> None:
    """Prints the command that trains on a new manifest."""
    print(
        shown(next_steps.text(("train", "--flagfile=configs/own.flags", f"--data.train_manifest={path}")), lines=True)
    )


def _write_to(path: Path, form: str, utterances: "Sequence[Utterance]") -> None:
    from ds2f.data import manifest_forms

    _require_new(path)
    texts: Sequence[Path | str] = [each.transcript for each in utterances]
    if FLAGS.transcripts and form not in ("two_columns", "json"):
        raise InputError(f"--transcripts: the form {form} contains the transcripts; leave it out")
    if FLAGS.transcripts:
        texts = manifest_forms.written_texts(utterances, Path(FLAGS.transcripts))
    manifest_forms.write_form(path, form, utterances, texts)
    print(f"{shown(str(path))}: {manifest_figures.size(utterances)}")


def _require_new(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path} is there already: remove it, or name another with --output")


if __name__ == "__main__":
    flags.run(main, positional=True)
