"""What several ranks on one machine cost, beside one process that accumulates the same micro-batches.

The ranks are real ones, started as training starts them. In every round all of them take a step on their shares of a
global batch; then rank 0 alone takes the step on all of the shares, with a thread for every processor, while the others
sleep. Sums are held back to the end of the backward pass, so that computing, sums and update can be told apart; a
further step, whose sums overlap as in training, gives the whole.
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
from rich.table import Table
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

RANKS = 8
PARTS = ("compute", "sums", "update", "whole", "processors")
TOLERANCE = 1e-3  # relative; sums in another order are a hundred times closer


class Phases(NamedTuple):
    """Seconds of one step."""

    compute: float  # gradients and their norm
    sums: float  # over the ranks: waiting for them
    update: float  # clipping, optimizer, statistics
    processors: float  # seconds of processor that the step took in all its processes
    grad_norm: float

    @property
    def whole(self) -> float:
        """From first to last."""
        return self.compute + self.sums + self.update


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Starts ``cfg.nproc_per_node`` ranks (for a single one, 8) and returns what they measured.

    Raises:
      RuntimeError: when the ranks failed; their messages stand above.
    """
    ranks = cfg.nproc_per_node if cfg.nproc_per_node > 1 else RANKS
    cfg = attrs.evolve(cfg, nproc_per_node=ranks)
    with tempfile.TemporaryDirectory(prefix="ds2f-ranks-") as folder:
        orders = {"config": config.to_dict(cfg), "rounds": options.rounds, "warmup": options.warmup}
        Path(folder, "orders.json").write_text(json.dumps(orders), encoding="utf-8")
        status = agent.launch(cfg, [sys.executable, "-m", "launch.bench.ranks", folder])
        if status:
            raise RuntimeError(f"the ranks ended with status {status}")
        return model_of(cfg) | json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))


def _work(folder: Path) -> int:
    """One rank: measures, and rank 0 writes what was found."""
    orders = json.loads((folder / "orders.json").read_text(encoding="utf-8"))
    cfg = config.from_dict(orders["config"])
    job = worker.job()
    backend = open_backend(cfg.device, local_rank=job.local_rank, local_ranks=job.local_ranks)
    group = open_group(
        backend.collectives, device=backend.device, timeout=cfg.collective_timeout, rdzv_timeout=cfg.rdzv_timeout
    )
    found = compare(cfg, backend, group, rounds=orders["rounds"], warmup=orders["warmup"])
    if group.rank == 0:
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    group.close()
    return 0


def compare(cfg: Config, backend: Backend, group: Group, *, rounds: int, warmup: int) -> dict[str, Any]:
    """Measures in turns; called by every rank, and rank 0's result is that of all.

    Raises:
      RuntimeError: on rank 0, when the first step has another gradient over the ranks than in one process.
    """
    cfg = program.resolve_kernel(cfg, backend, group)
    together, alone = _stepper(cfg, backend, group), _stepper(cfg, backend, ALONE)
    shards = [_shards(cfg, lengths, group.size) for lengths in _lengths(cfg, group.size, rounds)]
    own, processors = torch.get_num_threads(), cpu_count()
    taken: dict[str, list[Phases]] = {"ranks": [], "overlapped": [], "one": []}
    for index in range(-warmup, rounds):
        parts, found = shards[max(index, 0)], {}
        found["ranks"] = _timed(together, parts[group.rank : group.rank + 1], HeldBack(group))
        found["overlapped"] = _timed(together, parts[group.rank : group.rank + 1], HeldBack(group, hold=False))
        if group.rank == 0:
            torch.set_num_threads(processors)
            found["one"] = _timed(alone, parts, HeldBack(ALONE))
            torch.set_num_threads(own)
            if index == -warmup:
                _require_agreement(found)
        everyone = group.gather(found)
        for name, phases in found.items() if index >= 0 else ():
            used = sum(other[name].processors for other in everyone if name in other)
            taken[name].append(phases._replace(processors=used))
    return summary(taken) | {"ranks": group.size, "threads": own, "processors": processors} if group.rank == 0 else {}


def _require_agreement(found: dict[str, Phases]) -> None:
    ours, theirs = found["ranks"].grad_norm, found["one"].grad_norm
    if not abs(ours - theirs) <= TOLERANCE * theirs:
        raise RuntimeError(f"the ranks' gradient has norm {ours:g}, that of one process {theirs:g}")


def _lengths(cfg: Config, ranks: int, rounds: int) -> list[list[int]]:
    """Frames of the utterances in global batches, one for each round."""
    whole = attrs.evolve(cfg, data=attrs.evolve(cfg.data, batch_size=batch_of_all_ranks(cfg, ranks)))
    return [batch.lengths.tolist() for batch in epoch_batches(whole, rounds)]


