"""Rows of manifests, and their fields by name: the same names in header rows and in JSON."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ds2f.data.manifest_paths import split_of_name
from ds2f.data.problems import Problem
from ds2f.data.suffixes import TRANSCRIPTS
from ds2f.errors import InputError
from ds2f.files import expand_home

AUDIO = (
    *("audio_filepath", "audio_path", "audio_file", "audio_filename", "audio", "wav_path", "wav_filename", "wav_file"),
    *("wav", "file_name", "filename", "filepath", "file", "path", "recording", "clip", "sound"),
)
TEXT = ("text", "transcript", "transcription", "sentence", "utterance", "raw_transcription", "normalized_text")
TEXT_FILE = (
    *("transcript_path", "transcript_filepath", "transcript_file", "text_path", "text_filepath", "text_file"),
    *("txt_path", "txt_file", "txt"),
)
START, SECONDS, END = ("offset", "start", "start_time"), ("duration",), ("end", "end_time")
SPEAKER = ("speaker", "speaker_id", "speaker_name", "spk", "spk_id", "client_id")
LANG = ("lang", "language", "locale", "language_id")
SPLIT = ("split", "set", "subset")
ALIASES = {  # names of fields, by the names of --columns
    "audio": AUDIO,
    "text": TEXT,
    "text_file": TEXT_FILE,
    "speaker": SPEAKER,
    "lang": LANG,
    "offset": START,
    "duration": SECONDS,
    "end": END,
    "split": SPLIT,
}
_SHOWN = 200  # characters of the names that a message quotes
_TRIED = 1000  # rows whose transcripts are looked for as files before they count as text


class Row(NamedTuple):
    """A row of a manifest."""

    where: str  # manifest and line, for messages
    audio: Path
    transcript: Path | str  # the file, or the text itself
    start: float = 0.0  # of the part of the recording, seconds
    seconds: float | None = None  # length of the part; None: to the recording's end
    speaker: str = ""  # empty: unknown
    lang: str = ""  # language; empty: unknown
    split: str = ""  # train, val or test, where the manifest is of all of them


class Listing(NamedTuple):
    """What a manifest says, before any file that it names was opened."""

    rows: list[Row]
    problems: list[Problem]  # rows that are malformed
    remarks: Sequence[str] = ()


def path_below(folder: Path, name: str, where: str) -> Path:
    """The path that a row names, with ``~`` expanded.

    Raises:
      InputError: it cannot be the path of a file.
    """
    try:
        spelt = os.fsencode(name)
    except UnicodeEncodeError:
        spelt = b"\0"
    if b"\0" in spelt:
        raise InputError(f"{where}: {ascii(name)[:200]} cannot be a path; write the manifest again")
    if name != name.strip() and not exists(folder / name):
        name = name.strip()
    return folder / expand_home(name)


def exists(path: Path) -> bool:
    """Whether there is such a file; false for a folder, and for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def from_fields(fields: Mapping[str, Any], folder: Path, where: str) -> Row:
    """The row of fields by name. Unknown fields are ignored; names may be in any case.

    Raises:
      InputError: there is no recording or no transcript, or a time is no number.
    """
    values = {str(name).strip().lower(): value for name, value in fields.items()}
    audio, text, file = (_first(values, names) for names in (AUDIO, TEXT, TEXT_FILE))
    if not isinstance(audio, str) or not audio.strip() or not isinstance(text if file is None else file, str):
        raise InputError(
            f'{where}: needs a recording, as in "{AUDIO[0]}", and a text, "{TEXT[0]}", or its file, "{TEXT_FILE[0]}"'
        )
    transcript = text if file is None else path_below(folder, file, where)
    start, seconds, end = (seconds_of(values, names, where) for names in (START, SECONDS, END))
    if seconds is None and end is not None:
        if end < (start or 0.0):
            raise InputError(f"{where}: ends at {end:g} s, before it begins at {start:g} s; correct or remove the row")
        seconds = end - (start or 0.0)
    speaker, lang, split = (word_of(values, names) for names in (SPEAKER, LANG, SPLIT))
    path = path_below(folder, audio, where)
    return Row(where, path, transcript, start or 0.0, seconds, speaker, lang, split_of_name(split))


