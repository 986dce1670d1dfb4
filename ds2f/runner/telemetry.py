"""What a run says while it goes and leaves when it ends: messages, scalars, progress, results."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ds2f import config
from ds2f.config import Config
from ds2f.errors import InputError

_LIBRARY = logging.getLogger("ds2f")


def claim_run_dir(
    run_dir: Path,
    cfg: Config,
    flags_text: Callable[[Config], str],
    *,
    ranks: int = 1,
    job: str = "",
    restarted: bool = False,
) -> Config:
    """Makes the run's folder and writes its settings: the first thing that a run does, on rank 0 alone.

    Args:
      run_dir: the folder; it may exist, but a run that it holds is only continued when
        ``checkpointing.load_auto_checkpoint`` is set, or when the same job wrote it.
      cfg: the settings.
      flags_text: makes a flagfile that repeats a run, written to ``flags.txt``.
      ranks: how many there are.
      job: a name that all starts of one job share; empty when there is none.
      restarted: whether this start follows another one of the same job.

    Returns:
      The settings as written to ``config.json``: with the global batch, which a continued run keeps whatever the number
      of ranks, and with ``checkpointing.load_auto_checkpoint`` where the job has been here before.

    Raises:
      InputError: when the folder holds another run, cannot be written, or holds a run of another model or global batch.
    """
    stored, metrics, claim = run_dir / "config.json", run_dir / "metrics.jsonl", run_dir / "job.txt"
    if restarted or (job and claim.exists() and claim.read_text(encoding="utf-8") == job):
        cfg = attrs.evolve(cfg, checkpointing=attrs.evolve(cfg.checkpointing, load_auto_checkpoint=True))
    begun = metrics.exists() and metrics.stat().st_size > 0  # a run that failed before its first step is no run
    if begun and not cfg.checkpointing.load_auto_checkpoint:
        raise InputError(
            f"{run_dir} already holds a run. Go on with it: --checkpointing.load_auto_checkpoint. "
            "Start another: --run_dir=OTHER (or remove the folder)."
        )
    global_batch = cfg.data.global_batch_size or cfg.data.batch_size * ranks
    if cfg.checkpointing.load_auto_checkpoint and stored.exists():
        before = config.from_dict(json.loads(stored.read_text(encoding="utf-8")))
        if begun:
            _require_same_run(run_dir, before, cfg)
        global_batch = before.data.global_batch_size or global_batch
    cfg = attrs.evolve(cfg, data=attrs.evolve(cfg.data, global_batch_size=global_batch))
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(stored, json.dumps(config.to_dict(cfg), indent=2) + "\n")
        write_atomically(run_dir / "flags.txt", flags_text(cfg))
        if job:
            write_atomically(claim, job)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(f"--run_dir={run_dir} cannot be written: {error}. Give another folder.") from error
    return cfg


def _require_same_run(run_dir: Path, before: Config, cfg: Config) -> None:
    changed = [
        f"model.{name}" for name, value in attrs.asdict(cfg.model).items() if value != getattr(before.model, name)
    ]
    if changed:
        raise InputError(
            f"{run_dir} holds a run of another model ({', '.join(changed)} differ). "
            f"Use --flagfile={run_dir / 'flags.txt'}, or another --run_dir."
        )
    kept = before.data.global_batch_size
    if cfg.data.global_batch_size not in (0, kept):
        raise InputError(
            f"{run_dir} holds a run whose global batch is {kept}; --data.global_batch_size="
            f"{cfg.data.global_batch_size} would change it in the middle. Leave the flag out, or use another --run_dir."
        )


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


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
        self._log = (run_dir / "log.txt").open("a", encoding="utf-8")
        self._metrics = (run_dir / "metrics.jsonl").open("a", encoding="utf-8")
        self._show_progress = cfg.visualization.progress and self._console.is_terminal
        self._tensorboard = None
        if cfg.visualization.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and not every run wants it

            self._tensorboard = SummaryWriter(str(run_dir / "tensorboard"))

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
        self._console.print(message, markup=False)
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")
        self._log.flush()

    def scalars(self, kind: str, iteration: int, values: Mapping[str, Any]) -> None:
        """Adds a line to ``metrics.jsonl`` and its numbers to TensorBoard under ``kind/``."""
        self._metrics.write(json.dumps({"kind": kind, "iteration": iteration, **values}) + "\n")
        self._metrics.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, iteration)

    def progress(self, description: str, total: int, completed: int = 0) -> "StepProgress":
        """A progress bar over the steps of an epoch; it draws on a terminal only."""
        return StepProgress(self._console, description, total, completed, disable=not self._show_progress)

    def results(self, results: Mapping[str, Any]) -> None:
        """Writes ``results.json`` and prints the table that users know."""
        write_atomically(self._run_dir / "results.json", json.dumps(results, indent=2) + "\n")
        sets = {split: results[split] for split in ("val", "test") if split in results}
        columns = {"FPS": f"{results['utterances_per_second']:.1f}", "epochs": str(results["epochs"])}
        columns |= {"AMP": results["amp"], "Torch": results["torch"].split("+")[0]}
        self._console.print(errors_table(results["name"], sets, **columns))


class Relay(Telemetry):
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
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def advance(self, text: str | None = None) -> None:
        """Counts one step, and shows ``text`` when it is given."""
        self._progress.advance(self._task)
        if text is not None:
            self._progress.update(self._task, text=text)


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
