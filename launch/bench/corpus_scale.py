"""A large drawn corpus: time and memory of its opening, of planning for 64 ranks, of a resume, and costs of loading."""

import json
import multiprocessing
import os
import random
import tempfile
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from rich.console import Console

from ds2f.config import Config
from ds2f.data import loading
from ds2f.runner.splits import Split
from launch.bench import loading_costs
from launch.bench.options import Options
from launch.tables import terminal_table

_RANKS = 64
_RECORDINGS = 1000  # of 1 to 17 s, which all rows share
_WORDS = ("GO", "STOP", "ENTER", "ERASE", "SEVENTEEN", "OCTOBER", "THE", "STREET", "NUMBER", "FORTY", "RUBOUT", "HELP")


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Draws a manifest of ``options.rows`` rows, and opens it twice, each time in a new process.

    The rows name few recordings, of noise, so that the files are in the page cache: opened and checked is
    every row's recording.
    """
    with tempfile.TemporaryDirectory() as folder:
        size = draw(Path(folder), options.rows)
        data = attrs.evolve(
            cfg.data,
            train_manifest=f"{folder}/train.jsonl",
            max_manifest_bytes=max(cfg.data.max_manifest_bytes, size),
            cache_features=False,
        )
        own = attrs.evolve(cfg, data=data, data_path=folder)
        starts = [_in_new_process(own, costs) for costs in (False, True)]
        index = sum(path.stat().st_size for path in Path(folder, "cache").rglob("*") if path.is_file())
    return {
        "rows": options.rows,
        "ranks": _RANKS,
        "batch_size": cfg.data.batch_size,
        "manifest_bytes": size,
        "index_bytes": index,
        "starts": starts,
        "costs": starts[-1].pop("costs"),
    }


def draw(folder: Path, rows: int) -> int:
    """Writes a manifest in JSON lines and its recordings; returns the manifest's bytes."""
    drawn = random.Random(0)
    sounds = folder / "corpora/librispeech/train-clean-360/103/1240"
    sounds.mkdir(parents=True)
    seconds = [1 + 16 * drawn.random() for _ in range(_RECORDINGS)]
    noise = np.random.default_rng(0).normal(0, 3000, 17 * 16000).astype("<i2").tobytes()
    for number, length in enumerate(seconds):
        with wave.open(str(sounds / f"103-1240-{number:04}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(noise[: 2 * round(16000 * length)])
    path = folder / "train.jsonl"
    with path.open("w") as file:
        for row in range(rows):
            number = drawn.randrange(_RECORDINGS)
            words = " ".join(drawn.choices(_WORDS, k=max(1, round(1.1 * seconds[number]))))
            name = f"{sounds}/103-1240-{number:04}.wav"
            line = {"audio_filepath": name, "duration": round(seconds[number], 2), "text": f"{words} {_spelt(row)}"}
            file.write(json.dumps(line, allow_nan=False) + "\n")
    return path.stat().st_size


def _spelt(number: int) -> str:
    """Letters in place of the digits."""
    return str(number).translate(str.maketrans("0123456789", "ABCDEFGHIJ"))


def _in_new_process(cfg: Config, costs: bool) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_start, cfg, costs).result()


def _start(cfg: Config, costs: bool) -> dict[str, Any]:
    """Opens the training set and plans, as one rank of many; seconds, and bytes beyond those of the imports.

    With ``costs``, what loading costs as well.
    """
    before, found = _memory(), dict[str, Any]()
    with _timed("open", found):
        split = Split.read("train", cfg, train=True)
    found |= {f"open_{name}": value - before[name] for name, value in _memory().items()}
    with _timed("plan", found):
        loading.plan(split.dataset, epoch=1, batch_size=_RANKS * cfg.data.batch_size)
    with _timed("resume", found):
        loader = split.load(attrs.evolve(cfg, data=attrs.evolve(cfg.data, num_workers=1)), rank=5, ranks=_RANKS)
        next(iter(loader.epoch(1, start=loader.steps // 2)))
    children = [process.pid for process in multiprocessing.active_children()]
    both = [_memory(pid) for pid in (os.getpid(), *children)]
    found |= {f"loading_{name}": sum(each[name] for each in both) - before[name] for name in before}
    if costs:
        found["costs"] = loading_costs.measure(loader, batch_size=cfg.data.batch_size, epoch=2)
    loader.close()
    return found


@contextmanager
def _timed(name: str, found: dict[str, Any]) -> Iterator[None]:
    """Measures a block: seconds, and processor seconds of this process, which other programs disturb less."""
    clock, processor = time.perf_counter(), time.process_time()
    yield
    found |= {name: time.perf_counter() - clock, f"{name}_processor": time.process_time() - processor}


def _memory(pid: int | None = None) -> dict[str, int]:
    """Proportional and private memory of a process, bytes; private is what no file on the disk holds."""
    text = Path(f"/proc/{pid or 'self'}/smaps_rollup").read_text(encoding="utf-8")
    sizes = {name: 1024 * int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in text.splitlines()[1:])}
    return {"pss": sizes["Pss"], "anonymous": sizes["Pss_Anon"]}


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a row per start."""
    for result in results:
        rows = result["rows"]
        table = terminal_table(
            f"{rows:,} utterances, {result['ranks']} ranks of {result['batch_size']}, manifest "
            f"{result['manifest_bytes'] / 1e6:.0f} MB, index {result['index_bytes'] / 1e6:.0f} MB; "
            "seconds and processor seconds; bytes of proportional memory, and those that no file holds",
            ["start"],
            ["open, s", "plan, s", "resume, s", "bytes/utt", "no file", "with loader", "no file"],
        )
        for number, start in enumerate(result["starts"], start=1):
            sizes = [start[name] / rows for name in ("open_pss", "open_anonymous", "loading_pss", "loading_anonymous")]
            times = [f"{start[name]:.2f}, {start[f'{name}_processor']:.2f}" for name in ("open", "plan", "resume")]
            table.add_row(str(number), *times, *(f"{each:.0f}" for each in sizes))
        console.print(table)
        loading_costs.show(result["costs"], console)
