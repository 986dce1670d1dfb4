"""Manifests: the recordings of a split, and their transcripts."""

import csv
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ds2f.config import DataConfig
from ds2f.data import audio
from ds2f.errors import InputError
from ds2f.files import read_bounded, write_atomically

_SHOWN = 5  # problems of one manifest that a message lists

_DEFAULTS = DataConfig()
_log = logging.getLogger(__name__)


class Utterance(NamedTuple):
    """One recording and its transcript."""

    id: int  # its place in the list that ``read`` returned
    audio: Path
    transcript: str  # as written, runs of white space made one space
    duration: float  # seconds


class _Row(NamedTuple):
    where: str  # manifest and line, for messages
    audio: Path
    transcript: Path


def read(path: str | Path, *, cfg: DataConfig = _DEFAULTS) -> list[Utterance]:
    """Reads a manifest and checks every file that it names.

    Three forms are understood: CSV with two columns, the audio file and the transcript file, as deepspeech.pytorch V2
    writes it; its V3 JSON, ``{"root_path": ..., "samples": [{"wav_path": ..., "transcript_path": ...}]}``; and a
    folder with ``wav/`` and ``txt/``. Relative paths count from the manifest's own folder (JSON: from ``root_path``).
    A byte-order mark and Windows line ends are accepted. Repeated rows are dropped. The numbers of dropped rows and of
    empty transcripts are logged.

    Args:
      path: the manifest file, or the folder.
      cfg: the limits of sizes are read.

    Returns:
      The utterances in the order of the manifest, with durations from the recordings' headers.

    Raises:
      InputError: the manifest is missing, empty, too large or malformed, or files that it names are missing, too large
        or unusable; the message lists the first of them with their lines.
    """
    path = Path(path)
    rows, repeated = _require_rows(path, cfg)
    if repeated:
        _log.warning("%s: %d repeated row(s) dropped", path, repeated)
    utterances: list[Utterance] = []
    problems: list[str] = []
    for row in rows:
        try:
            transcript = _read_transcript(row, cfg.max_text_bytes)
            utterances.append(Utterance(len(utterances), row.audio, transcript, audio.info(row.audio).duration))
        except InputError as error:
            problems.append(f"{row.where}: {error}")
    if problems:
        raise InputError(_listed(f"{path}: {len(problems)} of {len(rows)} rows cannot be used", problems))
    if silent := sum(not utterance.transcript for utterance in utterances):
        _log.warning("%s: %d transcript(s) are empty", path, silent)
    return utterances


def require(path: str | Path, *, cfg: DataConfig = _DEFAULTS) -> None:
    """Reads the rows of a manifest, but none of the files that they name: a quick check before slow work.

    Raises:
      InputError: the manifest is missing, empty, too large or malformed.
    """
    _require_rows(Path(path), cfg)


def _require_rows(path: Path, cfg: DataConfig) -> tuple[list[_Row], int]:
    """The distinct rows of a manifest, at least one, and the number of repeated ones."""
    rows, repeated = _distinct(_rows(path, cfg.max_manifest_bytes))
    if not rows:
        raise InputError(f"{path}: the manifest names no recordings; write it again with python -m launch.prepare")
    return rows, repeated


def write(path: str | Path, rows: Iterable[tuple[Path, Path]]) -> None:
    """Writes a CSV manifest of (audio, transcript) paths: all of it or, when interrupted, none of it."""
    path = Path(path)
    content = text(rows, folder=path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, fsync=True)


def text(rows: Iterable[tuple[Path, Path]], *, folder: Path) -> str:
    """The text of a CSV manifest that lies in ``folder``.

    Paths below the folder are relative, so that it can be moved with its recordings; other paths are absolute.
    """
    folder = folder.absolute()

    def shown(file: Path) -> str:
        file = file.absolute()
        return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)

    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows((shown(sound), shown(words)) for sound, words in rows)
    return lines.getvalue()


def _rows(path: Path, limit: int) -> Iterator[_Row]:
    try:
        if path.is_dir():
            return _folder_rows(path)
        content = read_bounded(path, limit, remedy="Raise it with --data.max_manifest_bytes.").decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such manifest. Make the data with python -m launch.prepare --dataset=an4 (or synthetic), or "
            "name a manifest with --data.train_manifest, --data.val_manifest and --data.test_manifest (launch.splice "
            f"writes joined utterances).{_other_corpora(path)}"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the manifest as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check the path and its permissions") from error
    return _json_rows(path, content) if path.suffix.lower() == ".json" else _csv_rows(path, content)


