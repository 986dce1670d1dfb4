"""Holds the memory that a training needs to the memory that there is, before the first step and before loaders start.

The need is computed (``ds2f.footprint``), nothing is allocated for it. A want of memory that comes all the same is said
in the same words: ``explain``.
"""

import errno
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import attrs

from ds2f import footprint, machine_memory
from ds2f.config import Config
from ds2f.data import loading, padding
from ds2f.errors import InputError
from ds2f.footprint import Batch, Footprint
from ds2f.machine_memory import SMALLER, Room
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import Group
from ds2f.runner.distributed.worker import Job
from ds2f.runner.splits import Split, batch_of_all_ranks, global_batch, micro_batches, with_useful_loaders

_WANT = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


class Need(NamedTuple):
    """What one rank needs, and all ranks of this machine together."""

    rank: Footprint
    batch: Batch  # the largest micro-batch
    per_process: int  # bytes on the host
    host: int  # bytes of all ranks of this machine


def require(cfg: Config, splits: Mapping[str, Split], backend: Backend, group: Group, job: Job) -> None:
    """Raises if the training does not fit, on a device or on a machine; never with ``probe_memory=False``.

    All ranks call it. The first rank of a machine answers for the machine, every rank for its device.

    Args:
      cfg: a resolved configuration, completed by ``run_dir.settle``.
      splits: the data, ``train`` first.
      backend: this rank's device.
      group: the ranks.
      job: this rank's number on its machine.

    Raises:
      InputError: on every rank, with the figures, and the flags with which it would fit.
    """
    if not cfg.probe_memory:
        return
    left, problem = backend.memory_left(), None
    if left is not None:
        problem = _problem_of_device(cfg, splits, backend, group.size, left)
    if problem is None and job.local_rank == 0:
        writes = group.rank == 0
        problem = _problem_of_machine(cfg, splits, backend, job.local_ranks, group.size, writes=writes)
    for rank, (host, found) in enumerate(group.gather((socket.gethostname(), problem))):
        if found is not None:
            raise InputError(found if rank == 0 else f"rank {rank} ({host}): {found}")


def with_lean_kernel(cfg: Config, splits: Mapping[str, Split], backend: Backend, group: Group, job: Job) -> Config:
    """Names the LSTM kernel ``hoisted`` for ``auto`` on CPUs where a machine has too little memory for ``fused``.

    oneDNN's operator keeps 15 numbers per unit and frame for its backward pass, ours keeps 6. All ranks call it.

    Args:
      cfg: as for ``require``.
      splits: as for ``require``.
      backend: as for ``require``.
      group: the ranks.
      job: this rank's number on its machine.
    """
    if not (cfg.probe_memory and backend.name == "cpu" and cfg.model.kernel == "auto" and cfg.model.rnn_type == "lstm"):
        return cfg
    lean, wanted = attrs.evolve(cfg, model=attrs.evolve(cfg.model, kernel="hoisted")), False
    if job.local_rank == 0:
        problems = [
            _problem_of_machine(each, splits, backend, job.local_ranks, group.size, writes=group.rank == 0)
            for each in (cfg, lean)
        ]
        wanted = problems[0] is not None and problems[1] is None
    return lean if any(group.gather(wanted)) else cfg


def explain(error: BaseException) -> str | None:
    """A message about a want of memory in the process or on its device; None when the error has another cause."""
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM  # such as a process that cannot be forked
    allocator = isinstance(error, RuntimeError) and _WANT.search(str(error))
    if not (isinstance(error, MemoryError) or refused or allocator):
        return None
    lines = str(error).strip().splitlines()
    what = f": {lines[0].rstrip('.')}" if lines else ""
    return f"out of memory{what}. At this size it would happen again; take {SMALLER}."


def need(
    cfg: Config, splits: Mapping[str, Split], backend: Backend, *, local_ranks: int, ranks: int, writes: bool
) -> Need:
    """The need of a rank and of this machine.

    Args:
      cfg: as for ``require``.
      splits: as for ``require``.
      backend: as for ``require``.
      local_ranks: ranks on this machine.
      ranks: ranks of the job.
      writes: whether rank 0, which writes the checkpoints, is one of them.
    """
    cfg = with_useful_loaders(cfg, backend, local_ranks=local_ranks)
    train = _largest(splits["train"], global_batch(cfg, ranks), shards=ranks * micro_batches(cfg, ranks))
    evaluated = [
        _largest(splits[name], batch_of_all_ranks(cfg, ranks), shards=ranks) for name in splits if name != "train"
    ]
    rank = footprint.estimate(
        cfg,
        train=train,
        evaluation=max(evaluated, key=lambda batch: batch.size, default=Batch(0, 0)),
        policy=backend.policy(cfg.apex),
        ranks=ranks,
        micro_batches=micro_batches(cfg, ranks),
        cpu=backend.name == "cpu",
    )
    process = footprint.INTERPRETER + rank.loading + (rank.device if backend.name == "cpu" else 0)
    writer = footprint.WRITER + rank.checkpoint if writes else 0
    return Need(rank, train, process + writer, local_ranks * process + writer + footprint.LIBRARIES)