def _shards(cfg: Config, lengths: list[int], ranks: int) -> list[Batch]:
    """The shards of a global batch, as the loader deals them out."""
    dealt = (shard(range(len(lengths)), index=rank, count=ranks) for rank in range(ranks))
    batches = [make_batch(cfg, [lengths[row] for row in rows], key=rank) for rank, rows in enumerate(dealt)]
    return [batch._replace(weight=torch.tensor(1 / len(lengths))) for batch in batches]


class HeldBack:
    """Collectives that note the time and, to ``hold``, start sums only when the first of them is waited for."""

    def __init__(self, group: Group, *, hold: bool = True) -> None:
        """Takes the ranks that sum; a single one has nothing to sum."""
        self.group, self.rank, self.size = group, group.rank, group.size
        self.spans = Spans()  # of waiting for all-reduces
        self.judged = 0.0  # when the verdict was asked for
        self._held: list[_Sum] | None = [] if hold else None

    def all_reduce(self, values: Tensor) -> Tensor:
        """The group's, at once: the forward and the backward pass go on with it."""
        return self.group.all_reduce(values)

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        """Starts a sum, or keeps it back."""
        started = _Sum(self, buffer)
        if self._held is None:
            started.start()
        else:
            self._held.append(started)
        return started

    def all_finite(self, flag: Tensor) -> Tensor:
        """The group's, when all ranks have come to it."""
        self.judged = _meet(self.group)
        return self.group.all_finite(flag)

    def start_held(self) -> None:
        """Starts what was kept back, when all ranks have come to it."""
        held, self._held = self._held, None
        if held is not None:
            _meet(self.group)
        for each in held or ():
            each.start()


class _Sum:
    def __init__(self, owner: HeldBack, buffer: Tensor) -> None:
        self._owner, self._buffer = owner, buffer

    def start(self) -> None:
        self._handle = self._owner.group.all_reduce_async(self._buffer)

    def wait(self) -> None:
        self._owner.start_held()
        with self._owner.spans.span(ALL_REDUCE):
            self._handle.wait()


Take = Callable[[list[Batch], HeldBack], Tensor]


def _stepper(cfg: Config, backend: Backend, group: Group) -> Take:
    """Makes a function that takes a training step on micro-batches and returns the norm of its gradient."""
    ours = program.build(cfg, backend, group)
    state = backend.place_state(ours.init())

    def take(batches: list[Batch], collectives: HeldBack) -> Tensor:
        nonlocal state
        state, metrics = ours.step(state, batches, key=0, collectives=collectives)
        backend.synchronize()
        return metrics.grad_norm

    return take


def _timed(take: Take, batches: list[Batch], collectives: HeldBack) -> Phases:
    started, used = _meet(collectives.group), time.process_time()
    norm = take(batches, collectives)
    used = time.process_time() - used
    ended = _meet(collectives.group)
    summing = collectives.spans.seconds().get(ALL_REDUCE, 0.0)
    computed = collectives.judged - started - summing
    return Phases(computed, summing, ended - collectives.judged, used, float(norm))


def _meet(group: Group) -> float:
    """Waits for all ranks and returns the time."""
    group.gather(None)
    return time.perf_counter()


def summary(taken: dict[str, list[Phases]]) -> dict[str, Any]:
    """What the rounds came to: medians in seconds, and what the ranks cost relative to one process.

    ``compared`` leaves out the sums and all updates but one; ``whole`` is the step as training takes it, and
    ``processors_ratio`` what that takes of them, which other programs on the machine change least.
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
        table = Table("step of", title=title, title_justify="left")
        for heading in ("compute s", "sums s", "update s", "whole s", "processor s"):
            table.add_column(heading, justify="right")
        one = f"one process, {result['processors']} threads"
        names = {"ranks": f"{ranks} ranks, sums held back", "overlapped": f"{ranks} ranks", "one": one}
        for name, heading in names.items():
            parts = ["compute", "sums", "update"] if name != "overlapped" else []
            cells = [f"{seconds[name][part]:.3f}" for part in (*parts, "whole", "processors")]
            table.add_row(heading, *[""] * (5 - len(cells)), *cells)
        console.print(table)
        compared, whole = result["compared"], result["whole"]
        console.print(
            f"Without sums and with one update the ranks take {compared['median']:.3f} times as long as one process "
            f"({compared['min']:.3f} to {compared['max']:.3f}); with all, {whole['median']:.3f} times, and "
            f"{result['processors_ratio']['median']:.3f} times as much of the processors."
        )


if __name__ == "__main__":
    sys.exit(worker.work(lambda: _work(Path(sys.argv[1]))))
