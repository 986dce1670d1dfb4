"""The board on which each rank writes its status for the other ranks: the job's store, or files on one machine.

A FileStore appends every value to its file, so half-second heartbeats would let it grow without end. Files that are
written anew have constant size.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from torch.distributed import Store

from ds2f.files import write_atomically
from ds2f.runner.distributed.job_store import read_existing


class Board(Protocol):
    """One record per rank, written by the rank and read by all ranks."""

    def write(self, rank: int, record: str) -> None:
        """Replaces the record of a rank.

        Raises:
          RuntimeError: the store does not answer.
          OSError: the file cannot be written.
        """

    def read(self, ranks: Sequence[int]) -> list[bytes]:
        """The records of ``ranks``; a missing record is ``b""``.

        Raises:
          RuntimeError: the store does not answer.
          OSError: the folder cannot be read.
        """


class StoreBoard:
    """Records in the job's store."""

    def __init__(self, store: Store) -> None:
        """Opens a client each for writing and reading: a call that hangs in one must not block the other."""
        self._store = store  # on rank 0 this may be the server, which lives as long as this object
        self._writer, self._reader = store.clone(), store.clone()  # type: ignore[attr-defined]

    def write(self, rank: int, record: str) -> None:
        """Replaces the record of a rank."""
        self._writer.set(f"heartbeat/{rank}", record)

    def read(self, ranks: Sequence[int]) -> list[bytes]:
        """The records of ``ranks``; a missing record is ``b""``."""
        return read_existing(self._reader, [f"heartbeat/{rank}" for rank in ranks])


class FolderBoard:
    """Records as files of a folder, for the ranks of one machine."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder, a new one for each start of the job."""
        self._folder = folder

    def write(self, rank: int, record: str) -> None:
        """Replaces the record of a rank."""
        write_atomically(self._folder / f"heartbeat.{rank}", record)

    def read(self, ranks: Sequence[int]) -> list[bytes]:
        """The records of ``ranks``; a missing record is ``b""``."""
        if not self._folder.is_dir():
            raise FileNotFoundError(f"{self._folder} is gone")
        return [self._read(rank) for rank in ranks]

    def _read(self, rank: int) -> bytes:
        with suppress(FileNotFoundError):
            return (self._folder / f"heartbeat.{rank}").read_bytes()
        return b""
