"""Logits of a split in a file, to decode them many times: a NumPy archive (.npz), read without pickle.

Members: ``values`` [sum of T', V] float32, ``lengths`` [N] int64, and ``about`` [bytes] uint8, a JSON object.
"""

import io
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ds2f.errors import InputError
from ds2f.files import RECORD_BYTES, json_text, open_regular, write_atomically
from ds2f.inference.tuner import ScoredBatch
from ds2f.types import Logits

LARGEST = 16 << 30  # bytes of a file
_BATCH = 64  # utterances that are decoded together
_TYPES = {"values": np.dtype("<f4"), "lengths": np.dtype("<i8"), "about": np.dtype("u1")}
_REMEDY = "write it again with launch.evaluate --save_logits"


@attrs.frozen(kw_only=True)
class About:
    """What logits belong to."""

    run: str  # name of the run
    which: str  # its checkpoint
    split: str  # train, val, test, or manifest for one that was named
    manifest: str
    trained_on: bool  # whether the model was trained on these utterances
    labels: tuple[str, ...]
    references: tuple[str, ...]  # of the utterances, in the spelling of the labels
    audio: tuple[str, ...]  # paths of their recordings


class SavedLogits(NamedTuple):
    """Logits of the utterances of a split."""

    about: About
    logits: list[Tensor]  # [T', V] float32 of each utterance

    def batches(self) -> list[ScoredBatch]:
        """The utterances in padded batches, in their order."""
        found = []
        for first in range(0, len(self.logits), _BATCH):
            rows = self.logits[first : first + _BATCH]
            values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            lengths = torch.tensor([len(row) for row in rows])
            found.append(ScoredBatch(Logits(values, lengths), list(self.about.references[first : first + _BATCH])))
        return found


def from_arrays(about: About, log_probs: Sequence[NDArray[np.float32]]) -> SavedLogits:
    """Logits from the arrays [T', V] of the utterances."""
    return SavedLogits(about, [torch.from_numpy(each) for each in log_probs])


def save(path: Path, saved: SavedLogits) -> None:
    """Writes the file whole, or leaves the path as it was."""
    content = io.BytesIO()
    about = json_text(attrs.asdict(saved.about)).encode()
    np.savez(
        content,
        values=torch.cat(saved.logits).numpy().astype("<f4", copy=False),
        lengths=np.array([len(row) for row in saved.logits], "<i8"),
        about=np.frombuffer(about, "u1"),
    )
    write_atomically(path, content.getbuffer())


def load(path: Path) -> SavedLogits:
    """Reads the file. Its sizes are checked before memory is allocated for them.

    Raises:
      InputError: the file cannot be read, or is damaged or something else.
    """
    try:
        with open_regular(path) as file:
            size = file.seek(0, io.SEEK_END)
            if size > LARGEST:
                raise InputError(f"{path}: {size:,} bytes; the limit is {LARGEST:,}. Save fewer utterances")
            with zipfile.ZipFile(file) as archive:
                members = {name: _member(archive, name, size) for name in _TYPES}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {_REMEDY}") from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: no logits of launch.evaluate ({error}); {_REMEDY}") from error
    return _checked(path, members)


def _member(archive: zipfile.ZipFile, name: str, size: int) -> NDArray[Any]:
    """An array of the archive, which must not promise more than the file holds."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
        raise ValueError(f"{name} is compressed")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_columns, dtype = read(member)
        if dtype != _TYPES[name] or by_columns or len(shape) != 1 + (name == "values"):
            raise ValueError(f"{name} has type {dtype} and {len(shape)} dimensions")
        count = math.prod(shape)
        if min(shape) < 0 or count * dtype.itemsize > info.file_size:
            raise ValueError(f"{name} is cut off")
        if name == "about" and count > RECORD_BYTES:
            raise ValueError(f"{name} has {count:,} bytes")
        return np.frombuffer(bytearray(member.read(count * dtype.itemsize)), dtype).reshape(shape)


def _checked(path: Path, members: dict[str, NDArray[Any]]) -> SavedLogits:
    values, lengths = members["values"], members["lengths"]
    try:
        about = _about(json.loads(members["about"].tobytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: no description of the logits ({error}); {_REMEDY}") from error
    whole = (
        len(about.references) == len(about.audio) == len(lengths) > 0
        and values.shape[1] == len(about.labels)
        and (lengths >= 0).all()
        and lengths.max() <= len(values)
        and lengths.sum() == len(values)
    )
    if not whole:
        raise InputError(f"{path}: the sizes of logits, labels and references differ; {_REMEDY}")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: logits that are not finite; {_REMEDY}")
    return SavedLogits(about, list(torch.from_numpy(values).split(lengths.tolist())))


def _about(read: Any) -> About:
    fields = {field.name: field.type for field in attrs.fields(About)}
    if not isinstance(read, dict) or read.keys() != fields.keys():
        raise ValueError(f"the fields are not {', '.join(fields)}")
    for name, kind in fields.items():
        texts = isinstance(read[name], list) and all(isinstance(text, str) for text in read[name])
        if not (texts if kind == tuple[str, ...] else type(read[name]) is kind):
            raise ValueError(f"{name} has another type")
    values: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in read.items()}
    return About(**values)
