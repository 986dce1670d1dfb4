"""Manifests that are tables: CSV and TSV, with a header row or without."""

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ds2f.data.manifest_rows import (
    AUDIO,
    TEXT,
    TEXT_FILE,
    Listing,
    Row,
    exists,
    from_fields,
    path_below,
    renaming,
    require_names,
    with_files,
)
from ds2f.data.problems import Problem
from ds2f.data.suffixes import CONVERTIBLE, READABLE
from ds2f.errors import InputError

_SEPARATORS = ("\t", ",", ";", "|")
_SUBFOLDERS = ("clips", "wavs", "wav", "audio")  # of recordings that a table names without their folder
_SHOWN = 80  # characters of a malformed row that a message quotes


def read_table(path: Path, content: str, columns: Mapping[str, str] = MappingProxyType({})) -> Listing:
    """Reads a table of recordings and transcripts.

    A header row names the columns, in any order and number (``manifest_rows.AUDIO`` and so on). Without one there are
    two: the recording, and its transcript. The separator is the character behind the first column: tab, comma,
    semicolon or bar. Cells with a separator or a line break are put in double quotes; in TSV, quotes that do not
    enclose cells are text.

    Transcripts are names of files if most of them are names of files that exist, or if all end in .txt or .lab.
    Otherwise they are the text. Relative paths count from the table's folder or, if its first recording is not there,
    from ``clips``, ``wavs``, ``wav`` or ``audio`` in it.

    Args:
      path: the table, for its place and its suffix.
      content: its text.
      columns: the names of its columns by those of ``manifest_rows.ALIASES``, where they are no known ones.

    Raises:
      InputError: the header names no column of recordings, or none of transcripts.
    """
    problems: list[Problem] = []
    lines = _lines(path, content, problems, header=bool(columns))
    if lines and (columns or _is_header(*(cells for _, cells in lines[:2]))):
        names = renaming(columns)(lines[0][1], f"{path}:{lines[0][0]}")
        require_names(f"{path}:{lines[0][0]}", names, thing="column")
        lines = lines[1:]
    else:
        names = []
    rows = []
    for number, cells in lines:
        try:
            rows.append(_row(path, number, cells, names))
        except InputError as error:
            problems.append(Problem.of(f"{path}:{number}", error))
    rows = with_files(_in_subfolder(rows, path.parent), path.parent, problems, texts_may_be_empty=bool(names))
    return Listing(rows, problems)


def table_text(rows: Iterable[tuple[str, str]]) -> str:
    """The text of a CSV table of recordings and names of transcripts, which ``read_table`` reads back as written."""
    return table_of_cells((unmistakable(sound), unmistakable(words)) for sound, words in rows)


def table_of_texts(rows: Iterable[tuple[str, str]]) -> str:
    """The text of a CSV table of recordings and transcripts, with a header row."""
    return table_of_cells([("audio", "text"), *((unmistakable(sound), text) for sound, text in rows)])


def table_of_cells(rows: Iterable[Iterable[str]], *, separator: str = ",") -> str:
    """The text of a table, with its cells in double quotes where they need them."""
    return "".join(separator.join(_quoted(cell, separator) for cell in row) + "\n" for row in rows)


def unmistakable(name: str) -> str:
    """A name that is neither a home, a byte-order mark, space that is stripped, nor a header."""
    misread = name[:1] in ("~", "\ufeff", " ", "\t") or _is_header([name])
    return f"./{name}" if misread else name


def _quoted(cell: str, separator: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if {*cell} & {separator, '"', "\n", "\r"} else cell


def _row(path: Path, number: int, cells: list[str], names: list[str]) -> Row:
    where = f"{path}:{number}"
    if names:
        if len(cells) > len(names):
            raise InputError(f"{where}: {len(cells)} columns, the header names {len(names)}; {_advice(cells)}")
        return from_fields(dict(zip(names, cells, strict=False)), path.parent, where)
    if len(cells) != 2 or not cells[0].strip():
        raise InputError(
            f"{where}: {len(cells)} column(s): {','.join(cells)[:_SHOWN]!r}. A row is the path of a recording, a comma "
            f"and the transcript or the path of its file; {_advice(cells)}"
        )
    return Row(where, path_below(path.parent, cells[0], where), cells[1])


def _advice(cells: list[str]) -> str:
    many = "; name the columns in a first row, such as audio,text,duration" if len(cells) > 2 else ""
    return f"put a cell that contains a comma in double quotes{many}"


def _lines(path: Path, content: str, problems: list[Problem], *, header: bool) -> list[tuple[int, list[str]]]:
    """The rows that are not blank, with their last lines' numbers, up to the first row that cannot be read."""
    separator = _separator(path, content, header=header)
    found, error = _parsed(content, separator, quotes=True)
    if error and separator == "\t":
        found, error = _parsed(content, separator, quotes=False)
    if error:
        last = found[-1][0] if found else 0
        problems.append(Problem(f"{path}:{last + 1}", f"{error}; check the quotes from that row on"))
    return found


def _parsed(content: str, separator: str, *, quotes: bool) -> tuple[list[tuple[int, list[str]]], str]:
    """The rows up to the first that cannot be read, and why it cannot."""
    lines = io.StringIO(content, newline="")  # a line break in quotes stays as it is
    how: Any = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=separator, strict=True, quoting=how)
    found: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((reader.line_num, cells))
    except csv.Error as error:
        return found, str(error)
    return found, ""


def _separator(path: Path, content: str, *, header: bool) -> str:
    usual = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    for separator in (usual, *_SEPARATORS):
        rows = _first_rows(content, separator)
        if rows and len(rows[0]) > 1 and (header or _is_header(*rows) or _is_recording(rows[0][0])):
            return separator
    return usual


def _first_rows(content: str, separator: str) -> list[list[str]]:
    """The first two rows that are not blank."""
    try:
        rows = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
        return list(itertools.islice((cells for cells in rows if any(cell.strip() for cell in cells)), 2))
    except csv.Error:
        return []


def _is_recording(cell: str) -> bool:
    return Path(cell.strip()).suffix.lower() in READABLE | CONVERTIBLE


def _is_header(cells: list[str], below: Sequence[str] = ()) -> bool:
    """Whether a row names columns: in known words, or in words above a row with a recording."""
    if any(map(_is_recording, cells)):
        return False
    known = {cell.strip().lower() for cell in cells} & {*AUDIO, *TEXT, *TEXT_FILE}
    words = len(cells) == len(below) > 1 and not any("/" in cell or Path(cell.strip()).suffix for cell in cells)
    return bool(known) or (words and any(map(_is_recording, below)))


def _in_subfolder(rows: list[Row], folder: Path) -> list[Row]:
    """The rows, with recordings in the subfolder that holds the first of them, if that is not in the folder itself."""
    if not rows or exists(rows[0].audio) or not rows[0].audio.is_relative_to(folder):
        return rows
    name = rows[0].audio.relative_to(folder)
    for subfolder in _SUBFOLDERS:
        if exists(folder / subfolder / name):
            return [
                row._replace(audio=folder / subfolder / row.audio.relative_to(folder))
                if row.audio.is_relative_to(folder)
                else row
                for row in rows
            ]
    return rows
