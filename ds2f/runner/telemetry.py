"""The output of a run: messages, scalars, progress bar and results, for the terminal, files and TensorBoard."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Any, Self, cast

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.files import json_text, write_atomically
from ds2f.metrics import Intervals, Rate, in_order
from ds2f.runner import log_files
from ds2f.runner.epoch_table import EpochTable
from ds2f.runner.log_files import LineFile
from ds2f.runner.run_files import RunFiles
from ds2f.runner.step_progress import StepProgress
from ds2f.runner.trackers import flat_settings, open_trackers
from ds2f.streams import TolerantStream, tolerant
from ds2f.text import shown

_LIBRARY = logging.getLogger("ds2f")


class _LogHandler(logging.Handler):
    """Passes the library's log records to a run's telemetry."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(record.getMessage())


class EarlyMessages:
    """Keeps messages until the log is open, and passes later ones on to it."""

    def __init__(self) -> None:
        """Begins without messages."""
        self._messages: list[str] = []
        self._log: Callable[[str], None] = self._messages.append

    def __call__(self, message: str) -> None:
        """Takes a message."""
        self._log(message)

    def pass_on(self, log: Callable[[str], None]) -> None:
        """Passes all messages on to ``log``, and those to come."""
        self._log = log
        for message in self._messages:
            log(message)


class Telemetry:
    """The log and telemetry of a run: terminal, ``log.txt``, ``metrics.jsonl``, TensorBoard and ``results.json``.

    A terminal or file that cannot be written stops nothing: the others get a message about it.
    """

    def __init__(
        self, run_dir: Path, cfg: Config, *, files: RunFiles | None = None, console: Console | None = None
    ) -> None:
        """Opens the files of ``run_dir`` for appending; ``files`` are those that ``restore`` makes again, too."""
        self._run_dir, self._files = run_dir, files or RunFiles(run_dir)
        self._output = tolerant(sys.stdout)
        self._output_failed = False
        self._table = EpochTable()
        self._console = console or terminal(self._output)
        self._log_file = LineFile(run_dir / "log.txt", lambda text: self._print(shown(text)), mark_gaps=True)
        self._metrics = LineFile(run_dir / "metrics.jsonl", self.log)
        self._show_progress = cfg.visualization.progress and self._console.is_terminal
        self._cfg, self._trackers = cfg, open_trackers(run_dir, cfg, self.log)

    def __enter__(self) -> Self:
        self._log_handler = _LogHandler(self.log)
        _LIBRARY.addHandler(self._log_handler)
        _LIBRARY.propagate = False  # otherwise the terminal shows every record twice
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._detach()
        self._log_file.close()
        self._metrics.close()
        for tracker in self._trackers:
            tracker.close()

    def _detach(self) -> None:
        _LIBRARY.removeHandler(self._log_handler)
        _LIBRARY.propagate = True

    def take(self) -> list[str]:
        """Messages buffered for rank 0; rank 0 itself has none."""
        return []

    def log(self, message: str) -> None:
        """Prints a line, and writes it to ``log.txt`` with the time."""
        message = shown(message, lines=True)
        self._print(message)
        failure = self._output.take_failure()
        if failure is not None and not self._output_failed:
            self._output_failed = True
            self._write_to_log(f"standard output cannot be written: {failure}. Training goes on; its log is this file.")
        self._write_to_log(message)

    def _print(self, message: str) -> None:
        """Shows a message; on a terminal, an epoch as a row of a table, and other lines wrapped between words."""
        rows = self._table.rows(message) if self._console.is_terminal else None
        for row in rows or message.split("\n"):
            whole = not self._console.is_terminal or str(row).startswith("  python -m ")  # ready to be copied
            self._console.print(row, markup=False, emoji=False, soft_wrap=whole)

    def _write_to_log(self, message: str) -> None:
        self._log_file.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}")

    def scalars(self, kind: str, iteration: int, values: Mapping[str, Any]) -> None:
        """Writes a line to ``metrics.jsonl``, and its numbers to TensorBoard under ``kind/``."""
        self._metrics.add(json_text({"kind": kind, "iteration": iteration, **values}))
        for tracker in self._trackers:
            tracker.add(kind, iteration, values)

    def samples(self, split: str, iteration: int, samples: Sequence[tuple[str, str, str]]) -> None:
        """Shows what a model hears in some utterances, in TensorBoard as a text under ``samples/split``.

        Args:
          split: ``val`` or ``test``.
          iteration: steps of the model.
          samples: recording, reference and hypothesis of a few utterances; the same utterances each time.
        """
        for tracker in self._trackers:
            tracker.add_samples(split, iteration, samples)

    def picture(self, name: str, draw: Callable[[], bytes]) -> None:
        """Shows a picture under ``name``; ``draw`` returns a PNG file, empty without a picture."""
        for tracker in self._trackers:
            tracker.add_picture(name, draw)

    def rewind(self, iteration: int, *, in_epoch: bool) -> None:
        """Drops the lines of ``metrics.jsonl`` that were written after the checkpoint from which the run goes on.

        Args:
          iteration: of the checkpoint.
          in_epoch: whether the checkpoint was written within an epoch, before the epoch's own line.
        """
        self._metrics.close()
        log_files.rewind(self._run_dir / "metrics.jsonl", iteration, in_epoch=in_epoch, report=self.log)
        for tracker in self._trackers:
            tracker.rewind(iteration)

    def restore(self) -> None:
        """Makes the run's folder whole again if somebody has removed it or some of its files."""
        try:
            names = self._files.restore()
            names += [file.name for file in (self._log_file, self._metrics) if file.restore()]
            restored = [tracker.restore() for tracker in self._trackers]
            if any(restored):
                names.append("tensorboard (with the scalars from here on)")
        except OSError as error:
            self.log(f"{self._run_dir}: removed files cannot be written again: {error}. Training goes on.")
            return
        if names:
            self.log(f"{self._run_dir} was removed, whole or in part; written again: {', '.join(names)}")

    def transcripts(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes ``transcripts.jsonl`` anew: a line per utterance that the best model has transcribed."""
        log_files.write_lines(self._run_dir / "transcripts.jsonl", rows, report=self.log)

    def progress(self, description: str, total: int, completed: int = 0) -> StepProgress:
        """A progress bar over the steps of an epoch; drawn on a terminal only."""
        return StepProgress(self._console, description, total, completed, disable=not self._show_progress)

    def results(self, results: Mapping[str, Any]) -> None:
        """Writes ``results.json`` and prints the table of error rates.

        Raises:
          InputError: when the file cannot be written; the table is printed all the same.
        """
        sets = {split: results[split] for split in ("val", "test") if split in results}
        columns = {"FPS": f"{results['utterances_per_second']:.1f}", "epochs": str(results["epochs"])}
        columns |= {"AMP": results["amp"], "Torch": results["torch"].split("+")[0]}
        shared: dict[str, Any] = {"first": results.get("metric", "wer"), "columns": columns}
        self._console.print(errors_table(results["name"], sets, results.get("manifests", {}), **shared))
        rates = {f"{split}/{rate}": found[rate] for split, found in sets.items() for rate in ("wer", "cer")}
        for tracker in self._trackers:
            tracker.add_results(flat_settings(self._cfg), rates)
        self.restore()
        path = self._run_dir / "results.json"
        try:
            write_atomically(path, json_text(results, indent=2) + "\n", fsync=True)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written: {error.strerror or error}. The training is complete and its checkpoints "
                "are kept; the same command with --checkpointing.load_auto_checkpoint evaluates again and writes it."
            ) from error


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

    def samples(self, split: str, iteration: int, samples: Sequence[tuple[str, str, str]]) -> None:
        """Does nothing: rank 0 has the same transcripts."""

    def picture(self, name: str, draw: Callable[[], bytes]) -> None:
        """Does nothing: rank 0 has the same recordings."""

    def rewind(self, iteration: int, *, in_epoch: bool) -> None:
        """Does nothing: rank 0 writes the file."""

    def restore(self) -> None:
        """Does nothing: rank 0 has the same files."""

    def transcripts(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Does nothing: rank 0 writes the file."""

    def progress(self, description: str, total: int, completed: int = 0) -> StepProgress:
        """A progress bar that is never drawn."""
        return StepProgress(Console(quiet=True), description, total, completed, disable=True)

    def results(self, results: Mapping[str, Any]) -> None:
        """Does nothing: rank 0 has the same results."""


def open_telemetry(run_dir: Path, cfg: Config, *, rank: int = 0, files: RunFiles | None = None) -> Telemetry:
    """The telemetry of a rank: rank 0 writes to the run's folder, the others leave their lines to it."""
    return Telemetry(run_dir, cfg, files=files) if rank == 0 else BufferedTelemetry()


def terminal(output: TolerantStream | None = None) -> Console:
    """The terminal; output to a file or pipe is laid out for 80 columns.

    On it, brackets and colons in names mean nothing.

    Args:
      output: where to print; None: standard output.
    """
    file = cast(IO[str] | None, output)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, file=file)
    if not console.is_terminal:
        console.width = 80
    return console


