"""The cost of several ranks on one machine, beside one process that accumulates the same micro-batches.

The ranks start as in a training. In every round, all ranks take a step on their shards of a global batch. Then rank 0
alone takes the step on all shards, with a thread per processor, while the other ranks sleep. All-reduces are deferred
to the end of the backward pass, so that computing, all-reduce and update are timed apart. A further step, whose
all-reduces overlap the backward pass as in training, gives the time of the whole step.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import attrs
import torch
from rich.console import Console
from torch import Tensor

from ds2f import config
from ds2f.config import Config
from ds2f.data.sampling import shard
from ds2f.processes import cpu_count
from ds2f.runner import program
from ds2f.runner.device.backend import Backend, open_backend
from ds2f.runner.distributed import agent, worker
from ds2f.runner.distributed.collectives import ALONE, Group, open_group
from ds2f.runner.spans import ALL_REDUCE, Spans
from ds2f.runner.splits import batch_of_all_ranks
from ds2f.types import Batch, Handle
from launch.bench.machine import model_of, spread
from launch.bench.options import Options
from launch.synthetic_batches import epoch_batches, make_batch
from launch.tables import terminal_table

RANKS = 8
PARTS = ("compute", "sums", "update", "whole", "processors")
TOLERANCE = 1e-3  # relative; another order of summation makes a hundredth of it


class Phases(NamedTuple):
    """Seconds of one step."""

    compute: float  # gradients and their norm
    sums: float  # waiting for all-reduces
    update: float  # clipping, optimizer, statistics
    processors: float  # seconds of processor time, over all processes of the step
    grad_norm: float

    @property
    def whole(self) -> float:
        """Seconds of the whole step."""
        return self.compute + self.sums + self.update


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Starts ``cfg.nproc_per_node`` ranks (8 if it is 1) and returns their results.

    Raises:
      RuntimeError: the ranks failed; they have printed their messages.
    """
    ranks = cfg.nproc_per_node if cfg.nproc_per_node > 1 else RANKS
    cfg = attrs.evolve(cfg, nproc_per_node=ranks)
    with tempfile.TemporaryDirectory(prefix="ds2f-ranks-") as folder:
        settings = {"config": config.to_dict(cfg), "rounds": options.rounds, "warmup": options.warmup}
        Path(folder, "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        status = agent.launch(cfg, [sys.executable, "-m", "launch.bench.ranks", folder])
        if status:
            raise RuntimeError(f"the ranks ended with status {status}")
        return model_of(cfg) | json.loads(Path(folder, "results.json").read_text(encoding="utf-8"))


def _work(folder: Path) -> int:
    """Runs one rank; rank 0 writes the results."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    cfg = config.from_dict(settings["config"])
    job = worker.job()
    backend = open_backend(cfg.device, local_rank=job.local_rank, local_ranks=job.local_ranks)
    group = open_group(
        backend.collectives, device=backend.device, timeout=cfg.collective_timeout, rdzv_timeout=cfg.rdzv_timeout
    )
    found = compare(cfg, backend, group, rounds=settings["rounds"], warmup=settings["warmup"])
    if group.rank == 0:
        (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    group.close()
    return 0


def compare(cfg: Config, backend: Backend, group: Group, *, rounds: int, warmup: int) -> dict[str, Any]:
    """Measures in turns. Every rank calls this function; the result is on rank 0.

    Raises:
      RuntimeError: on rank 0, if the gradient norms of the ranks and of one process differ in the first step.
    """
    cfg = program.resolve_kernel(cfg, backend, group)
    together, alone = _stepper(cfg, backend, group), _stepper(cfg, backend, ALONE)
    shards = [_shards(cfg, lengths, group.size) for lengths in _lengths(cfg, group.size, rounds)]
    own, processors = torch.get_num_threads(), cpu_count()
    taken: dict[str, list[Phases]] = {"ranks": [], "overlapped": [], "one": []}
    for index in range(-warmup, rounds):
        parts, found = shards[max(index, 0)], {}
        found["ranks"] = _timed(together, parts[group.rank : group.rank + 1], TimedCollectives(group))
        found["overlapped"] = _timed(together, parts[group.rank : group.rank + 1], TimedCollectives(group, defer=False))
        if group.rank == 0:
            torch.set_num_threads(processors)
            found["one"] = _timed(alone, parts, TimedCollectives(ALONE))
            torch.set_num_threads(own)
            if index == -warmup:
                _require_agreement(found)
        everyone = group.gather(found)
        for name, phases in found.items() if index >= 0 else ():
            used = sum(Phases(*other[name]).processors for other in everyone if name in other)
            taken[name].append(phases._replace(processors=used))
    return summary(taken) | {"ranks": group.size, "threads": own, "processors": processors} if group.rank == 0 else {}


def _require_agreement(found: dict[str, Phases]) -> None:
    ranks, one = found["ranks"].grad_norm, found["one"].grad_norm
    if not abs(ranks - one) <= TOLERANCE * one:
        raise RuntimeError(f"the gradient has norm {ranks:g} over the ranks, but {one:g} in one process")


def _lengths(cfg: Config, ranks: int, rounds: int) -> list[list[int]]:
    """Frames of the utterances of a global batch per round."""
    joined = attrs.evolve(cfg, data=attrs.evolve(cfg.data, batch_size=batch_of_all_ranks(cfg, ranks)))
    return [batch.lengths.tolist() for batch in epoch_batches(joined, rounds)]


def _shards(cfg: Config, lengths: list[int], ranks: int) -> list[Batch]:
    """The shards of a global batch, with the rows that the loader gives to each rank."""
    dealt = (shard(range(len(lengths)), index=rank, count=ranks) for rank in range(ranks))
    batches = [make_batch(cfg, [lengths[row] for row in rows], key=rank) for rank, rows in enumerate(dealt)]
    return [batch._replace(weight=torch.tensor(1 / len(lengths))) for batch in batches]


class TimedCollectives:
    """Collectives of a group that record times; with ``defer``, all-reduces start at the first wait for any of them."""

    def __init__(self, group: Group, *, defer: bool = True) -> None:
        """Takes the group that does the work."""
        self.group, self.rank, self.size = group, group.rank, group.size
        self.spans = Spans()  # waits for all-reduces
        self.judged = 0.0  # time of the request for the verdict, seconds
        self._deferred: list[_AllReduce] | None = [] if defer else None

    def all_reduce(self, values: Tensor) -> Tensor:
        """The all-reduce of the group, never deferred: the forward and the backward pass need its result."""
        return self.group.all_reduce(values)

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        """Starts or defers an all-reduce."""
        handle = _AllReduce(self, buffer)
        if self._deferred is None:
            handle.start()
        else:
            self._deferred.append(handle)
        return handle

    def all_finite(self, flag: Tensor) -> Tensor:
        """The verdict of the group, once all ranks have arrived."""
        self.judged = _wait_for_all(self.group)
        return self.group.all_finite(flag)

    def start_deferred(self) -> None:
        """Starts the deferred all-reduces, once all ranks have arrived."""
        deferred, self._deferred = self._deferred, None
        if deferred is not None:
            _wait_for_all(self.group)
        for each in deferred or ():
            each.start()


class _AllReduce:
    def __init__(self, owner: TimedCollectives, buffer: Tensor) -> None:
        self._owner, self._buffer = owner, buffer

    def start(self) -> None:
        self._handle = self._owner.group.all_reduce_async(self._buffer)

    def wait(self) -> None:
        self._owner.start_deferred()
        with self._owner.spans.span(ALL_REDUCE):
            self._handle.wait()


Take = Callable[[list[Batch], TimedCollectives], Tensor]


def _stepper(cfg: Config, backend: Backend, group: Group) -> Take:
    """Makes a function that takes a training step on micro-batches and returns the gradient norm."""
    training = program.build(cfg, backend, group)
    state = backend.place_state(training.init())

    def take(batches: list[Batch], collectives: TimedCollectives) -> Tensor:
        nonlocal state
        state, metrics = training.step(state, batches, key=0, collectives=collectives)
        backend.synchronize()
        return metrics.grad_norm

    return take


def _timed(take: Take, batches: list[Batch], collectives: TimedCollectives) -> Phases:
    started, used = _wait_for_all(collectives.group), time.process_time()
    norm = take(batches, collectives)
    used = time.process_time() - used
    ended = _wait_for_all(collectives.group)
    waiting = collectives.spans.seconds().get(ALL_REDUCE, 0.0)
    computed = collectives.judged - started - waiting
    return Phases(computed, waiting, ended - collectives.judged, used, float(norm))


def _wait_for_all(group: Group) -> float:
    """Waits for all ranks; returns the time in seconds."""
    group.gather(None)
    return time.perf_counter()


def summary(taken: dict[str, list[Phases]]) -> dict[str, Any]:
    """Medians over the rounds in seconds, and the cost of the ranks relative to one process.

    ``compared`` counts computing and one update, without all-reduces. ``whole`` counts the step as in training.
    ``processors_ratio`` counts the processor time of that step, which other programs on the machine change least.
    """
    compared = [
        (ranks.compute + one.update) / (one.compute + one.update)
        for ranks, one in zip(taken["ranks"], taken["one"], strict=True)
    ]
    whole = [overlapped.whole / one.whole for overlapped, one in zip(taken["overlapped"], taken["one"], strict=True)]
    seconds = {
        name: {field: median(getattr(phases, field) for phases in found) for field in PARTS}
        for name, found in taken.items()
    }
    used = [
        overlapped.processors / one.processors
        for overlapped, one in zip(taken["overlapped"], taken["one"], strict=True)
    ]
    ratios = {"compared": spread(compared), "whole": spread(whole), "processors_ratio": spread(used)}
    return {"rounds": len(compared), "seconds": seconds} | ratios


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a table for every case."""
    for result in results:
        seconds, ranks = result["seconds"], result["ranks"]
        title = f"{ranks} ranks on {result['processors']} processors, {result['preset']}, {result['batch_size']} each"
        numbers = ("compute s", "all-reduce s", "update s", "whole s", "processor s")
        table = terminal_table(title, ["step of"], numbers)
        one = f"one process, {result['processors']} threads"
        names = {"ranks": f"{ranks} ranks, all-reduces deferred", "overlapped": f"{ranks} ranks", "one": one}
        for name, heading in names.items():
            parts = ["compute", "sums", "update"] if name != "overlapped" else []
            cells = [f"{seconds[name][part]:.3f}" for part in (*parts, "whole", "processors")]
            table.add_row(heading, *[""] * (5 - len(cells)), *cells)
        console.print(table)
        compared, whole = result["compared"], result["whole"]
        console.print(
            f"Computing and one update take the ranks {compared['median']:.3f} times as long as one process "
            f"({compared['min']:.3f} to {compared['max']:.3f}); a whole step takes {whole['median']:.3f} times "
            f"as long, and {result['processors_ratio']['median']:.3f} times the processor time."
        )


if __name__ == "__main__":
    sys.exit(worker.work(lambda: _work(Path(sys.argv[1]))))
