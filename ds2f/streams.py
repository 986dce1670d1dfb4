"""Standard output and error of a program whose work does not depend on who reads them."""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO


class TolerantStream:
    """A text stream that drops what cannot be written: the reader has gone, the disk is full, the terminal is closed.

    Each write is tried anew, so that output comes again when a full disk has room. All other attributes are those of
    the stream.
    """

    def __init__(self, stream: TextIO) -> None:
        """Takes the stream to write to."""
        self._stream = stream
        self._failure: OSError | None = None

    def write(self, text: str) -> int:
        """Writes ``text`` if possible. Returns its length."""
        self._try("write", text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes all lines if possible."""
        self._try("writelines", lines)

    def flush(self) -> None:
        """Flushes the stream if possible."""
        self._try("flush")

    def take_failure(self) -> OSError | None:
        """The first error since the last call."""
        failure, self._failure = self._failure, None
        return failure

    def settle(self) -> None:
        """Flushes the stream at the end of the program; buffered text that cannot be written is discarded.

        Otherwise Python would try again at exit, and end with status 120.
        """
        try:
            self._stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
                self._stream.flush()

    def _try(self, method: str, *arguments: Any) -> None:
        try:
            getattr(self._stream, method)(*arguments)
        except OSError as error:
            self._failure = self._failure or error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tolerant(stream: Any) -> TolerantStream:
    """The stream as a ``TolerantStream``; a stream that is one already stays."""
    return stream if isinstance(stream, TolerantStream) else TolerantStream(stream)


def tolerate() -> None:
    """Makes standard output and error tolerant, for the rest of the program."""
    sys.stdout, sys.stderr = tolerant(sys.stdout), tolerant(sys.stderr)


def open_missing(*, output_matters: bool = False) -> None:
    """Opens /dev/null for standard input, output and error where they are closed.

    Otherwise the next file that the program opens would get their number, and with it all that is printed.

    Args:
      output_matters: whether a closed standard output becomes a pipe without a reader in place of /dev/null, so that
        the first line that would be lost raises BrokenPipeError.
    """
    try:
        os.fstat(1)
        output_matters = False
    except OSError:
        pass  # standard output is closed
    opened = os.open(os.devnull, os.O_RDWR)
    while opened <= 2:
        opened = os.dup(opened)
    os.close(opened)
    if output_matters:
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(writer)
        os.close(reader)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
