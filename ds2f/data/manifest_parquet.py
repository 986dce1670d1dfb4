"""Manifests that are tables in Parquet: names of recordings, transcripts and so on in columns. Needs pyarrow."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from ds2f.data.manifest_rows import ALIASES, Listing, Row, from_fields, renaming, require_names, with_files
from ds2f.data.problems import Problem
from ds2f.errors import InputError
from ds2f.extras import import_extra
from ds2f.files import json_text

MAGIC = b"PAR1"  # at the beginning of every file
_ROWS = 1000  # read at a time
_SHOWN = 200  # characters of pyarrow's reason
_CHILD = """
import json, sys
order = json.loads(sys.argv[1])
sys.path[:] = order["sys.path"]
from ds2f.data.manifest_parquet import print_fields
print_fields(order, sys.stdin.buffer.read())
"""


def read_parquet(path: Path, content: bytes, limit: int, columns: Mapping[str, str]) -> Listing:
    """Reads a table in Parquet. Columns that name nothing of a manifest are not decoded.

    A process of its own decodes the table: pyarrow ends its process at some damaged files.

    Args:
      path: the table, for its place.
      content: its bytes.
      limit: of what is unpacked, bytes.
      columns: the names of its columns by those of ``manifest_rows.ALIASES``, where they are no known ones.

    Raises:
      InputError: pyarrow is missing, or the file is damaged, too large, or has no such columns.
    """
    _pyarrow("pyarrow")
    order = json_text({"sys.path": sys.path, "path": str(path), "limit": limit, "columns": dict(columns)})
    done = subprocess.run([sys.executable, "-c", _CHILD, order], input=content, capture_output=True, check=False)
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["it ended"])[-1].strip()
        raise InputError(f"{path}: no Parquet that can be read ({reason[:_SHOWN]}); write the table again")
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, line in enumerate(done.stdout.split(b"\n")[:-1], start=1):
        fields = json.loads(line)
        where = f"{path}: row {number}"
        if isinstance(fields, str):
            raise InputError(fields)
        try:
            rows.append(from_fields(fields, path.parent, where))
        except InputError as error:
            problems.append(Problem.of(where, error))
    return Listing(with_files(rows, path.parent, problems), problems)


def print_fields(order: Mapping[str, Any], content: bytes) -> None:
    """Prints the fields of each row as a line of JSON, or a text: the message of an ``InputError``."""
    try:
        for fields in _decoded(Path(order["path"]), content, order["limit"], order["columns"]):
            print(json_text({name: _plain(value) for name, value in fields.items()}))
    except InputError as error:
        print(json_text(str(error)))


def _plain(value: Any) -> Any:
    """A value of a cell for JSON: exact and infinite numbers, and spans of time, as numbers are read from tables."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal) or (isinstance(value, float) and math.isinf(value)):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else {}


def _decoded(path: Path, content: bytes, limit: int, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The rows by the names of fields."""
    arrow, parquet, compute = (_pyarrow(name) for name in ("pyarrow", "pyarrow.parquet", "pyarrow.compute"))
    file = parquet.ParquetFile(arrow.BufferReader(content))
    given = file.schema_arrow.names
    names = dict(zip(given, renaming(columns)(given, str(path)), strict=True))
    require_names(str(path), names.values(), thing="column")
    used = [name for name, meant in names.items() if any(meant in aliases for aliases in ALIASES.values())]
    texts = [name for name in used if file.schema_arrow.field(name).type in (arrow.string(), arrow.large_string())]
    # Texts stay in dictionaries until their sizes are known: one of a megabyte, said to repeat in a million rows, takes
    # no room in the file.
    file = parquet.ParquetFile(arrow.BufferReader(content), read_dictionary=texts)
    for fields in _fields(path, file, used, limit, compute):
        yield {names[name]: value for name, value in fields.items()}


def _pyarrow(module: str) -> Any:
    return import_extra(module, need="tables in Parquet need pyarrow", remedy="pip install 'ds2f[parquet]'")


def _fields(path: Path, file: Any, used: list[str], limit: int, compute: Any) -> Iterator[dict[str, Any]]:
    """The rows, as long as their texts are not larger than the limit.

    Raises:
      InputError: they are.
    """
    packed = sum(
        file.metadata.row_group(group).column(column).total_uncompressed_size
        for group in range(file.metadata.num_row_groups)
        for column in range(file.metadata.num_columns)
        if file.metadata.row_group(group).column(column).path_in_schema.partition(".")[0] in used
    )
    left = limit - packed
    for batch in file.iter_batches(batch_size=_ROWS, columns=used) if left >= 0 else ():
        for column in batch.columns:
            if hasattr(column, "dictionary"):
                sizes = compute.binary_length(column.dictionary).take(column.indices)
                left -= compute.sum(sizes).as_py() or 0
            else:
                left -= column.nbytes
        if left < 0:
            break
        yield from batch.to_pylist()
    if left < 0:
        raise InputError(
            f"{path}: unpacks to more than {limit:,} bytes; raise the limit with --data.max_manifest_bytes"
        )
