"""Features on disk: one file per recording and speed, verified when it is read."""

import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import Tensor

from ds2f.config import SpectConfig
from ds2f.data.shards import open_recording
from ds2f.errors import InputError
from ds2f.files import write_atomically

_FORMAT = 3  # increase it when the features of the same settings change, even by one bit
_RESERVE = 0.05  # fraction of the disk that the cache leaves free,
_LARGEST_RESERVE = 2 * 2**30  # and the most bytes of it
_CHECKSUM_BYTES = 4
_PREAMBLE = 10  # bytes of an .npy file before its header; the last two are the header's length


class FeatureCache:
    """Features of recordings under ``root/<digest of the spect section>/``.

    A file's name is a digest of the recording's bytes and the speed. So a recording that is replaced gets a new file,
    whatever its size and time, and a recording that is moved or copied keeps its file. The content is an ``.npy`` file
    followed by its CRC-32; features that fail the check are computed and written again. Any number of processes may
    share the folder: files appear whole or not at all.

    Attributes:
      problem: why the cache has stopped writing (a full disk, a folder without permission), or None.
    """

    def __init__(self, root: Path, cfg: SpectConfig) -> None:
        settings = json.dumps({"format": _FORMAT, **attrs.asdict(cfg)}, sort_keys=True, allow_nan=False)
        self.directory = root / _digest(settings)
        self._num_bins = cfg.num_bins
        self.problem: str | None = None

    def features(self, recording: Path, speed: float, compute: Callable[[], Tensor]) -> Tensor:
        """Reads the features of ``recording`` at ``speed``, or computes and stores them.

        Args:
          recording: the audio file.
          speed: factor of the playing speed.
          compute: returns the features, [F, T] float32 on the CPU; called when the cache has none.
        """
        try:
            path = self.path(recording, speed)
        except (OSError, InputError):
            return compute()  # reads the recording too, and its error names the fault
        cached = _read(path, self._num_bins)
        if cached is not None:
            return cached
        features = compute()
        if self.problem is None:
            self._write(path, features)
        return features

    def path(self, recording: Path, speed: float) -> Path:
        """The file for the features of ``recording``, as its bytes are now, at ``speed``.

        Raises:
          InputError: the path is neither a file nor a link to a file.
          OSError: the recording cannot be read.
        """
        with open_recording(recording) as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        name = _digest(f"{content} {float(speed)!r}")
        return self.directory / f"{name[:2]}/{name}.npy"

    def _write(self, path: Path, features: Tensor) -> None:
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(features.numpy(), dtype=np.float32))
        buffer.write(zlib.crc32(buffer.getbuffer()).to_bytes(_CHECKSUM_BYTES, "little"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            disk = shutil.disk_usage(path.parent)
            if disk.free < min(_RESERVE * disk.total, _LARGEST_RESERVE):
                self.problem = f"the disk of {self.directory} is nearly full"
                return
            write_atomically(path, buffer.getbuffer())  # without fsync: the checksum tells after a power cut
        except OSError as error:
            self.problem = f"{error.filename or self.directory}: {error.strerror}"


def _read(path: Path, num_bins: int) -> Tensor | None:
    """Reads a file of ``_write``, or None. Twice as fast as ``np.load``, which parses the header as Python."""
    try:
        with path.open("rb", buffering=0) as file:
            content = bytearray(os.fstat(file.fileno()).st_size)
            file.readinto(content)
    except OSError:
        return None
    array, checksum = memoryview(content)[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if len(array) < _PREAMBLE or zlib.crc32(array) != int.from_bytes(checksum, "little"):
        return None
    header = int.from_bytes(array[_PREAMBLE - 2 : _PREAMBLE], "little")
    return torch.frombuffer(array, dtype=torch.float32, offset=_PREAMBLE + header).view(num_bins, -1)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
