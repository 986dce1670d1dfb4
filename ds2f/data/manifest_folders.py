"""Manifests that are folders: recordings with transcripts under the same names, and Kaldi's data folders."""

from pathlib import Path

from ds2f.data import text_grids
from ds2f.data.manifest_rows import Listing, Row, exists, path_below
from ds2f.data.problems import Problem
from ds2f.data.suffixes import CONVERTIBLE, TRANSCRIPTS, convertible, is_recording
from ds2f.errors import InputError
from ds2f.files import files_below, read_bounded

_KINDS = ("wav", "txt", "textgrid", "textgrids")  # names of folders for files of a kind, below speakers' folders


def read_folder(folder: Path, *, limit: int) -> Listing:
    """Reads a folder with Kaldi's ``wav.scp`` and ``text``, with ``wav/`` and ``txt/``, or with both side by side.

    ``wav/`` and ``txt/`` may lie in folders of speakers, and Praat's text grids in the place of transcripts.

    Args:
      folder: the folder.
      limit: of the size of Kaldi's files and of text grids, bytes.

    Raises:
      InputError: the folder holds no recordings with transcripts.
    """
    if (folder / "wav.scp").is_file():
        return _kaldi(folder, limit)
    if (folder / "wav").is_dir() and (folder / "txt").is_dir():
        return _pairs(folder, folder / "wav", folder / "txt", limit)
    found = _pairs(folder, folder, folder, limit)
    if not found.problems and not any(isinstance(row.transcript, str) or row.transcript.exists() for row in found.rows):
        raise InputError(
            f"{folder}: a folder given as manifest must contain wav/ and txt/, recordings with .txt files or text "
            "grids of the same names beside them, or Kaldi's wav.scp and text; or name the table of the recordings and "
            "transcripts"
        )
    return found


def _pairs(folder: Path, sounds: Path, texts: Path, limit: int) -> Listing:
    """Recordings below ``sounds``, and the transcripts or text grids of the same names below ``texts``."""
    nested = sounds == texts
    files = [file for file in files_below(sounds) if is_recording(file) or file.suffix.lower() in CONVERTIBLE]
    named: dict[Path, Path] = {}  # transcripts by their names without suffix
    grids: dict[Path, Path] = {}
    for file in files_below(texts):
        if file.suffix.lower() in (*TRANSCRIPTS, text_grids.SUFFIX):
            kind = grids if file.suffix.lower() == text_grids.SUFFIX else named
            kind.setdefault(_name(file, texts, nested=nested), file)
    rows: list[Row] = []
    problems: list[Problem] = []
    others = []
    left = grids | named
    for file in files:
        name = _name(file, sounds, nested=nested)
        left.pop(name, None)
        if not is_recording(file):
            others.append(file)
        elif name in grids and name not in named:
            try:
                rows += text_grids.rows_of_grid(grids[name], file, limit)
            except InputError as error:
                problems.append(Problem.of(str(grids[name]), error))
        else:
            rows.append(Row(str(file), file, named.get(name, texts / name.with_name(f"{name.name}.txt"))))
    read = {row.audio.with_suffix("") for row in rows}
    lost = [file for file in others if file.with_suffix("") not in read]  # not beside their own conversions
    problems += [
        Problem(str(file), f"{file.suffix.lower()} files cannot be read: convert it (ffmpeg -i {file.name} NAME.wav)")
        for file in lost
        if _name(file, sounds, nested=nested) in named
    ]
    remarks = [f"recordings that cannot be read: {named_types}"] if (named_types := convertible(lost)) else []
    remarks += [f"{len(left)} transcript(s) without a recording are left out"] if left else []
    return Listing(rows, problems, [f"{folder}: {remark}" for remark in remarks])


def _name(file: Path, folder: Path, *, nested: bool) -> Path:
    """What a recording and its transcript have in common: the path without suffix and, nested, without the kind."""
    name = file.relative_to(folder).with_suffix("")
    kinds = [place for place, part in enumerate(name.parts[:-1]) if nested and part.lower() in _KINDS]
    return Path(*name.parts[: kinds[-1]], *name.parts[kinds[-1] + 1 :]) if kinds else name


