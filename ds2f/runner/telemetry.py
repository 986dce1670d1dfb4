"""What a run says while it goes and leaves when it ends: messages, scalars, progress, results."""

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
from ds2f.files import write_atomically

_LIBRARY = logging.getLogger("ds2f")


class _Lines:
    """A text file that grows by lines. A full disk costs lines, not the run; what was lost is said in their place."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._lost = 0

    def add(self, line: str) -> None:
        gap = f"({self._lost} lines before this one found the disk full)\n" if self._lost else ""
        try:
            self._file.write(f"{gap}{line}\n".encode())
            self._lost = 0
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._lost += 1

    def close(self) -> None:
        self._file.close()


class _Forward(logging.Handler):
    """Passes what the library logs to a run's own voice."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


class Telemetry:
    """The voice of one run: the terminal, ``log.txt``, ``metrics.jsonl`` and TensorBoard."""

    def __init__(self, run_dir: Path, cfg: Config, *, console: Console | None = None) -> None:
        """Opens the files of ``run_dir`` for appending."""
        self._run_dir = run_dir
        self._console = console or terminal()
        self._log = _Lines(run_dir / "log.txt")
        self._metrics = _Lines(run_dir / "metrics.jsonl")
        self._show_progress = cfg.visualization.progress and self._console.is_terminal
        self._tensorboard = _tensorboard(run_dir) if cfg.visualization.tensorboard else None

    def __enter__(self) -> Self:
        self._forward = _Forward(self.say)
        _LIBRARY.addHandler(self._forward)
        _LIBRARY.propagate = False  # or the terminal would show everything twice
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._release()
        self._log.close()
        self._metrics.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _release(self) -> None:
        _LIBRARY.removeHandler(self._forward)
        _LIBRARY.propagate = True

    def take(self) -> list[str]:
        """What waits to be said by rank 0: nothing, on rank 0."""
        return []

    def say(self, message: str) -> None:
        """Prints a line and keeps it in ``log.txt`` with the time."""
        with _terminal_may_go():
            self._console.print(message, markup=False)
        self._log.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}")

    def scalars(self, kind: str, iteration: int, values: Mapping[str, Any]) -> None:
        """Adds a line to ``metrics.jsonl`` and its numbers to TensorBoard under ``kind/``."""
        self._metrics.add(json.dumps({"kind": kind, "iteration": iteration, **values}))
        if self._tensorboard is None:
            return
        try:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, iteration)
        except OSError as error:  # of its writing thread, which does not recover
            self._tensorboard = None
            self.say(f"no more scalars for TensorBoard, metrics.jsonl goes on: {error}")

    def rewind(self, iteration: int, *, in_epoch: bool) -> None:
        """Drops from ``metrics.jsonl`` what was logged after a checkpoint from which the run goes on.

        Args:
          iteration: of the checkpoint.
          in_epoch: whether it was written in the middle of an epoch, whose summary it does not cover.
        """
        path = self._run_dir / "metrics.jsonl"
        self._metrics.close()
        kept = [line for line in _lines(path) if _is_before(line, iteration, in_epoch=in_epoch)]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._metrics = _Lines(path)
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = _tensorboard(self._run_dir, purge_step=iteration + 1)

    def progress(self, description: str, total: int, completed: int = 0) -> "StepProgress":
        """A progress bar over the steps of an epoch; it draws on a terminal only."""
        return StepProgress(self._console, description, total, completed, disable=not self._show_progress)

    def results(self, results: Mapping[str, Any]) -> None:
        """Writes ``results.json`` and prints the table that users know."""
        write_atomically(self._run_dir / "results.json", json.dumps(results, indent=2) + "\n")
        sets = {split: results[split] for split in ("val", "test") if split in results}
        columns = {"FPS": f"{results['utterances_per_second']:.1f}", "epochs": str(results["epochs"])}
        columns |= {"AMP": results["amp"], "Torch": results["torch"].split("+")[0]}
        with _terminal_may_go():
            self._console.print(errors_table(results["name"], sets, **columns))


def _tensorboard(run_dir: Path, purge_step: int | None = None) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and not every run wants it

    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge_step)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSONL file; one that a kill cut off is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def _is_before(line: Mapping[str, Any], iteration: int, *, in_epoch: bool) -> bool:
    if line["iteration"] == iteration:
        return line["kind"] != "epoch" or not in_epoch
    return bool(line["iteration"] < iteration)


class BufferedTelemetry(Telemetry):
    """The voice of a rank other than 0: it writes nothing, and what it says waits for rank 0 to say it."""

    def __init__(self) -> None:
        self._said: list[str] = []

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._release()

    def say(self, message: str) -> None:
        """Keeps a line for ``take``."""
        self._said.append(message)

    def take(self) -> list[str]:
        """What was said since the last call."""
        said, self._said = self._said, []
        return said

    def scalars(self, kind: str, iteration: int, values: Mapping[str, Any]) -> None:
        """Leaves the numbers to rank 0, which has the same."""

    def rewind(self, iteration: int, *, in_epoch: bool) -> None:
        """Leaves the file to rank 0."""

    def progress(self, description: str, total: int, completed: int = 0) -> "StepProgress":
        """A progress bar that never draws."""
        return StepProgress(Console(quiet=True), description, total, completed, disable=True)

    def results(self, results: Mapping[str, Any]) -> None:
        """Leaves the results to rank 0, which has the same."""


class StepProgress:
    """A progress bar with free text behind it."""

    def __init__(self, console: Console, description: str, total: int, completed: int, *, disable: bool) -> None:
        """Prepares the bar; it shows between entering and leaving."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=disable)
        self._task = self._progress.add_task(description, total=total, completed=completed, text="")

    def __enter__(self) -> Self:
        with _terminal_may_go():
            self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with _terminal_may_go():
            self._progress.stop()

    def advance(self, text: str | None = None) -> None:
        """Counts one step, and shows ``text`` when it is given."""
        with _terminal_may_go():
            self._progress.advance(self._task)
            if text is not None:
                self._progress.update(self._task, text=text)


@contextmanager
def _terminal_may_go() -> Iterator[None]:
    """Shows something; when the terminal was closed, the run goes on (or stops in order) and is heard in its files."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        nowhere, shown = os.open(os.devnull, os.O_WRONLY), os.fstat(sys.stdout.fileno())
        for stream in (sys.stderr, sys.stdout):
            if os.fstat(stream.fileno()).st_rdev == shown.st_rdev:  # the same terminal
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def terminal() -> Console:
    """The terminal; output that goes elsewhere is laid out for 100 columns."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=100)


def errors_table(name: str, of: Mapping[str, Mapping[str, Any]], **columns: str) -> Table:
    """Error rates per set, with further columns that are the same for all sets.

    Args:
      name: of the run.
      of: by set (``val``, ``test``) what ``results.json`` holds for it.
      **columns: heading and text.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("name", "set", "WER %", "CER %", "words", *columns):
        table.add_column(heading, justify="left" if heading in ("name", "set") else "right", overflow="fold")
    for split, row in of.items():
        rates = (f"{row['wer']:.3f}", f"{row['cer']:.3f}")
        table.add_row(name, split, *rates, f"{row['word_errors']}/{row['words']}", *columns.values())
    return table


def duration(seconds: float) -> str:
    """A span of time for people: ``48 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
