"""The recordings that the arguments of a command mean: files, folders, patterns, pipes, standard input, a list."""

import glob
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NamedTuple

from ds2f.errors import InputError
from ds2f.files import expand_home, files_below, read_bounded
from ds2f.nearest import did_you_mean_file
from launch import guard

_LIST_BYTES = 1 << 28
_LOOK = 0.2  # seconds between two looks whether Ctrl-C has ended the wait for a pipe

_interrupted = threading.Event()


class Named(NamedTuple):
    """A recording by the name that people know it by, and where its output goes."""

    name: str
    below: str  # its path below the argument that named it, for the tree of an output folder
    may_be_pipe: bool  # a pipe in a folder is not waited for


def named_by(arguments: Sequence[str], *, files_from: str = "") -> Iterator[Named | InputError]:
    """Yields the recordings that arguments mean, in order, and an error for each argument that means none.

    Args:
      arguments: files, folders (all recordings in them and below), patterns, pipes, and "-" for standard input.
      files_from: a file with a further argument on every line; "-": standard input. With a zero byte in it, zero bytes
        end the arguments, as ``find -print0`` writes them.

    Raises:
      InputError: ``files_from`` cannot be read or names nothing, or standard input is both the list and a recording.
    """
    if files_from == "-" and "-" in arguments:
        raise InputError("-: standard input is the list of --files_from already; write the list to a file")
    for argument in (*arguments, *(_lines(files_from) if files_from else ())):
        try:
            yield from _recordings(argument)
        except InputError as error:
            yield error
        except (OSError, ValueError) as error:  # a name that no file can have, or a folder that may not be entered
            yield InputError(f"{argument}: {getattr(error, 'strerror', None) or error}; check the path")


def open_pipe(name: str, *, patience: float = 0.0) -> str | BinaryIO:
    """Standard input or a pipe, opened; any other name as it is.

    Args:
      name: of a recording.
      patience: seconds in which something must come through a pipe, each time; 0: any time. The read that waited
        longer raises ``InputError``.

    Raises:
      InputError: there is no standard input, or the pipe cannot be opened.
    """
    if name == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("-: standard input is closed or a terminal; write a recording to it: cat FILE | ...")
        file = sys.stdin.buffer
        return file if file.seekable() else io.BufferedReader(_Pipe(file.fileno(), name, patience))
    path = Path(name)
    try:
        if not path.is_fifo():
            return name
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a writer
        return io.BufferedReader(_Pipe(descriptor, name, patience))
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}; check the path") from error


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends waits for pipes at Ctrl-C: a thread that waits would keep the program from ending."""
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: FrameType | None) -> None:
        _interrupted.set()
        if callable(before):
            before(number, frame)

    _interrupted.clear()  # not at the end: a thread may still wait
    heeded = callable(before) and threading.current_thread() is threading.main_thread()
    if heeded:
        signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        if heeded:
            signal.signal(signal.SIGINT, before)


def heed_interrupt() -> None:
    """Raises KeyboardInterrupt after Ctrl-C, whose own may have come where Python drops errors, as in a destructor."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


class _Pipe(io.RawIOBase):
    """The reading end of a pipe that may be silent for a limited time only, or until Ctrl-C."""

    def __init__(self, descriptor: int, name: str, patience: float) -> None:
        self._descriptor, self._name, self._patience = descriptor, name, patience
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def readinto(self, buffer: Any) -> int:
        began = time.monotonic()
        while not self._poll.poll(1000 * _LOOK):
            if _interrupted.is_set():
                raise InputError(f"{self._name}: interrupted")
            if not self._patience or time.monotonic() - began < self._patience:
                continue
            raise InputError(
                f"{self._name}: nothing came through the pipe for {self._patience:g} s; check the program that writes "
                "the recording, or wait longer with --pipe_timeout"
            )
        return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        if not self.closed and self._descriptor:  # standard input stays open
            os.close(self._descriptor)
        super().close()


def _recordings(argument: str) -> Iterator[Named]:
    from ds2f.data import suffixes

    path = Path(argument)
    if argument != "-" and path.is_dir():
        # A link without a target is a recording that is missing; a pipe in a folder is none.
        files = [file for file in files_below(path) if file.is_file() or not file.exists()]
        found = [file for file in files if suffixes.is_recording(file)]
        others = suffixes.convertible(files)
        if not found:
            raise InputError(f"{argument}: no recordings in the folder{f' ({others})' if others else ''}")
        if others:
            guard.tell(f"transcribe: {argument}: left out: {others}")
        yield from (Named(str(file), str(file.relative_to(path)), may_be_pipe=False) for file in found)
    elif glob.has_magic(argument) and not path.exists():
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  Path takes no absolute pattern
        if not matches:
            raise InputError(f"{argument}: no file matches the pattern")
        for match in matches:
            yield from _recordings(match)
    elif argument != "-" and not path.exists() and not path.is_symlink():
        raise InputError(f"{argument}: No such file or directory{did_you_mean_file(path) or '; check the path'}")
    else:
        yield Named(argument, "stdin" if argument == "-" else path.name, may_be_pipe=True)


def _lines(files_from: str) -> list[str]:
    where = f"--files_from={files_from}"
    try:
        if files_from == "-":
            content = sys.stdin.buffer.read(_LIST_BYTES + 1)
        else:
            content = read_bounded(Path(files_from), _LIST_BYTES, remedy="Divide it.")
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}; give a file with a path on every line") from error
    if len(content) > _LIST_BYTES:
        raise InputError(f"{where}: more than {_LIST_BYTES:,} bytes; divide the list")
    lines = content.split(b"\0") if b"\0" in content else [line.removesuffix(b"\r") for line in content.split(b"\n")]
    found = [expand_home(os.fsdecode(line)) for line in lines if line.strip()]
    if not found:
        raise InputError(f"{where}: names no recordings; give a path on every line")
    return found
