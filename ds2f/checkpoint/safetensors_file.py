"""A model in one file of the format safetensors: https://huggingface.co/docs/safetensors.

The file begins with the size of a JSON header, eight bytes, and the header: ``About`` as metadata, and dtype, shape and
place of every tensor. The values follow. Nothing in the file can be executed. The header is compared with the structure
of the model and with the size of the file before anything is allocated.
"""

import json
import os
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ds2f import tree
from ds2f.checkpoint import exported
from ds2f.checkpoint.exported import About
from ds2f.checkpoint.leaves import require_finite
from ds2f.config import ModelConfig
from ds2f.errors import InputError
from ds2f.extras import import_extra
from ds2f.files import naming, open_regular, write_atomically
from ds2f.model.structure import spec
from ds2f.text import shown
from ds2f.types import Params, Stats

SUFFIX = ".safetensors"
FILE = f"model{SUFFIX}"  # in the folder of an export
_HEADER = 16 << 20  # bytes; the usual header has some ten thousand
_LENGTH = 8  # bytes of the header's size, and what the header is padded to
_METADATA = "__metadata__"
_PARTS = ("params/", "stats/")
_DTYPE, _ITEM = "F32", 4  # bytes
_REMEDY = "Copy the file again, or export the model again with python -m launch.export."


class _Header(NamedTuple):
    about: About
    tensors: dict[str, Any]  # what the header says of them, unchecked
    begin: int  # of the values, bytes
    size: int  # of the file, bytes


def write(path: Path, about: About, params: Params, stats: Stats) -> None:
    """Writes a model; the same model gives the same bytes.

    Args:
      path: the file, which is replaced.
      about: goes into the metadata; ``about.weights`` is the digest of the model.
      params: parameters, float32, on any device.
      stats: running statistics, float32.

    Raises:
      InputError: safetensors is not installed, or the weights are not finite.
      ValueError: ``about`` is of another model, or a tensor is not float32.
      OSError: the file system refused.
    """
    exported.require_weights(about, params, stats)
    require_finite(path, _named(params, stats))
    tensors = {name: leaf.detach().cpu().contiguous() for name, leaf in _named(params, stats).items()}
    content = _package().save(tensors, metadata=exported.to_metadata(about))
    begin = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    header = json.loads(content[_LENGTH:begin])  # its metadata has another order in every process
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-len(text) % _LENGTH)
    write_atomically(path, b"".join((len(text).to_bytes(_LENGTH, "little"), text, memoryview(content)[begin:])))


def about(path: Path) -> About:
    """What the file says of its model; the values are not read, and safetensors is not needed.

    Raises:
      InputError: the file cannot be read, or is no exported model, newer or damaged.
    """
    with _open(path) as file:
        return _read_header(file, path).about


def read(path: Path) -> tuple[About, Params, Stats]:
    """Reads a model.

    Returns:
      What the file says of the model, its parameters and statistics, float32 on the CPU.

    Raises:
      InputError: as ``about``; or safetensors is not installed; or the values are not finite or not those that were
        written.
    """
    load = _package().load
    with _open(path) as file, naming(path):
        header = _read_header(file, path)
        parts = dict(zip(_PARTS, spec(header.about.cfg.model), strict=True))
        _require_fits(path, header)
        file.seek(0)
        content = file.read(header.size + 1)
    if len(content) != header.size:
        raise _damaged(path, f"{len(content):,} bytes were read, and {header.size:,} announced")
    try:
        tensors = load(content)
        params, stats = (
            tree.unflatten_like(
                part,
                {name.removeprefix(prefix): leaf for name, leaf in tensors.items() if name.startswith(prefix)},
            )
            for prefix, part in parts.items()
        )
    except Exception as error:  # its errors have no documented classes
        raise _damaged(path, str(error)) from error
    if exported.weights_digest(params, stats) != header.about.weights:
        raise _damaged(path, "its values are not those that were written (their SHA-256 differs)")
    require_finite(path, _named(params, stats), remedy=_REMEDY)
    return header.about, params, stats


def _package() -> Any:
    return import_extra(
        "safetensors.torch", need=f"files of {SUFFIX} need safetensors", remedy="pip install 'ds2f[export]'"
    )


def _named(params: Params, stats: Stats) -> dict[str, Tensor]:
    return {
        prefix + name: leaf
        for prefix, part in zip(_PARTS, (params, stats), strict=True)
        for name, leaf in tree.flatten_with_names(part).items()
    }


def _open(path: Path) -> BufferedReader:
    try:
        return open_regular(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; check the path and its permissions") from error


def _read_header(file: BufferedReader, path: Path) -> _Header:
    """Reads the header, of which only the metadata are checked."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(_LENGTH), "little")
    if size < _LENGTH or length > size - _LENGTH:
        raise _damaged(path, f"{size:,} bytes are not the whole of a file of this format")
    if length > _HEADER:
        raise _damaged(path, f"its header has {length:,} bytes; the limit is {_HEADER:,}")
    try:
        found = exported.parse_json(file.read(length).decode())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON: {error}") from error
    metadata = found.pop(_METADATA, {}) if isinstance(found, dict) else None
    if not isinstance(metadata, dict):
        raise _damaged(path, "its header is no object with metadata")
    return _Header(exported.from_metadata(metadata, str(path)), found, _LENGTH + length, size)


def _require_fits(path: Path, header: _Header) -> None:
    """Raises unless names, dtypes, shapes and places of all tensors are those of the model and fill the file."""
    wanted = _shapes(header.about.cfg.model)
    wrong = list(header.tensors.keys() ^ wanted.keys())
    wrong += [name for name in header.tensors.keys() & wanted.keys() if not _fits(header.tensors[name], wanted[name])]
    if wrong:
        names = ", ".join(sorted(wrong)[:5]) + (" …" if len(wrong) > 5 else "")
        raise _damaged(path, f"{names}: missing, unknown, or of another shape or type than its configuration says")
    place = 0
    for begin, end in sorted(entry["data_offsets"] for entry in header.tensors.values()):
        if begin != place:
            raise _damaged(path, "its tensors overlap, or there are gaps between them")
        place = end
    if header.begin + place != header.size:
        raise _damaged(path, f"{header.size:,} bytes; its header tells of {header.begin + place:,}")


def _shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in _named(*spec(cfg)).items()}


def _fits(entry: Any, shape: tuple[int, ...]) -> bool:
    """Whether a tensor has the shape, and a place of its size."""
    if not (isinstance(entry, Mapping) and entry.keys() == {"dtype", "shape", "data_offsets"}):
        return False
    place = entry["data_offsets"]
    return (
        entry["dtype"] == _DTYPE
        and entry["shape"] == list(shape)
        and isinstance(place, list)
        and len(place) == 2
        and all(type(each) is int and each >= 0 for each in place)
        and place[1] - place[0] == torch.Size(shape).numel() * _ITEM
    )


def _damaged(path: Path, problem: str) -> InputError:
    return InputError(f"{path} is damaged: {shown(problem)[:500].rstrip('.')}. {_REMEDY}")