def _largest(split: Split, batch_size: int, *, shards: int) -> Batch:
    """The largest batch of one device."""
    dataset = split.dataset
    longest = int(dataset.longest().max())
    batches = [
        Batch(-(-slot.size // shards), padding.padded(min(longest, slot.longest), dataset.shapes))
        for slot in loading.slots(dataset, batch_size)
    ]
    return max(batches, key=lambda batch: batch.size)


def _problem_of_machine(
    cfg: Config, splits: Mapping[str, Split], backend: Backend, local_ranks: int, ranks: int, *, writes: bool
) -> str | None:
    rooms, held = machine_memory.rooms(), machine_memory.held()
    all_held = local_ranks * held  # a part of the need

    def short(cfg: Config, local_ranks: int, ranks: int) -> tuple[Need, Room | None]:
        """The need, and the room that is too small for it."""
        found = need(cfg, splits, backend, local_ranks=local_ranks, ranks=ranks, writes=writes)
        for room in rooms:
            wanted, has = (found.per_process, held) if room.per_process else (found.host, all_held)
            if wanted - has > room.left:
                return found, room._replace(left=room.left + has)
        return found, None

    wanted, room = short(cfg, local_ranks, ranks)
    if room is None:
        return None
    fits = [flags for flags, other, fewer in _smaller(cfg, wanted.batch, local_ranks, ranks)
            if short(other, local_ranks - fewer, ranks - fewer)[1] is None]  # fmt: skip
    total = wanted.per_process if room.per_process else wanted.host
    count = "a rank needs" if room.per_process or local_ranks == 1 else f"the {local_ranks} ranks here need"
    return (
        f"not enough memory: {count} about {_gigabytes(total)} and {room.where} has {_gigabytes(room.left)} left. "
        f"{_parts(wanted, local_ranks, cpu=backend.name == 'cpu')} {_remedies(fits)}"
    )


def _problem_of_device(cfg: Config, splits: Mapping[str, Split], backend: Backend, ranks: int, left: int) -> str | None:
    def wanted(cfg: Config, ranks: int) -> Need:
        return need(cfg, splits, backend, local_ranks=1, ranks=ranks, writes=False)

    found = wanted(cfg, ranks)
    if found.rank.device <= left:
        return None
    fits = [flags for flags, other, fewer in _smaller(cfg, found.batch, 1, ranks)
            if wanted(other, ranks - fewer).rank.device <= left]  # fmt: skip
    return (
        f"not enough memory: a rank needs about {_gigabytes(found.rank.device)} on its device, and {backend.device} "
        f"({backend.description}) has {_gigabytes(left)} left. {_parts(found, 1, cpu=True)} {_remedies(fits)}"
    )


def _smaller(cfg: Config, batch: Batch, local_ranks: int, ranks: int) -> Iterator[tuple[str, Config, int]]:
    """Smaller trainings with the same global batch, from the best: flags, settings, and how many ranks fewer."""
    size = global_batch(cfg, ranks)

    def with_data(**changes: Any) -> Config:
        return attrs.evolve(cfg, data=attrs.evolve(cfg.data, **changes))

    if not cfg.model.remat:
        yield "--model.remat", attrs.evolve(cfg, model=attrs.evolve(cfg.model, remat=True)), 0
    keep = f" --data.global_batch_size={size}"
    for number in sorted({local_ranks // 2, local_ranks // 4, 1} - {local_ranks, 0}, reverse=True):
        fewer = local_ranks - number
        yield f"--nproc_per_node={number}{keep}", with_data(global_batch_size=size), fewer
    for number in sorted({batch.utterances // 2, batch.utterances // 4, 1} - {batch.utterances, 0}, reverse=True):
        yield f"--data.batch_size={number}{keep}", with_data(batch_size=number, global_batch_size=size), 0
    if batch.utterances > 1 and not cfg.data.max_frames:
        frames = batch.frames * (batch.utterances // 2)
        yield f"--data.max_frames={frames}", with_data(max_frames=frames), 0


def _parts(wanted: Need, local_ranks: int, *, cpu: bool) -> str:
    rank, batch = wanted.rank, wanted.batch
    parts = {
        "parameters, optimizer and gradients": rank.state if cpu else 0,
        f"{batch.utterances} utterances of {batch.frames} frames and temporaries": rank.work if cpu else 0,
        "loader processes": rank.loading,
        "checkpoint, on rank 0": rank.checkpoint,
    }
    told = ", ".join(f"{name} {_gigabytes(size)}" for name, size in parts.items() if size >= 50_000_000)
    return f"{'Each' if local_ranks > 1 else 'It'} takes: {told}." if told else ""


def _remedies(fits: list[str]) -> str:
    found = (
        f"Any of these would fit: {'; '.join(fits[:4])}." if fits else "A smaller model is needed, --model.hidden_size."
    )
    return f"{found} To try all the same: --noprobe_memory."


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
