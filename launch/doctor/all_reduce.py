"""Check of the collectives: all-reduces over all cards of the machine, over HCCL, NCCL or gloo, with their bandwidth.

Every card has a process of its own, which joins a group as a rank of a training does. As a program this module is one
of these processes.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ds2f.errors import InputError
from ds2f.runner.device import inspection
from ds2f.runner.device.backend import Backend, open_backend
from ds2f.runner.distributed import rank_processes, worker
from ds2f.runner.distributed.collectives import Group, open_group
from launch.doctor.check_session import Check, Session
from launch.doctor.verdict import OK, SLOW, WRONG, Line

COLLECTIVES = "all-reduce"
COMMAND = (sys.executable, "-m", "launch.doctor.all_reduce")
LIMIT = 30.0  # seconds for start, connection and all-reduces
_TIMEOUT = 15.0  # seconds of a collective
_ELEMENTS, _ROUNDS = 4 << 20, 5
_SLOW = 1e9  # bytes per second and card; the gradients of 5 x 1024 are 0.35 GB


def checks() -> list[Check]:
    """The check; it kills its processes itself, so that its own limit comes later."""
    return [Check(COLLECTIVES, "all-reduce", _all_reduce, seconds=LIMIT + 15, device=False, remedy=_remedy())]


def _remedy() -> str:
    return "train on one card, --nproc_per_node=1; ulimit, firewall and the link between the cards may be the cause"


def _all_reduce(session: Session) -> Iterator[Line]:
    try:
        cards = inspection.count(session.kind)
    except InputError:
        return  # the check of the cards says so
    ranks = 2 if session.kind == "cpu" else cards
    needed = cards > 1  # one card trains without
    name = f"{inspection.collectives(session.kind)}, {ranks} {'ranks' if session.kind == 'cpu' else 'cards'}"
    with tempfile.TemporaryDirectory(prefix="ds2f-doctor-") as folder:
        problem = _run(session.kind, ranks, Path(folder))
        results = Path(folder, "results.json")
        if problem or not results.exists():
            yield Line(COLLECTIVES, name, WRONG, problem or "the ranks left no result", _remedy(), needed)
            return
        found = json.loads(results.read_text(encoding="utf-8"))
    if found["wrong"]:
        yield Line(COLLECTIVES, name, WRONG, f"wrong sums in {', '.join(found['wrong'])}", _remedy(), needed)
        return
    speed = found["bytes_per_second"]
    slow = ranks > 1 and session.kind != "cpu" and speed < _SLOW
    figure = f"right sums; {speed / 1e9:.2f} GB/s per rank" if ranks > 1 else "a group of one opens"
    remedy = "--apex.reduce_dtype=bf16 sends half the bytes; check the link between the cards" if slow else ""
    yield Line(COLLECTIVES, name, SLOW if slow else OK, figure, remedy, needed)


def _run(kind: str, ranks: int, folder: Path) -> str:
    """Runs the ranks; returns what went wrong, or nothing. No process outlives this function."""
    variables = {
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 0,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "DS2F_STORE_FILE": folder / "store",
        "DS2F_AGENT": os.getpid(),
    }
    started: list[rank_processes.RankProcess] = []
    try:
        for rank in range(ranks):
            started.append(
                rank_processes.start(
                    [*COMMAND, kind, str(folder)],
                    rank=rank,
                    local_rank=rank,
                    local_ranks=ranks,
                    address="127.0.0.1",
                    variables=variables,
                    reports=folder,
                )
            )
        return _wait(started)
    finally:
        rank_processes.kill(started)


def _wait(ranks: Sequence[rank_processes.RankProcess]) -> str:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        failed = [rank for rank in ranks if rank.status not in (None, 0)]
        if failed:
            return failed[0].describe_failure(len(ranks))
        if all(rank.status == 0 for rank in ranks):
            return ""
        time.sleep(0.05)
    waiting = ", ".join(str(rank.rank) for rank in ranks if rank.status is None)
    return f"it stalls: no end after {LIMIT:g} s; rank {waiting} still waits"


def work(kind: str, folder: Path) -> int:
    """Runs one rank: all-reduces that are checked, then all-reduces that are timed. Rank 0 writes the result."""
    job = worker.job()
    backend = open_backend(kind, local_rank=job.local_rank, local_ranks=job.local_ranks)
    group = open_group(backend.collectives, device=backend.device, timeout=_TIMEOUT, rdzv_timeout=_TIMEOUT)
    wrong = [name for name, right in _sums(backend, group) if not right]
    bandwidth = _bandwidth(backend, group)
    wrong = sorted({name for names in group.gather(wrong) for name in names})
    if group.rank == 0:
        text = json.dumps({"wrong": wrong, "bytes_per_second": bandwidth}, allow_nan=False)
        (folder / "results.json").write_text(text, encoding="utf-8")
    group.close()
    return 0


def _sums(backend: Backend, group: Group) -> Iterator[tuple[str, bool]]:
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        values = torch.full((1000,), float(group.rank + 1), dtype=dtype, device=backend.device)
        group.all_reduce_async(values).wait()
        yield name, bool((values == group.size * (group.size + 1) / 2).all())
    verdict = torch.tensor(group.rank == 0, device=backend.device)
    yield "verdicts", bool(group.all_finite(verdict)) == (group.size == 1)


def _bandwidth(backend: Backend, group: Group) -> float:
    """Bytes that a rank sends per second in a ring: 2 (N - 1) / N times the bytes of the buffer."""
    buffer = torch.zeros(_ELEMENTS, device=backend.device)
    group.all_reduce_async(buffer).wait()
    backend.synchronize()
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        group.all_reduce_async(buffer).wait()
    backend.synchronize()
    seconds = (time.perf_counter() - began) / _ROUNDS
    return 2 * (group.size - 1) / group.size * 4 * _ELEMENTS / seconds


if __name__ == "__main__":
    sys.exit(worker.work(lambda: work(sys.argv[1], Path(sys.argv[2]))))
