"""Start-up time: seconds to the text of ``--help``, and to the end of the first training step, stage by stage."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console

from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner import start_times
from launch.bench.machine import spread
from launch.bench.options import Options
from launch.tables import terminal_table

ROOT = Path(__file__).parents[2]
FLAGFILE = ROOT / "configs" / "quickstart.flags"
_INTERVAL = 0.005  # seconds between two checks for output of a run


class StartTime(NamedTuple):
    """Seconds of one start."""

    wall: float
    processor: float  # of the process itself, without its child processes
    stages: Mapping[str, float] = MappingProxyType({})  # of the wall time, in order


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Starts ``launch.train`` once to warm up the caches, then once per round.

    Args:
      cfg: ``data_path`` must contain the synthetic corpus of ``launch.prepare``.
      options: the number of rounds.

    Raises:
      InputError: the corpus is missing.
      RuntimeError: a training ended before its first step; the error contains the messages of the training.
    """
    data_path = Path(cfg.data_path).absolute()
    if not (data_path / "synthetic_train_manifest.csv").exists():
        raise InputError(
            f"the part startup trains on the corpus of the quickstart, which is not in {data_path}; make it with: "
            f"python -m launch.prepare --dataset=synthetic --data_path={data_path}"
        )
    flags = [f"--flagfile={FLAGFILE}", f"--data_path={data_path}", f"--device={cfg.device}"]
    helps = [help_time() for _ in range(options.rounds + 1)][1:]
    steps = [first_step_time(flags) for _ in range(options.rounds + 1)][1:]
    stages = {stage: spread([start.stages[stage] for start in steps]) for stage in steps[0].stages}
    return {"flagfile": FLAGFILE.name, "help": _summary(helps), "first_step": _summary(steps), "stages": stages}


def help_time() -> StartTime:
    """Runs ``launch.train --help``."""
    with tempfile.TemporaryDirectory() as folder:
        return _time(["--help"], Path(folder), lambda process: process.wait() == 0)


def first_step_time(flags: Sequence[str]) -> StartTime:
    """Starts a training, waits for the line of metrics after its first step, and kills the training."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        metrics = Path(folder, "run", "metrics.jsonl")
        own = [f"--run_dir={metrics.parent}", "--training.log_every=1"]
        marks = Path(folder, "marks")
        began = time.monotonic()
        taken = _time([*flags, *own], Path(folder), partial(_has_written, metrics), {start_times.VARIABLE: str(marks)})
        return taken._replace(stages=_stages(began, start_times.read(marks), began + taken.wall))


def _stages(began: float, marks: Sequence[start_times.Mark], ended: float) -> dict[str, float]:
    """Seconds of each stage, from the mark before it to its own; the last stage is the rest."""
    limits = [start_times.Mark("", began), *marks, start_times.Mark("line of metrics", ended)]
    return {mark.stage: mark.time - before.time for before, mark in pairwise(limits)}


def _has_written(file: Path, process: "subprocess.Popen[bytes]") -> bool:
    """Waits for content of the file; False if the process ends without any."""
    while not (file.exists() and file.stat().st_size):
        if process.poll() is not None:
            return False
        time.sleep(_INTERVAL)
    return True


def _time(
    flags: Sequence[str],
    folder: Path,
    succeeds: Callable[["subprocess.Popen[bytes]"], bool],
    variables: Mapping[str, str] = MappingProxyType({}),
) -> StartTime:
    used, started = _used_by_children(), time.perf_counter()
    with (folder / "output").open("w+b") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.train", *flags],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | variables,
        )
        try:
            succeeded = succeeds(process)
            wall = time.perf_counter() - started
        finally:
            process.kill()
            process.wait()
        if not succeeded:
            output.seek(0)
            raise RuntimeError(f"launch.train ended before its first step:\n{output.read().decode(errors='replace')}")
    return StartTime(wall, _used_by_children() - used)


def _used_by_children() -> float:
    """Seconds of processor time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _summary(taken: Sequence[StartTime]) -> dict[str, Any]:
    return {
        "seconds": spread([start.wall for start in taken]),
        "processor_seconds": spread([start.processor for start in taken]),
    }


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a row per command."""
    for result in results:
        table = terminal_table("start-up of launch.train", ["until"], ["seconds", "seconds of processor"])
        for name, heading in (("help", "--help"), ("first_step", f"first step, {result['flagfile']}")):
            cells = [result[name][unit] for unit in ("seconds", "processor_seconds")]
            table.add_row(
                heading, *(f"{cell['median']:.2f} ({cell['min']:.2f} to {cell['max']:.2f})" for cell in cells)
            )
        for stage, seconds in result["stages"].items():
            table.add_row(f"  {stage}", f"{seconds['median']:.2f} ({seconds['min']:.2f} to {seconds['max']:.2f})", "")
        console.print(table)