def _other_corpora(path: Path) -> str:
    """Says which corpora lie in the folder where the manifest of a corpus is missing."""
    split = path.name.partition("_")[2]
    found = sorted(other.name.removesuffix(f"_{split}") for other in path.parent.glob(f"*_{split}") if other != path)
    names = ", ".join(f"--data.dataset={name}" for name in found[:3])
    return f" {path.parent} holds another corpus: {names}." if names and split else ""


def _csv_rows(path: Path, content: str) -> Iterator[_Row]:
    reader = csv.reader(content.splitlines(), strict=True)
    try:
        for columns in reader:
            if not any(column.strip() for column in columns):
                continue
            where = f"{path}:{reader.line_num}"
            if len(columns) != 2 or not all(column.strip() for column in columns):
                raise InputError(
                    f"{where}: {len(columns)} column(s): {','.join(columns)[:80]!r}. A row is the path of a recording, "
                    "a comma and the path of its transcript; put a path that contains a comma in double quotes."
                )
            sound, transcript = (_below(path.parent, column.strip(), where) for column in columns)
            yield _Row(where, sound, transcript)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: {error}; check the quotes of that row") from error


def _json_rows(path: Path, content: str) -> Iterator[_Row]:
    try:
        listing: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        where = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise InputError(f"{where}: not JSON: {error}; write the manifest again") from error
    samples = listing.get("samples") if isinstance(listing, dict) else None
    if not isinstance(samples, list):
        raise InputError(f'{path}: no list "samples"; a JSON manifest is {{"root_path": ..., "samples": [...]}}')
    root = path.parent / str(listing.get("root_path") or "")
    for index, sample in enumerate(samples):
        try:
            sound, transcript = str(sample["wav_path"]), str(sample["transcript_path"])
        except (KeyError, TypeError, IndexError) as error:
            raise InputError(f'{path}: samples[{index}]: needs "wav_path" and "transcript_path"') from error
        where = f"{path}: samples[{index}]"
        yield _Row(where, _below(root, sound, where), _below(root, transcript, where))


def _below(folder: Path, name: str, where: str) -> Path:
    """The path that a row names; raises if it cannot be the path of a file."""
    try:
        spelt = os.fsencode(name)
    except UnicodeEncodeError:
        spelt = b"\0"
    if b"\0" in spelt:
        raise InputError(f"{where}: {ascii(name)[:200]} cannot be a path; write the manifest again")
    return folder / name


def _folder_rows(folder: Path) -> Iterator[_Row]:
    if not (folder / "wav").is_dir() or not (folder / "txt").is_dir():
        raise InputError(f"{folder}: a folder given as manifest must contain wav/ and txt/; or name a manifest file")
    sounds = sorted(file for file in (folder / "wav").rglob("*") if file.suffix.lower() in audio.SUFFIXES)
    words = [folder / "txt" / sound.relative_to(folder / "wav").with_suffix(".txt") for sound in sounds]
    unspoken = len(set((folder / "txt").rglob("*.txt")).difference(words))
    if unspoken:
        _log.warning("%s: %d transcript(s) without a recording are left out", folder, unspoken)
    for sound, transcript in zip(sounds, words, strict=True):
        yield _Row(str(sound), sound, transcript)


def _distinct(rows: Iterable[_Row]) -> tuple[list[_Row], int]:
    """The rows without repetitions, and the number of repetitions."""
    first: dict[tuple[Path, Path], _Row] = {}
    count = 0
    for row in rows:
        count += 1
        first.setdefault((row.audio, row.transcript), row)
    return list(first.values()), count - len(first)


def _read_transcript(row: _Row, limit: int) -> str:
    try:
        content = read_bounded(row.transcript, limit, remedy="Raise it with --data.max_text_bytes.")
        return " ".join(content.decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise InputError(f"{row.transcript}: byte {error.start} is not UTF-8; save the transcript as UTF-8") from error
    except OSError as error:
        raise InputError(f"{row.transcript}: {error.strerror}; add the transcript or remove the row") from error


def _listed(headline: str, problems: list[str]) -> str:
    more = len(problems) - _SHOWN
    return "\n  ".join([f"{headline}:", *problems[:_SHOWN], *([f"... and {more} more"] if more > 0 else [])])
