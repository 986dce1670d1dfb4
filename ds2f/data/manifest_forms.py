"""The forms in which manifests are written: ``write_form``. All of them are read back by ``manifests.read``."""

import gzip
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ds2f.data import manifest_listing, manifests
from ds2f.data.manifest_tables import table_of_cells, unmistakable
from ds2f.data.manifests import Utterance, shown_from
from ds2f.data.shards import member
from ds2f.data.sound_files import opened
from ds2f.errors import InputError
from ds2f.files import json_text, write_atomically

FIELDS = ("audio_filepath", "offset", "duration", "text", "speaker", "lang")
_OF_SUFFIX = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "jsonl", ".gz": "lhotse"}
_DIGITS = 6  # of seconds: a sample of 192 kHz lasts 5 microseconds

Texts = Sequence[Path | str]  # of every utterance: the file of its transcript, or the text itself


class SoundFacts(NamedTuple):
    """What Lhotse's cuts say of a recording."""

    rate: int  # hertz
    samples: int  # of a channel
    channels: int


def form_of(path: Path, asked: str = "") -> str:
    """The form of a manifest to write: the one that is asked for, or the one of the file's suffix.

    Raises:
      InputError: the suffix is no form's.

    >>> form_of(Path("train.jsonl")), form_of(Path("cuts.jsonl.gz")), form_of(Path("cuts.jsonl"), "lhotse")
    ('jsonl', 'lhotse', 'lhotse')
    """
    if found := asked or _OF_SUFFIX.get(path.suffix.lower(), ""):
        return found
    raise InputError(f"{path}: the suffix tells no form; name it {', '.join(_OF_SUFFIX)}, or name the form with --form")


def write_form(path: Path, form: str, utterances: Sequence[Utterance], texts: Texts) -> None:
    """Writes a manifest: all of it or, when interrupted, none of it. Then reads its rows back and compares them.

    Args:
      path: the file; a ``.gz`` at its end means that it is packed.
      form: of ``FORMS``.
      utterances: in their order.
      texts: of every utterance, for the forms ``two_columns`` and ``json``; the others contain the texts.

    Raises:
      InputError: the form cannot hold the utterances.
    """
    content = FORMS[form](path.absolute().parent, utterances, texts).encode(errors="surrogateescape")
    size = len(content)
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, fsync=True)
    _require_same(path, form, utterances, size)


def _require_same(path: Path, form: str, utterances: Sequence[Utterance], size: int) -> None:
    """Requires that the rows of a manifest of ``size`` bytes that was just written are the utterances."""
    found = manifest_listing.listing(path, size)
    reason = f"{found.problems[0].reason}; " if found.problems else ""
    try:
        rows = [(manifests.transcript_of(row, size + 1), _absolute(row.audio), row.start) for row in found.rows]
        if rows == [(each.transcript, _absolute(each.audio), _rounded(each.start)) for each in utterances]:
            return
    except InputError as error:
        reason = f"{error}; "
    path.unlink()
    raise InputError(f"{path}: the form {form} cannot hold these rows: {reason}take --form=jsonl")


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  # removes "..", and follows no link


def _jsonl(folder: Path, utterances: Sequence[Utterance], _: Texts) -> str:
    return "".join(json_text(fields_of(each, folder), ascii_only=False) + "\n" for each in utterances)


def fields_of(each: Utterance, folder: Path) -> dict[str, Any]:
    """The fields of NeMo's manifests, for a manifest in ``folder``; those that are unknown are left out."""
    fields: dict[str, Any] = {"audio_filepath": name_from(folder, each.audio)}
    if each.start is not None:
        fields["offset"] = _rounded(each.start)
    fields |= {"duration": _rounded(each.duration), "text": each.transcript}
    return fields | {name: value for name, value in (("speaker", each.speaker), ("lang", each.lang)) if value}


def name_from(folder: Path, file: Path) -> str:
    """The path of a recording as a manifest in ``folder`` names it, which is no home folder's."""
    name = shown_from(folder, file)
    return f"./{name}" if name.startswith("~") else name


def _rounded(seconds: float | None) -> float:
    return round(seconds or 0.0, _DIGITS)


def _table(separator: str) -> Callable[[Path, Sequence[Utterance], Texts], str]:
    def form(folder: Path, utterances: Sequence[Utterance], _: Texts) -> str:
        rows = [fields_of(each, folder) for each in utterances]
        used = [name for name in FIELDS if name in ("duration", "text") or any(name in row for row in rows)]
        cells = (
            [unmistakable(str(row.get(name, ""))) if name == FIELDS[0] else str(row.get(name, "")) for name in used]
            for row in rows
        )
        return table_of_cells([used, *cells], separator=separator)

    return form


