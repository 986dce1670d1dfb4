"""The archive of a program of ``torch.export``, ``.pt2``, read without torch's reader.

torch's reader unpickles sample inputs, constants and whatever else the archive names, loads machine code that lies in
it, and executes expressions of its graph. Nothing of this happens here: the archive is a zip file whose entries have
known names and sizes, none of them a pickle. Of its weights the raw bytes are read; ``program_check`` looks at the
graph.
"""

import re
import zipfile
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ds2f.checkpoint import exported
from ds2f.checkpoint.exported import About
from ds2f.checkpoint.leaves import require_finite
from ds2f.errors import InputError
from ds2f.export import program_names
from ds2f.files import open_regular
from ds2f.text import shown

SUFFIX = ".pt2"
_GRAPH, _WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
_CONSTANTS, _SAMPLE = "data/constants/model_constants_config.json", "data/sample_inputs/model.pt"
_EXTRA, _WEIGHT = "extra/", "data/weights/"
_SMALL = {  # entries that torch writes beside them, and nobody reads here
    *("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id", _CONSTANTS, _SAMPLE),
}
_NAME = re.compile(r"weight_\d{1,6}")
_JSON = 16 << 20  # bytes of the graph; that of 5 layers has 0.3 million
_ENTRIES = 100_000
_FLOAT32, _STRIDED = 7, 7  # torch's numbers of them in such files
_REMEDY = "Copy the file again, or export the model again with python -m launch.export."


class Contents(NamedTuple):
    """What an archive holds."""

    about: About
    program: Any  # the graph and its signature, as JSON; unchecked
    weights: dict[str, Tensor]  # by the names of ``program_names``; compared with their SHA-256


def read(path: Path) -> Contents:
    """Reads an archive.

    Raises:
      InputError: the file cannot be read; or is no exported model, newer or damaged; or has entries that a model does
        not need.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return _read(archive, path, file)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; check the path and its permissions") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def about(path: Path) -> About:
    """What the file says of its model; neither graph nor weights are read.

    Raises:
      InputError: as ``read``.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return _about(archive, _entries(archive, path, file), path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; check the path and its permissions") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, problem: str) -> InputError:
    """The error of a file that is not as it was written."""
    return InputError(f"{path} is damaged: {shown(problem)[:500].rstrip('.')}. {_REMEDY}")


def _read(archive: zipfile.ZipFile, path: Path, file: BufferedReader) -> Contents:
    entries = _entries(archive, path, file)
    found = _about(archive, entries, path)
    for name in (_GRAPH, _WEIGHTS):
        if name not in entries:
            raise damaged(path, f"{name} is missing")
        if entries[name].file_size > _JSON:
            raise damaged(path, f"{name} has {entries[name].file_size:,} bytes; the limit is {_JSON:,}")
    program = exported.parse_json(archive.read(entries[_GRAPH]).decode())
    listed = exported.parse_json(archive.read(entries[_WEIGHTS]).decode())
    places = _places(listed, program_names.shapes(found.cfg.model), entries, path)
    weights = {
        name: torch.frombuffer(bytearray(archive.read(entry)), dtype=torch.float32).reshape(shape)
        for name, (entry, shape) in places.items()
    }
    params, stats = program_names.trees(found.cfg.model, weights)
    if exported.weights_digest(params, stats) != found.weights:
        raise damaged(path, "its weights are not those that were written (their SHA-256 differs)")
    require_finite(path, weights, remedy=_REMEDY)
    return Contents(found, program, weights)


def _entries(archive: zipfile.ZipFile, path: Path, file: BufferedReader) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, without the folder that all of them lie in; all stored as they are, none unknown."""
    listed = archive.infolist()
    size = file.seek(0, 2)
    if len(listed) > _ENTRIES or sum(entry.file_size for entry in listed) > size:
        raise damaged(path, f"{size:,} bytes, fewer than its entries would take")
    roots = {entry.filename.partition("/")[0] for entry in listed}
    entries = {entry.filename.partition("/")[2]: entry for entry in listed}
    if len(roots) != 1 or len(entries) != len(listed):
        raise damaged(path, "entries of the same name, or in several folders")
    for name, entry in entries.items():
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise damaged(path, f"{name} is compressed or encrypted, which torch.export never does")
        if name == _SAMPLE and entry.file_size:
            raise _refused(path, "pickled sample inputs")
        if not (name in _SMALL or name in (_GRAPH, _WEIGHTS) or name.startswith(_EXTRA) or _is_weight(name)):
            raise _refused(path, shown(name)[:200])
    return entries


def _refused(path: Path, what: str) -> InputError:
    return InputError(
        f"{path}: refused, nothing was executed. It holds {what}, which no exported model of ds2f has: torch would "
        "unpickle or execute it. Do not load the file with torch.export.load; export the model again with "
        "python -m launch.export."
    )


def _is_weight(name: str) -> bool:
    return name.startswith(_WEIGHT) and _NAME.fullmatch(name.removeprefix(_WEIGHT)) is not None


def _about(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], path: Path) -> About:
    metadata = {}
    for name, entry in entries.items():
        if name.startswith(f"{_EXTRA}ds2f."):
            if entry.file_size > 4 * exported.LIMIT:
                raise damaged(path, f"{name} has {entry.file_size:,} bytes")
            metadata[name.removeprefix(_EXTRA)] = archive.read(entry).decode()
    return exported.from_metadata(metadata, str(path))


def _places(
    listed: Any, shapes: Mapping[str, tuple[int, ...]], entries: Mapping[str, zipfile.ZipInfo], path: Path
) -> dict[str, tuple[zipfile.ZipInfo, tuple[int, ...]]]:
    """The entry and shape of every weight; each is float32 and contiguous, and its entry has its size."""
    config = listed.get("config") if isinstance(listed, dict) else None
    if not isinstance(config, dict) or config.keys() != shapes.keys():
        raise damaged(path, "other weights than its configuration says")
    found = {}
    for name, shape in shapes.items():
        entry = entries.get(_WEIGHT + _path_of(config[name], shape))
        if entry is None or entry.file_size != torch.Size(shape).numel() * torch.float32.itemsize:
            raise damaged(
                path, f"the weight {name} is missing, or of another shape or type than its configuration says"
            )
        found[name] = entry, shape
    return found


def _path_of(listed: Any, shape: tuple[int, ...]) -> str:
    """The name of a weight's entry; empty unless the weight is float32, contiguous, and no pickle."""
    strides = [torch.Size(shape[index + 1 :]).numel() for index in range(len(shape))]
    wanted = {
        "dtype": _FLOAT32,
        "sizes": [{"as_int": size} for size in shape],
        "strides": [{"as_int": stride} for stride in strides],
        "storage_offset": {"as_int": 0},
        "layout": _STRIDED,
    }
    if not isinstance(listed, dict) or listed.get("use_pickle") is not False:
        return ""
    path_name = listed.get("path_name")
    if not isinstance(path_name, str):
        return ""
    meta = listed.get("tensor_meta")
    alike = isinstance(meta, dict) and all(meta.get(key) == value for key, value in wanted.items())
    return path_name if alike else ""
