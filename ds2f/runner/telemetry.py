"""The output of a run: messages, scalars, progress bar and results, for the terminal, files and TensorBoard."""

import errno
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ds2f.config import Config
from ds2f.files import json_text, write_atomically
from ds2f.text import shown

_LIBRARY = logging.getLogger("ds2f")


class _LineFile:
    """A text file to which lines are appended.

    On a full disk, lines are dropped and the run goes on. The next line that fits says how many were dropped.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._lost = 0

    def add(self, line: str) -> None:
        gap = f"({self._lost} lines before this line are lost: the disk was full)\n" if self._lost else ""
        try:
            self._file.write(f"{gap}{line}\n".encode())
            self._lost = 0
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._lost += 1

    def close(self) -> None:
        self._file.close()


class _LogHandler(logging.Handler):
    """Passes the library's log records to a run's telemetry."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(record.getMessage())


class Telemetry:
    """The log and telemetry of a run: terminal, ``log.txt``, ``metrics.jsonl``, TensorBoard and ``results.json``."""

    def __init__(self, run_dir: Path, cfg: Config, *, console: Console | None = None) -> None:
        """Opens the files of ``run_dir`` for appending."""
        self._run_dir = run_dir
        self._console = console or terminal()
        self._log_file = _LineFile(run_dir / "log.txt")
        self._metrics = _LineFile(run_dir / "metrics.jsonl")
        self._show_progress = cfg.visualization.progress and self._console.is_terminal
        self._tensorboard = _tensorboard(run_dir) if cfg.visualization.tensorboard else None

    def __enter__(self) -> Self:
        self._log_handler = _LogHandler(self.log)
        _LIBRARY.addHandler(self._log_handler)
        _LIBRARY.propagate = False  # otherwise the terminal shows every record twice
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._detach()
        self._log_file.close()
        self._metrics.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _detach(self) -> None:
        _LIBRARY.removeHandler(self._log_handler)
        _LIBRARY.propagate = True

    def take(self) -> list[str]:
        """Messages buffered for rank 0; rank 0 itself has none."""
        return []

    def log(self, message: str) -> None:
        """Prints a line, and writes it to ``log.txt`` with the time."""
        message = shown(message, lines=True)
        with _tolerating_closed_terminal():
            self._console.print(message, markup=False, emoji=False)
        self._log_file.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}")

    def scalars(self, kind: str, iteration: int, values: Mapping[str, Any]) -> None:
        """Writes a line to ``metrics.jsonl``, and its numbers to TensorBoard under ``kind/``."""
        self._metrics.add(json_text({"kind": kind, "iteration": iteration, **values}))
        if self._tensorboard is None:
            return
        try:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, iteration)
        except OSError as error:  # raised in TensorBoard's writer thread, which does not recover
            self._tensorboard = None
            self.log(f"TensorBoard gets no more scalars (metrics.jsonl goes on): {error}")

    def rewind(self, iteration: int, *, in_epoch: bool) -> None:
        """Drops the lines of ``metrics.jsonl`` that were written after the checkpoint from which the run goes on.

        Args:
          iteration: of the checkpoint.
          in_epoch: whether the checkpoint was written within an epoch, before the epoch's own line.
        """
        path = self._run_dir / "metrics.jsonl"
        self._metrics.close()
        remaining = [line for line in _lines(path) if _is_before(line, iteration, in_epoch=in_epoch)]
        write_atomically(path, "".join(json_text(line) + "\n" for line in remaining))
        self._metrics = _LineFile(path)
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = _tensorboard(self._run_dir, purge_step=iteration + 1)

    def progress(self, description: str, total: int, completed: int = 0) -> "StepProgress":
        """A progress bar over the steps of an epoch; drawn on a terminal only."""
        return StepProgress(self._console, description, total, completed, disable=not self._show_progress)

    def results(self, results: Mapping[str, Any]) -> None:
        """Writes ``results.json`` and prints the table of error rates."""
        write_atomically(self._run_dir / "results.json", json_text(results, indent=2) + "\n")
        sets = {split: results[split] for split in ("val", "test") if split in results}
        columns = {"FPS": f"{results['utterances_per_second']:.1f}", "epochs": str(results["epochs"])}
        columns |= {"AMP": results["amp"], "Torch": results["torch"].split("+")[0]}
        with _tolerating_closed_terminal():
            self._console.print(errors_table(results["name"], sets, **columns))