def _two_columns(folder: Path, utterances: Sequence[Utterance], texts: Texts) -> str:
    if parts := [each for each in utterances if each.start is not None]:
        raise InputError(
            f"{parts[0].audio}: a part, from {parts[0].start:g} s on; two columns have no place for it. Take --form=csv"
        )
    rows = (
        (
            unmistakable(shown_from(folder, each.audio)),
            text if isinstance(text, str) else unmistakable(shown_from(folder, text)),
        )
        for each, text in zip(utterances, texts, strict=True)
    )
    return table_of_cells(rows)


def _json(folder: Path, utterances: Sequence[Utterance], texts: Texts) -> str:
    """``root_path`` is absolute, since deepspeech.pytorch counts it from the current folder."""
    samples = []
    for each, text in zip(utterances, texts, strict=True):
        fields = fields_of(each, folder)
        sample = {"wav_path": fields.pop("audio_filepath")}
        if isinstance(text, Path):
            del fields["text"]
            sample["transcript_path"] = name_from(folder, text)
        samples.append(sample | fields)
    return json_text({"root_path": str(folder), "samples": samples}, ascii_only=False) + "\n"


def _lhotse(_: Path, utterances: Sequence[Utterance], __: Texts) -> str:
    """Paths are absolute, since Lhotse counts relative ones from the current folder."""
    if shards := [each.audio for each in utterances if member(each.audio)]:
        raise InputError(f"{shards[0]}: in a tar shard, which Lhotse's cuts cannot name; take --form=jsonl")
    facts: dict[Path, SoundFacts] = {}
    used: Counter[str] = Counter()
    lines = []
    for each in utterances:
        if each.audio not in facts:
            facts[each.audio] = sound_facts(each.audio)
        path = str(each.audio.absolute())
        id = path if each.start is None else f"{path}-{round(1000 * each.start)}"
        used[id] += 1
        id = id if used[id] == 1 else f"{id}-{used[id]}"
        lines.append(json_text(cut_of(each, facts[each.audio], path=path, id=id), ascii_only=False) + "\n")
    return "".join(lines)


def sound_facts(path: Path) -> SoundFacts:
    """The rate, length and channels of a recording, from its header.

    Raises:
      InputError: the recording cannot be read.
    """
    with opened(path, str(path), whole=False, max_seconds=0.0) as (streams, _):
        found = [(sound.samplerate, len(sound), sound.channels) for sound in streams]
    rate, _, channels = found[0]
    return SoundFacts(rate, sum(round(samples * rate / own) for own, samples, _ in found), channels)


def cut_of(each: Utterance, sound: SoundFacts, *, path: str, id: str) -> dict[str, Any]:
    """The cut of an utterance, which ``manifest_lhotse.row_of_cut`` and Lhotse read.

    Args:
      each: the utterance, with its span.
      sound: facts of the recording.
      path: of the recording, as the manifest names it.
      id: of the cut, unlike every other cut's.
    """
    channels = list(range(sound.channels))
    seconds = sound.samples / sound.rate
    start = _rounded(each.start)
    span = {"duration": min(_rounded(each.duration), seconds - start), "channel": channels if len(channels) > 1 else 0}
    known = {name: value for name, value in (("language", each.lang), ("speaker", each.speaker)) if value}
    supervision = {"id": id, "recording_id": path, "start": 0.0, **span, "text": each.transcript, **known}
    recording = {
        "id": path,
        "sources": [{"type": "file", "channels": channels, "source": path}],
        "sampling_rate": sound.rate,
        "num_samples": sound.samples,
        "duration": seconds,
        "channel_ids": channels,
    }
    kind = "MultiCut" if len(channels) > 1 else "MonoCut"
    return {"id": id, "start": start, **span, "supervisions": [supervision], "recording": recording, "type": kind}


FORMS: dict[str, Callable[[Path, Sequence[Utterance], Texts], str]] = {
    "jsonl": _jsonl,
    "csv": _table(","),
    "tsv": _table("\t"),
    "two_columns": _two_columns,
    "json": _json,
    "lhotse": _lhotse,
}


def written_texts(utterances: Iterable[Utterance], folder: Path) -> list[Path]:
    """Writes the transcripts to files of a new folder, and returns their paths.

    Raises:
      InputError: the folder is there already.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise InputError(f"{folder} is there already; name a new folder") from error
    paths = []
    for number, each in enumerate(utterances):
        path = folder / f"{number:08}.txt"
        path.write_text(each.transcript + "\n", encoding="utf-8")
        paths.append(path)
    return paths