def renaming(columns: Mapping[str, str]) -> Callable[[Sequence[str], str], list[str]]:
    """A function that gives the columns of a table the names of fields: it takes them and the table's place.

    Columns with another name of a field that is named are ignored.

    Args:
      columns: the table's names by those of ``ALIASES``, as in ``{"audio": "path"}``.

    Raises:
      InputError: a name is not of ``ALIASES``; the function raises it for columns that are not there.
    """
    if strange := [ours for ours in columns if ours not in ALIASES]:
        raise InputError(f"--columns: {strange[0]!r} is none of {', '.join(ALIASES)}")
    meant = {theirs.strip().lower(): ALIASES[ours][0] for ours, theirs in columns.items()}
    others = {alias for ours in columns for alias in ALIASES[ours]} - meant.keys()

    def rename(names: Sequence[str], where: str) -> list[str]:
        given = [name.strip().lower() for name in names]
        if missing := [theirs for theirs in meant if theirs not in given]:
            raise InputError(f"{where}: no column {missing[0]!r} among {', '.join(given)[:_SHOWN]}")
        return [meant.get(name) or ("" if name in others else name) for name in given]

    return rename


def require_names(where: str, names: Iterable[str], *, thing: str) -> None:
    """Requires a name of recordings and a name of transcripts.

    Args:
      where: the manifest, for messages.
      names: of the columns or fields, in lower case.
      thing: what the names name: a column or a field.

    Raises:
      InputError: one of the names, or both, are missing.
    """
    given = dict.fromkeys(names)
    kinds = (("recordings", AUDIO, AUDIO[0]), ("transcripts", TEXT + TEXT_FILE, TEXT[0]))
    missing = [f"no {thing} of {what} (call it {name!r})" for what, known, name in kinds if not given.keys() & {*known}]
    if missing:
        raise InputError(
            f"{where}: {' and '.join(missing)} among {', '.join(given)[:_SHOWN]}; launch.prepare takes other names, as "
            "in --columns=audio=path,text=sentence"
        )


def _first(values: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def word_of(values: Mapping[str, Any], names: Iterable[str]) -> str:
    """A name of a speaker or a language; numbers are names, too. Bytes that are not UTF-8 are escaped."""
    given = _first(values, names)
    if not isinstance(given, str | int):
        return ""
    return " ".join(str(given).encode(errors="backslashreplace").decode().split())


def seconds_of(values: Mapping[str, Any], names: Iterable[str], where: str) -> float | None:
    """The number of seconds in the first of the fields that has one; None without any.

    Raises:
      InputError: it is no number, negative or infinite.
    """
    given = _first(values, names)
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    try:
        number = float(given)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise InputError(f"{where}: {next(iter(names))}: {str(given)[:40]!r} is not a number of seconds")
    return number


def with_files(rows: list[Row], folder: Path, problems: list[Problem], *, texts_may_be_empty: bool = True) -> list[Row]:
    """The rows with texts as paths, if they are paths: most of them name files, or all of them look like names.

    Args:
      rows: with texts as the manifest has them.
      folder: from which relative paths count.
      problems: takes the rows that name no transcript.
      texts_may_be_empty: whether a manifest without any text has empty transcripts, and not missing names.
    """
    texts = [row.transcript.strip() for row in rows if isinstance(row.transcript, str)]
    given = [text for text in texts if text]
    if not _name_files(given, folder) and (given or texts_may_be_empty):
        return rows
    found = []
    for row in rows:
        try:
            if not isinstance(row.transcript, Path) and not row.transcript.strip():
                raise InputError(f"{row.where}: names no transcript; add it or remove the row")
            path = row.transcript if isinstance(row.transcript, Path) else path_below(folder, row.transcript, row.where)
            found.append(row._replace(transcript=path))
        except InputError as error:
            problems.append(Problem.of(row.where, error))
    return found


def _name_files(texts: list[str], folder: Path) -> bool:
    """Whether texts are the names of files: most are names of existing files, or all end as transcripts do."""
    tried = texts[:_TRIED]
    there = sum(exists(folder / expand_home(text)) for text in tried)
    return bool(texts) and (2 * there >= len(tried) or all(map(_looks_like_a_file, texts)))


def _looks_like_a_file(text: str) -> bool:
    return "\0" in text or Path(text).suffix.lower() in TRANSCRIPTS
