"""Preparing a corpus that lies on the disk: everything that is the same for all corpora.

A corpus is a function of its place that yields utterances, in ``readers.py`` and ``own_sources.py``. Recordings stay
where they are, unless copies are asked for. The rest is here: durations, limits of length, unknown words, the division
by speakers where no sets are published, manifests, labels from the training texts, and what was left out and why.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import attrs

from ds2f.config import DataConfig
from ds2f.data import division, manifest_forms, manifests, problems
from ds2f.data.corpora import flac_copies, label_lists, layout, own_sources
from ds2f.data.corpora.layout import SPLITS, CorpusSplit, Progress
from ds2f.data.corpora.left_out import Why, reasons_of, write_list
from ds2f.data.corpora.length_journal import LengthJournal
from ds2f.data.corpora.readers import CORPORA, LeftOut, Reader, Spoken
from ds2f.data.manifest_opening import in_threads
from ds2f.data.manifest_rows import Row
from ds2f.data.manifests import Utterance
from ds2f.data.problems import Checked, Problem
from ds2f.errors import InputError

UNKNOWN = "<unk>"  # in texts: a word that the transcriber or aligner did not know
_SHORT, _LONG = "that are too short", "that are too long"
_MISSING, _BROKEN = "whose recording is missing", "whose recording cannot be read"
_OUTSIDE = "that are no part of their recordings"


class Destination(NamedTuple):
    """Where manifests and labels are written."""

    folder: Path
    manifest: str  # name of a split's manifest, with {split}
    labels: str
    form: str  # of manifest_forms.FORMS
    copies: str  # folder of FLAC copies
    left_out: str


class PreparedCorpus(NamedTuple):
    """What ``prepare`` has written."""

    name: str
    source: Path
    parts: tuple[CorpusSplit, ...]
    manifests: dict[str, Path]  # by split
    labels_path: Path
    labels: tuple[str, ...]
    characters: Counter[str]  # of the training texts; of all texts of one's own
    left_out: dict[str, Why]
    left_out_path: Path | None  # all that is left out; None: nothing
    by_recordings: bool  # whether the sets are divided by recordings, as speakers are unknown


@attrs.frozen(kw_only=True)
class Choices:
    """What the user decides about a corpus."""

    subset: tuple[str, ...] = ()  # parts, as the corpus's function says; empty: all that are there
    min_duration: float = 0.0  # seconds; shorter utterances are left out
    max_duration: float = float("inf")
    unknown_words: str = "leave_out"  # the utterances with <unk>; or "remove" the mark
    speaker: re.Pattern[str] | None = None  # finds the speaker in a recording's path, by its only group
    held_out: float = 0.1  # of the utterances, for validation and again for the test, where no sets are published
    salt: str = ""  # another one gives another division
    copies: bool = False  # as FLAC, parts cut out
    punctuation: bool = False  # whether marks and symbols are labels
    language: str = ""  # of the texts, ISO 639, for the case of labels
    numerals: str = "keep"  # digits in texts; or "refuse" them
    workers: int = 4  # threads that read recordings


def of_corpus(name: str, data_path: Path) -> Destination:
    """``NAME_{train,val,test}_manifest.jsonl``, which ``--data.dataset=NAME`` finds, and ``NAME_labels.json``."""
    return Destination(
        folder=data_path,
        manifest=f"{name}_{{split}}_manifest.jsonl",
        labels=f"{name}_labels.json",
        form="jsonl",
        copies=f"{name}_dataset",
        left_out=f"{name}_left_out.txt",
    )


def of_ones_own(folder: Path) -> Destination:
    """``train.csv``, ``val.csv``, ``test.csv`` and ``labels.json`` in a folder.

    Raises:
      InputError: the folder has one of them.
    """
    found = Destination(folder, "{split}.csv", "labels.json", "csv", "flac", "left_out.txt")
    written = [folder / name for name in (*(found.manifest.format(split=split) for split in SPLITS), found.labels)]
    if there := [path for path in written if path.exists()]:
        raise InputError(f"{there[0]} is there already: remove it, or name another folder with --output")
    return found


def reader_of(name: str, columns: dict[str, str]) -> Reader:
    """The function of a corpus: a published one, ``folder``, or ``table`` with the names of its columns."""
    if name == "table":
        return own_sources.table(columns)
    return own_sources.folder if name == "folder" else CORPORA[name].read


def prepare(
    name: str,
    source: Path,
    destination: Destination,
    choices: Choices,
    *,
    cfg: DataConfig,
    columns: dict[str, str] | None = None,
    progress: Progress = layout.silent,
) -> PreparedCorpus:
    """Writes the manifests and labels of a corpus that lies on the disk.

    The manifests are written last: where they exist, they are whole.

    Args:
      name: of ``readers.CORPORA``, ``folder`` or ``table``.
      source: the corpus's folder, or the one above; or the table.
      destination: what is written; its folder is made if missing.
      choices: what the user decides.
      cfg: the limits are read. Rows of ``folder`` and ``table`` that cannot be used are errors if there are more than
        ``max_unusable``; those of published corpora are left out.
      columns: of ``table``, the names of its columns by those of ``manifest_rows.ALIASES``.
      progress: called with the activity and the number of recordings that are done.

    Raises:
      InputError: the folder holds no such corpus, or no utterance can be used.
    """
    found = [*reader_of(name, columns or {})(source, choices.subset, cfg)]
    left_out = [each for each in found if isinstance(each, LeftOut)]
    journal = destination.folder / f".{name}_lengths.jsonl"
    kept = _with_lengths([each for each in found if isinstance(each, Spoken)], choices, left_out, journal, progress)
    if name not in CORPORA:
        _require_few(source, len(found), left_out, cfg)
    if not kept:
        reasons = (f" {why.number} {what}, such as {why.examples[0]}." for what, why in reasons_of(left_out).items())
        raise InputError(f"{source}: no utterance of {name} can be used.{''.join(reasons)}")
    kept, by_recordings = _in_sets(kept, choices)
    if not any(each.split == "train" for each, _ in kept):
        remedy = CORPORA[name].parts if name in CORPORA else "Name a set train."
        raise InputError(f"{source}: no training utterances of {name} are here. {remedy}")
    layout.make_folder(destination.folder)
    sets = _sets(kept, destination, choices, left_out, cfg, progress)
    return PreparedCorpus(
        name,
        source,
        tuple(_size(split, members) for split, members in sets.items()),
        *_written(name, sets, destination, choices),
        reasons_of(left_out),
        write_list(destination.folder / destination.left_out, left_out),
        by_recordings,
    )


Kept = tuple[Spoken, Utterance]


def _with_lengths(
    spoken: Sequence[Spoken], choices: Choices, left_out: list[LeftOut], journal: Path, progress: Progress
) -> list[Kept]:
    """The utterances that can be used, with their durations; the others join ``left_out``."""
    lengths: dict[Path, float | InputError] = {}
    kept = []
    with LengthJournal(journal) as noted:

        def opened(each: Spoken) -> Kept | LeftOut:
            if each.audio not in lengths and (seconds := noted.length(each.audio)) is not None:
                lengths[each.audio] = seconds
            return _opened(each, choices, lengths)

        for result in in_threads(opened, spoken, choices.workers, lambda *done: progress("reading headers", *done)):
            if isinstance(result, LeftOut):
                left_out.append(result)
            else:
                kept.append(result)
                recording = result[0].audio
                if isinstance(seconds := lengths[recording], float):
                    noted.note(recording, seconds)
    return kept


def _opened(each: Spoken, choices: Choices, lengths: dict[Path, float | InputError]) -> Kept | LeftOut:
    said = " ".join(each.text.replace(UNKNOWN, " ").split())
    if said != each.text and choices.unknown_words == "leave_out":
        return LeftOut(f"with {UNKNOWN}, a word that is not known", _place(each))
    if not said:
        return LeftOut("without words", _place(each))
    speaker = division.speaker_in(each.audio, choices.speaker) if choices.speaker else each.speaker
    row = Row(str(each.audio), each.audio, said, each.start, each.seconds, speaker, each.lang)
    try:
        utterance = manifests.opened(row, 0, lengths)
    except InputError as error:
        opened = not isinstance(lengths[each.audio], InputError)
        return LeftOut(_OUTSIDE if opened else _BROKEN if each.audio.exists() else _MISSING, str(error))
    if utterance.duration < choices.min_duration:
        return LeftOut(_SHORT, _place(each))
    if utterance.duration > choices.max_duration:
        return LeftOut(_LONG, _place(each))
    return each._replace(speaker=speaker), utterance


def _place(each: Spoken) -> str:
    return f"{each.audio} (from {each.start:g} s)" if each.start else str(each.audio)


def _require_few(source: Path, rows: int, left_out: Sequence[LeftOut], cfg: DataConfig) -> None:
    """Requires of the user's own recordings that no more than ``max_unusable`` rows are faulty."""
    faults = [
        Problem.of("", InputError(each.where))
        for each in left_out
        if each.why in (own_sources.FAULTY, _MISSING, _BROKEN, _OUTSIDE)
    ]
    problems.require_few([Checked("", str(source), rows, faults)], limit=cfg.max_unusable)