def _tensorboard(run_dir: Path, purge_step: int | None = None) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and not every run needs it

    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge_step)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSONL file, without a last line that a kill cut off."""
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def _is_before(line: Mapping[str, Any], iteration: int, *, in_epoch: bool) -> bool:
    if line["iteration"] == iteration:
        return line["kind"] != "epoch" or not in_epoch
    return bool(line["iteration"] < iteration)


class BufferedTelemetry(Telemetry):
    """The telemetry of a rank other than 0: writes nothing, and buffers messages until rank 0 logs them."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._detach()

    def log(self, message: str) -> None:
        """Buffers a message for ``take``."""
        self._messages.append(message)

    def take(self) -> list[str]:
        """The messages since the last call."""
        messages, self._messages = self._messages, []
        return messages

    def scalars(self, kind: str, iteration: int, values: Mapping[str, Any]) -> None:
        """Does nothing: rank 0 has the same numbers."""

    def rewind(self, iteration: int, *, in_epoch: bool) -> None:
        """Does nothing: rank 0 writes the file."""

    def progress(self, description: str, total: int, completed: int = 0) -> "StepProgress":
        """A progress bar that is never drawn."""
        return StepProgress(Console(quiet=True), description, total, completed, disable=True)

    def results(self, results: Mapping[str, Any]) -> None:
        """Does nothing: rank 0 has the same results."""


def open_telemetry(run_dir: Path, cfg: Config, *, rank: int = 0) -> Telemetry:
    """The telemetry of a rank: rank 0 writes to the run's folder, the others leave their lines to it."""
    return Telemetry(run_dir, cfg) if rank == 0 else BufferedTelemetry()


class StepProgress:
    """A progress bar with free text behind it."""

    def __init__(self, console: Console, description: str, total: int, completed: int, *, disable: bool) -> None:
        """Prepares the bar; it is shown inside a ``with`` statement."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=disable)
        self._task = self._progress.add_task(description, total=total, completed=completed, text="")

    def __enter__(self) -> Self:
        with _tolerating_closed_terminal():
            self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with _tolerating_closed_terminal():
            self._progress.stop()

    def advance(self, text: str | None = None) -> None:
        """Counts one step, and shows ``text`` if given."""
        with _tolerating_closed_terminal():
            self._progress.advance(self._task)
            if text is not None:
                self._progress.update(self._task, text=text)


@contextmanager
def _tolerating_closed_terminal() -> Iterator[None]:
    """Redirects the output to /dev/null when the terminal was closed; the run goes on, or stops in order."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        devnull, closed = os.open(os.devnull, os.O_WRONLY), os.fstat(sys.stdout.fileno())
        for stream in (sys.stderr, sys.stdout):
            if os.fstat(stream.fileno()).st_rdev == closed.st_rdev:  # the same terminal
                os.dup2(devnull, stream.fileno())
        os.close(devnull)


def terminal() -> Console:
    """The terminal, on which brackets and colons in names mean nothing; 100 columns for a file or pipe."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 100
    return console


def errors_table(name: str, results: Mapping[str, Mapping[str, Any]], **columns: str) -> Table:
    """A table of error rates by split, with further columns that are the same for all splits.

    Args:
      name: of the run.
      results: the entry of ``results.json`` for each split (``val``, ``test``).
      **columns: heading and text.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("name", "set", "WER %", "CER %", "words", *columns):
        table.add_column(heading, justify="left" if heading in ("name", "set") else "right", overflow="fold")
    for split, row in results.items():
        rates = (f"{row['wer']:.3f}", f"{row['cer']:.3f}")
        table.add_row(shown(name), split, *rates, f"{row['word_errors']}/{row['words']}", *columns.values())
    return table


def duration(seconds: float) -> str:
    """Formats a time in seconds for people.

    >>> duration(48), duration(720), duration(11100)
    ('48 s', '12 min', '3 h 05 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