def errors_table(
    name: str,
    results: Mapping[str, Mapping[str, Any]],
    manifests: Mapping[str, str] = MappingProxyType({}),
    *,
    intervals: Mapping[str, Intervals] = MappingProxyType({}),
    first: Rate = "wer",
    columns: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """A table of error rates by split, with further columns that are the same for all splits.

    Args:
      name: of the run.
      results: the entry of ``results.json`` for each split (``val``, ``test``).
      manifests: the paths of the splits' manifests, for the lines below the table.
      intervals: confidence intervals of the rates, shown below them.
      first: the deciding error rate; it has the first column, and the last column counts its errors.
      columns: heading and text.
    """
    paths = [f"{split}: {shown(manifests[split])}" for split in results if split in manifests]
    caption = Text("\n".join(paths)) if paths else None
    padding = (0, 1, 0, 0) if columns else (0, 1)  # within 80 columns
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=padding)
    rates, wrong, of = in_order(first), *(("word_errors", "words") if first == "wer" else ("char_errors", "chars"))
    for heading in ("name", "set", *(f"{rate.upper()} %" for rate in rates), of, *columns):
        text = heading in ("name", "set")
        table.add_column(heading, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for split, row in results.items():
        bounds = intervals[split]._asdict() if split in intervals else {}
        cells = [_rate(row[rate], bounds.get(rate)) for rate in rates]
        table.add_row(shown(name), split, *cells, f"{row[wrong]}/{row[of]}", *columns.values())
    return table


def _rate(rate: float, interval: tuple[float, float] | None) -> str:
    return f"{rate:.3f}" + (f"\n({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def duration(seconds: float) -> str:
    """Formats a time in seconds for people.

    >>> duration(48), duration(720), duration(11100)
    ('48 s', '12 min', '3 h 05 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