def _in_sets(kept: Sequence[Kept], choices: Choices) -> tuple[list[Kept], bool]:
    """The utterances with their sets, and whether they were divided by recordings, as speakers are unknown.

    Raises:
      InputError: there are fewer than three speakers, or recordings.
    """
    if all(each.split for each, _ in kept):
        return list(kept), False
    by_recordings = not all(each.speaker for each, _ in kept)
    groups = [str(each.audio) if by_recordings else each.speaker for each, _ in kept]
    what = "recordings" if by_recordings else "speakers"
    splits = division.by_groups(groups, held_out=choices.held_out, what=what, salt=choices.salt)
    divided = [(each._replace(split=split), said) for (each, said), split in zip(kept, splits, strict=True)]
    return divided, by_recordings


def _sets(
    kept: Sequence[Kept],
    destination: Destination,
    choices: Choices,
    left_out: list[LeftOut],
    cfg: DataConfig,
    progress: Progress,
) -> dict[str, list[Utterance]]:
    """The utterances of every split, with copies of their recordings where these are asked for."""
    utterances: Sequence[Utterance | InputError] = [said for _, said in kept]
    if choices.copies:
        folder = destination.folder / destination.copies
        utterances = flac_copies.copies(
            [said for _, said in kept], folder, cfg=cfg, workers=choices.workers, progress=progress
        )
    sets: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for (each, _), said in zip(kept, utterances, strict=True):
        if isinstance(said, InputError):
            left_out.append(LeftOut(_BROKEN, str(said)))
        else:
            sets[each.split].append(said)
    return sets