def _kaldi(folder: Path, limit: int) -> Listing:
    """Reads ``wav.scp``, ``text`` and, as far as they are there, ``segments`` and ``utt2spk``.

    No command in ``wav.scp`` is ever executed.
    """
    problems: list[Problem] = []
    sounds, texts = (_table(folder / name, limit, problems) for name in ("wav.scp", "text"))
    spoken_by = _table(folder / "utt2spk", limit, problems) if (folder / "utt2spk").is_file() else {}
    paths: dict[str, Path] = {}
    for name, (where, value) in sounds.items():
        try:
            paths[name] = _sound(folder, value, where)
        except InputError as error:
            problems.append(Problem.of(where, error))
    rows = []
    if (folder / "segments").is_file():
        parts = _table(folder / "segments", limit, problems)
        for name, (where, value) in parts.items():
            try:
                row = _part(name, value, where, sounds, paths, texts)
                rows.append(row and row._replace(speaker=spoken_by.get(name, ("", ""))[1]))
            except InputError as error:
                problems.append(Problem.of(where, error))
    else:
        parts = sounds
        for name, path in paths.items():
            if name in texts:
                rows.append(Row(sounds[name][0], path, texts[name][1], speaker=spoken_by.get(name, ("", ""))[1]))
            else:
                problems.append(Problem(sounds[name][0], f"{name!r} has no line in {folder / 'text'}; add it"))
    unspoken = len(texts.keys() - parts.keys())
    remarks = [f"{folder}: {unspoken} transcript(s) without a recording are left out"] if unspoken else []
    return Listing([row for row in rows if row is not None], problems, remarks)


def _sound(folder: Path, value: str, where: str) -> Path:
    """The path in a line of ``wav.scp``: from the folder or, as Kaldi has it, from the current folder."""
    if value.endswith("|"):
        raise InputError(
            f"{where}: a command, and commands in wav.scp are never executed; run it yourself, write its output to a "
            "WAV file, and name that file in the line"
        )
    path = path_below(folder, value, where)
    return path if exists(path) or not exists(Path(value)) else Path(value).absolute()


def _part(
    name: str,
    value: str,
    where: str,
    sounds: dict[str, tuple[str, str]],
    paths: dict[str, Path],
    texts: dict[str, tuple[str, str]],
) -> Row | None:
    """The row of a line of ``segments``; None if the line of its recording is a problem already."""
    fields = value.split()
    try:
        recording, (start, end) = fields[0], map(float, fields[1:3])
    except (ValueError, IndexError) as error:
        raise InputError(f"{where}: a line is UTTERANCE RECORDING START END, in seconds; write it again") from error
    if not 0 <= start < end < float("inf"):
        raise InputError(f"{where}: the part from {start:g} to {end:g} s is empty; write the line again")
    for key, table, file in ((recording, sounds, "wav.scp"), (name, texts, "text")):
        if key not in table:
            raise InputError(f"{where}: {key!r} has no line in {file}; add it")
    return Row(where, paths[recording], texts[name][1], start, end - start) if recording in paths else None


def _table(path: Path, limit: int, problems: list[Problem]) -> dict[str, tuple[str, str]]:
    """The lines of a file of Kaldi by their first words, each with its place and the rest."""
    try:
        content = read_bounded(path, limit, remedy="Raise it with --data.max_manifest_bytes.").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; a data folder of Kaldi has wav.scp and text") from error
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(content.split("\n"), start=1):
        name, _, value = line.strip().partition(" ") if "\t" not in line else line.strip().partition("\t")
        where = f"{path}:{number}"
        if name in found:
            problems.append(Problem(where, f"{name!r} is there a second time; remove one of the lines"))
        elif name:
            found[name] = (where, value.strip())
    return found
