"""What loading costs: processor time of an utterance in the loader processes and in the rank; memory over an epoch."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from rich.console import Console

from ds2f.data import audio_parts, collate, loading
from ds2f.data.dataset import Dataset
from ds2f.data.loading import Loader
from ds2f.features import log_spectrogram
from launch.tables import terminal_table

RATE, CORES, SHARE = 3000, 16, 0.02  # the target: utterances a second, loader cores, share of a step in the rank
_QUARTERS = 4  # of the loaded batches; memory is looked at after each
_BATCHES = 64  # that are loaded, at most
_LOADED = 128  # utterances whose loading is taken apart
_SPECTROGRAM = "spectrogram"


class Verdict(NamedTuple):
    """What a rate of utterances needs."""

    cores: float  # of loader processes
    share: float  # of the rank's time, 0 to 1


def verdict(found: dict[str, Any], rate: float = RATE) -> Verdict:
    """The loader cores for a rate in utterances a second, and the share of a step that the rank spends on them.

    >>> verdict({"loader": {"open": 0.002, "spectrogram": 0.003}, "rank": {"plan": 1e-6, "receive": 3e-6}}, 1000)
    Verdict(cores=5.0, share=0.004)
    """
    return Verdict(rate * sum(found["loader"].values()), rate * sum(found["rank"].values()))


def measure(loader: Loader, *, batch_size: int, epoch: int) -> dict[str, Any]:
    """Takes the loading of utterances apart, and loads batches in the order of an epoch.

    Args:
      loader: of a training set, with loader processes.
      batch_size: of this rank.
      epoch: an epoch that was not loaded before.

    Returns:
      ``loader`` and ``rank``: processor seconds of an utterance by stage, in a loader process and in the thread of the
      rank that waits for batches; ``seconds``: of sound in an utterance; ``memory``: proportional memory after each
      quarter of the batches, bytes, of the rank and of its loader processes.
    """
    dataset = loader.dataset
    seconds = float(dataset.num_samples.mean()) / dataset.spect.sample_rate
    stages = _in_loader_process(dataset, batch_size, epoch)
    began = time.thread_time()
    loading.plan(dataset, epoch=epoch, batch_size=loader.batch_size)
    planning = (time.thread_time() - began) / len(dataset.examples)
    receiving, memory = _drain(loader, epoch)
    rank = {"plan of the epoch": planning, "batch: receive, give back": receiving}
    return {"seconds": seconds, "loader": stages, "rank": rank, "memory": memory}


def _in_loader_process(dataset: Dataset, batch_size: int, epoch: int) -> dict[str, float]:
    """Processor seconds of an utterance by stage, on one thread, as in a loader process."""
    every = -(-len(dataset.examples) // _LOADED)
    chosen = sorted(range(len(dataset.examples))[::every], key=lambda index: int(dataset.num_samples[index]))
    examples = [dataset.examples[index] for index in chosen]
    starts = range(0, len(chosen), batch_size)
    shards = [collate.Shard(epoch, tuple(chosen[start : start + batch_size]), 1.0) for start in starts]
    rate, limit = dataset.spect.sample_rate, dataset.data.max_recording_seconds

    def read() -> list[torch.Tensor]:
        parts = [
            audio_parts.load(each.audio, each.start, each.num_samples, sample_rate=rate, max_seconds=limit)
            for each in examples
        ]
        return [torch.from_numpy(part.samples) for part in parts]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        waveforms = read()
        found = {
            "manifest row": _processor(lambda: [dataset.examples[index] for index in chosen]),
            "recording: open, decode": _processor(read),
            _SPECTROGRAM: _processor(lambda: [log_spectrogram(each, dataset.spect) for each in waveforms]),
        }
        whole = _processor(lambda: [collate.load(dataset, shard) for shard in shards])
    finally:
        torch.set_num_threads(threads)
    found["augmentation, padding, batch"] = max(0.0, whole - sum(found.values()))
    return {name: seconds / len(chosen) for name, seconds in found.items()}


def _processor(do: Callable[[], object]) -> float:
    """Processor seconds of this thread, the least of three."""
    taken = []
    for _ in range(3):
        began = time.thread_time()
        do()
        taken.append(time.thread_time() - began)
    return min(taken)


def _drain(loader: Loader, epoch: int) -> tuple[float, list[dict[str, int]]]:
    """Loads batches of an epoch. Returns the rank's seconds of an utterance, and the memory after each quarter."""
    total = min(_BATCHES, loader.steps)
    ends = [quarter * total // _QUARTERS for quarter in range(1, _QUARTERS + 1)]
    batches, received, memory = loader.epoch(epoch), [], []
    batch = next(batches)  # with the plan of the epoch
    for number in range(1, total + 1):
        batch.features.sum()  # reads the batch, as a step does
        if number in ends:
            memory.append({"rank": proportional("self"), "loaders": _loaders()})
        if number < total:
            began = time.thread_time()
            batch = next(batches)  # and gives back the batch before
            received.append((time.thread_time() - began) / max(1, len(batch.ids)))
    return (median(received) if received else 0.0), memory


def proportional(process: int | str) -> int:
    """Proportional memory (PSS) of a process, bytes."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8")
    return next(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def _loaders() -> int:
    return sum(proportional(process.pid) for process in multiprocessing.active_children() if process.pid)


def show(found: dict[str, Any], console: Console) -> None:
    """Prints the stages and the verdict."""
    title = f"an utterance of {found['seconds']:.1f} s on its way to a step, of one core"
    table = terminal_table(title, ["stage"], ["microseconds"])
    for place in ("loader", "rank"):
        for stage, seconds in found[place].items():
            table.add_row(f"{'loader process' if place == 'loader' else 'rank'}: {stage}", f"{1e6 * seconds:.1f}")
    console.print(table)
    cores, share = verdict(found)
    spectrogram = found["seconds"] / found["loader"][_SPECTROGRAM]
    memory = "; ".join(f"{each['rank'] / 1e6:.0f} and {each['loaders'] / 1e6:.0f}" for each in found["memory"])
    console.print(
        f"{RATE:,} utterances a second need {cores:.1f} loader cores (target: at most {CORES}) and {100 * share:.2f} % "
        f"of the rank's time (target: less than {100 * SHARE:.0f} %); spectrograms: {spectrogram:,.0f} times real "
        "time\n"
        f"memory of rank and loader processes after each quarter of the batches, MB: {memory}"
    )