def _written(
    name: str, sets: dict[str, list[Utterance]], destination: Destination, choices: Choices
) -> tuple[dict[str, Path], Path, tuple[str, ...], Counter[str]]:
    """Writes labels and manifests; their paths, the labels and the characters of the texts."""
    # A published test set may hold what nobody can learn from the training set. Of one's own texts all count.
    taught = sets["train"] if name in CORPORA else [each for members in sets.values() for each in members]
    said = [each.transcript for each in taught]
    characters = label_lists.characters(said, language=choices.language, numerals=choices.numerals)
    labels_path = destination.folder / destination.labels
    labels = label_lists.of(characters, punctuation=choices.punctuation)
    label_lists.write(labels_path, labels)
    paths = {}
    for split, members in sets.items():
        path = destination.folder / destination.manifest.format(split=split)
        path.unlink(missing_ok=True)
        if members:
            paths[split] = path
            manifest_forms.write_form(path, destination.form, members, [each.transcript for each in members])
    return paths, labels_path, labels, characters


def _size(split: str, members: Sequence[Utterance]) -> CorpusSplit:
    words = [word for each in members for word in each.transcript.split()]
    return CorpusSplit(
        split=split,
        utterances=len(members),
        speakers=len({each.speaker for each in members} - {""}),
        words=len(words),
        characters=sum(map(len, words)),
        seconds=sum(each.duration for each in members),
    )
