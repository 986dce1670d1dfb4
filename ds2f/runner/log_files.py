"""The files of a run's log: ``log.txt`` and ``metrics.jsonl``. Training goes on without them."""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ds2f.files import json_text, write_atomically

Report = Callable[[str], None]
_APPENDING = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


class LineFile:
    """A text file to which lines are appended.

    A line that the file system refuses is dropped; the file is opened anew for the next line. The first error is
    reported, and so is the number of dropped lines, once a line fits again.
    """

    def __init__(self, path: Path, report: Report, *, mark_gaps: bool = False) -> None:
        """Opens the file at the first line.

        Args:
          path: the file.
          report: called with a message when lines are dropped.
          mark_gaps: write a line into the file, too, that tells the number of dropped lines.
        """
        self.name = path.name
        self._path, self._report, self._mark_gaps = path, report, mark_gaps
        self._descriptor: int | None = None
        self._dropped, self._cause, self._torn = 0, "", False

    def add(self, line: str) -> None:
        """Appends a line."""
        gap = f"({self._dropped} lines before this line are lost: {self._cause})\n"
        try:
            self._write(f"{gap if self._dropped and self._mark_gaps else ''}{line}\n".encode())
        except OSError as error:
            self._dropped += 1
            self.close()
            if self._dropped == 1:
                self._cause = error.strerror or str(error)
                self._report(f"{self._path} cannot be written: {self._cause}. Its lines are dropped; training goes on.")
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._report(f"{self._path} is written again; {dropped} lines are missing in it")

    def _write(self, content: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, _APPENDING | os.O_CREAT, 0o666)
        if self._torn:
            content = b"\n" + content
        while content:
            written = os.write(self._descriptor, content)
            content = content[written:]
            self._torn = bool(content)

    def restore(self) -> bool:
        """Writes the file again, with its lines so far, if somebody has removed it. Returns whether it did.

        The lines of a removed file are there as long as the file is open.

        Raises:
          OSError: the file system refused, or the lines are gone.
        """
        if self._descriptor is None or self._path.exists():
            return False
        temporary = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._descriptor, "rb", closefd=False) as lines, temporary.open("xb") as file:
                lines.seek(0)
                shutil.copyfileobj(lines, file)
            temporary.replace(self._path)
            descriptor = os.open(self._path, _APPENDING)  # keeps the lines if the new file is removed as well
        except OSError as error:
            if error.errno == errno.ESTALE:  # of a network file system: the lines are gone
                self.close()
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        self.close()
        self._descriptor = descriptor
        return True

    def close(self) -> None:
        """Closes the file; the next line opens it again."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]], *, report: Report) -> None:
    """Writes a file of JSON objects, one per line, in place of an earlier one; reports a file system that refuses."""
    try:
        write_atomically(path, "".join(json_text(dict(row), ascii_only=False) + "\n" for row in rows))
    except OSError as error:
        report(f"{path} cannot be written: {error.strerror or error}. Training goes on.")


def rewind(path: Path, iteration: int, *, in_epoch: bool, report: Report) -> None:
    """Drops the lines of ``metrics.jsonl`` that were written after the checkpoint from which the run goes on.

    A file with lines that cannot be read is kept under another name; its readable lines go on.

    Args:
      path: the file, which need not exist.
      iteration: of the checkpoint.
      in_epoch: whether the checkpoint was written within an epoch, before the epoch's own line.
      report: called with a message about lines that cannot be read, or a file that cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            set_aside(path, "is no file", report)
            return
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        set_aside(path, f"cannot be read: {error.strerror or error}", report)
        return
    *lines, last = content.split(b"\n")
    parsed = [_parse(line) for line in lines if line.strip()]
    readable = [line for line in [*parsed, _parse(last)] if line is not None]  # a kill may have cut off the last line
    if None in parsed:
        set_aside(path, f"{parsed.count(None)} of {len(parsed)} lines cannot be read, the others go on", report)
    remaining = [line for line in readable if _is_before(line, iteration, in_epoch=in_epoch)]
    try:
        write_atomically(path, "".join(json_text(line) + "\n" for line in remaining), fsync=True)
    except OSError as error:
        report(f"{path} still has the lines after the checkpoint: {error.strerror or error}. Training goes on.")


def set_aside(path: Path, fault: str, report: Report) -> None:
    """Gives a damaged file another name, beside the old one, and reports both."""
    taken = {each.name for each in path.parent.iterdir()}
    numbers = ["", *(f"-{number}" for number in range(2, 1000))]
    aside = path.with_name(next(name for number in numbers if (name := f"{path.name}.damaged{number}") not in taken))
    try:
        path.rename(aside)
    except OSError as error:
        report(f"{path}: {fault}; it cannot be kept under another name: {error.strerror or error}")
    else:
        report(f"{path}: {fault}; the damaged file is kept as {aside.name}")


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line of ``metrics.jsonl``; None if it cannot be read."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(values, dict) and type(values.get("iteration")) is int and isinstance(values.get("kind"), str):
        return values
    return None


def _is_before(line: Mapping[str, Any], iteration: int, *, in_epoch: bool) -> bool:
    if line["iteration"] == iteration:
        return line["kind"] != "epoch" or not in_epoch
    return bool(line["iteration"] < iteration)
