"""How soon ``--help`` is there, and how soon after its start a training has taken its first step."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from ds2f.config import Config
from ds2f.errors import InputError
from launch.bench.machine import spread
from launch.bench.options import Options

ROOT = Path(__file__).parents[2]
FLAGFILE = ROOT / "configs" / "quickstart.flags"
_INTERVAL = 0.005  # seconds between two looks at what a run has written


class Took(NamedTuple):
    """Seconds of one start."""

    wall: float
    processor: float  # of the process alone, without those that it started


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Starts ``launch.train`` as users do, once to warm the caches up and then a few times.

    Args:
      cfg: ``data_path`` must hold the synthetic corpus, as ``launch.prepare`` makes it.
      options: how many rounds.

    Raises:
      InputError: when the corpus is missing.
      RuntimeError: when a training ends before its first step is done; its own messages are in the error.
    """
    data_path = Path(cfg.data_path).absolute()
    if not (data_path / "synthetic_train_manifest.csv").exists():
        raise InputError(
            f"the start of a training is measured with the quickstart's corpus, which is not in {data_path}; make it "
            f"with: python -m launch.prepare --dataset=synthetic --data_path={data_path}"
        )
    flags = [f"--flagfile={FLAGFILE}", f"--data_path={data_path}", f"--device={cfg.device}"]
    helps = [help_time() for _ in range(options.rounds + 1)][1:]
    steps = [first_step_time(flags) for _ in range(options.rounds + 1)][1:]
    return {"flagfile": FLAGFILE.name, "help": _summary(helps), "first_step": _summary(steps)}


def help_time() -> Took:
    """Prints the help of ``launch.train`` to nowhere."""
    with tempfile.TemporaryDirectory() as folder:
        return _time(["--help"], Path(folder), lambda process: process.wait() == 0)


def first_step_time(flags: Sequence[str]) -> Took:
    """Starts a training, waits for the line that it writes after the first step, and kills it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        metrics = Path(folder, "run", "metrics.jsonl")
        own = [f"--run_dir={metrics.parent}", "--training.log_every=1"]
        return _time([*flags, *own], Path(folder), partial(_has_written, metrics))


def _has_written(file: Path, process: "subprocess.Popen[bytes]") -> bool:
    """Waits until the file holds something, or the process has ended and it does not."""
    while not (file.exists() and file.stat().st_size):
        if process.poll() is not None:
            return False
        time.sleep(_INTERVAL)
    return True


def _time(flags: Sequence[str], folder: Path, succeeds: Callable[["subprocess.Popen[bytes]"], bool]) -> Took:
    used, started = _used_by_children(), time.perf_counter()
    with (folder / "said").open("w+b") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.train", *flags],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            succeeded = succeeds(process)
            wall = time.perf_counter() - started
        finally:
            process.kill()
            process.wait()
        if not succeeded:
            said.seek(0)
            raise RuntimeError(f"launch.train ended too soon:\n{said.read().decode(errors='replace')}")
    return Took(wall, _used_by_children() - used)


def _used_by_children() -> float:
    """Seconds of processor that the children which have ended took."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _summary(taken: Sequence[Took]) -> dict[str, Any]:
    wall, processor = zip(*taken, strict=True)
    return {"seconds": spread(wall), "processor_seconds": spread(processor)}


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a row per command."""
    for result in results:
        table = Table("launch.train", title="from start to", title_justify="left")
        for heading in ("seconds", "of processor"):
            table.add_column(heading, justify="right")
        for name, heading in (("help", "--help"), ("first_step", f"first step, {result['flagfile']}")):
            cells = [result[name][unit] for unit in ("seconds", "processor_seconds")]
            table.add_row(
                heading, *(f"{cell['median']:.2f} ({cell['min']:.2f} to {cell['max']:.2f})" for cell in cells)
            )
        console.print(table)
