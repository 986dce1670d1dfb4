"""Manifests in JSON: deepspeech.pytorch V3's, a list of rows, a row per line as NeMo writes it, and Lhotse's cuts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ds2f.data.manifest_lhotse import is_cut, refuse_halves, row_of_cut
from ds2f.data.manifest_rows import Listing, Row, from_fields, renaming, require_names, with_files
from ds2f.data.problems import Problem
from ds2f.errors import InputError

LINES = (".jsonl", ".ndjson")  # suffixes of files with a row per line


def read_json(path: Path, content: str, columns: Mapping[str, str] = MappingProxyType({})) -> Listing:
    """Reads ``{"root_path": ..., "samples": [...]}``, a list of objects, or an object per line.

    The objects have the fields of ``manifest_rows.from_fields``, or are Lhotse's cuts. Relative paths count from
    ``root_path``, which counts from the manifest's folder, or from the manifest's folder.

    Args:
      path: the manifest, for its place and its suffix.
      content: its text.
      columns: the names of its fields by those of ``manifest_rows.ALIASES``, where they are no known ones.

    Raises:
      InputError: the file is no JSON, holds no rows, or none of the rows names a recording or a transcript.
    """
    if path.suffix.lower() in LINES:
        return _by_line(path, content, columns)
    try:
        listing: Any = json.loads(content)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise InputError(f"{path}:{error.lineno}: not JSON: {error}; write the manifest again") from error
        return _by_line(path, content, columns)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}; write the manifest again") from error
    root, where, samples = path.parent, f"{path}: row {{}}", listing
    if isinstance(listing, dict) and "samples" in listing:
        root, where, samples = root / str(listing.get("root_path") or ""), f"{path}: samples[{{}}]", listing["samples"]
    elif isinstance(listing, dict) and listing:
        samples = [listing]
    if not isinstance(samples, list):
        raise InputError(
            f'{path}: no list "samples"; a JSON manifest is {{"root_path": ..., "samples": [...]}}, or an object a line'
        )
    return _listing(path, [(where.format(index), sample) for index, sample in enumerate(samples)], root, columns)


def _by_line(path: Path, content: str, columns: Mapping[str, str]) -> Listing:
    problems: list[Problem] = []
    samples = []
    for number, line in enumerate(content.split("\n"), start=1):
        try:
            if line.strip():
                samples.append((f"{path}:{number}", json.loads(line)))
        except (ValueError, RecursionError) as error:
            problems.append(Problem(f"{path}:{number}", f"not JSON: {error}; write the row again"))
    found = _listing(path, samples, path.parent, columns)
    return found._replace(problems=problems + found.problems)


def _listing(path: Path, samples: Sequence[tuple[str, Any]], folder: Path, columns: Mapping[str, str]) -> Listing:
    cuts = any(is_cut(sample) for _, sample in samples)
    if samples and not cuts:
        refuse_halves(samples[0][1], path)
    if columns:
        samples = _renamed(path, samples, columns)
    names = [name.strip().lower() for _, sample in samples if isinstance(sample, dict) for name in sample]
    if names and not cuts:
        require_names(str(path), names, thing="field")
    rows: list[Row] = []
    problems: list[Problem] = []
    for where, sample in samples:
        try:
            row = row_of_cut if is_cut(sample) else from_fields
            rows.append(row(sample if isinstance(sample, dict) else {}, folder, where))
        except InputError as error:
            problems.append(Problem.of(where, error))
    return Listing(rows if cuts else with_files(rows, folder, problems), problems)


def _renamed(path: Path, samples: Sequence[tuple[str, Any]], columns: Mapping[str, str]) -> list[tuple[str, Any]]:
    """The objects with the names of fields in place of their own."""
    given = list(dict.fromkeys(name for _, sample in samples if isinstance(sample, dict) for name in sample))
    names = dict(zip(given, renaming(columns)(given, str(path)), strict=True))
    return [
        (where, {names[name]: value for name, value in sample.items()} if isinstance(sample, dict) else sample)
        for where, sample in samples
    ]
