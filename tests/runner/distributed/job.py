"""Runs a function on several real processes that form a group over gloo on this machine."""

import contextlib
import multiprocessing
import os
import pickle
import socket
import time
import traceback
from pathlib import Path

import torch

from ds2f.runner.distributed import heartbeat, job_store
from ds2f.runner.distributed.collectives import open_group
from ds2f.runner.distributed.job_store import PeerLost

CPU = torch.device("cpu")
LIMIT = 60.0  # seconds that one job may take

# Forked off a server that has imported torch once, processes start in milliseconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["torch.distributed", "torch._dynamo", "ds2f.steps", "ds2f.runner.distributed.collectives"]
)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def environment(rank, ranks, port, **more):
    """The environment variables that an agent sets for a rank."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    } | more


def start(target, *arguments):
    """Starts a process that runs a function."""
    process = _context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def run(case, *, ranks, folder, arguments=(), spec="gloo", timeout=20.0, port=None, prepare=None, **variables):
    """Calls ``case(group, *arguments)`` on every rank; returns each result, or the ``PeerLost`` that a rank raised.

    Args:
      case: a function of a test module.
      ranks: how many processes.
      folder: an empty one.
      arguments: further ones of ``case``.
      spec: of ``open_group``, as ``timeout``.
      timeout: seconds.
      port: of the store; None takes a free one.
      prepare: called without arguments before the group opens.
      variables: set in the environment, beside the agent's variables.

    Returns:
      A list by rank; None for a rank that was killed, stopped or did not end in time.
    """
    port = port or free_port()
    workers = []
    for rank in range(ranks):
        variables_of_rank = environment(rank, ranks, port, **variables)
        result = folder / f"{case.__name__}.{port}.{rank}"
        workers.append((start(_work, case, arguments, variables_of_rank, result, spec, timeout, prepare), result))
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and any(p.is_alive() and not _stopped(p.pid) for p, _ in workers):
        time.sleep(0.02)
    for process, _ in workers:
        process.kill()
        process.join()
    results = [pickle.loads(path.read_bytes()) if path.exists() else None for _, path in workers]
    for result in results:
        if isinstance(result, str) and result.startswith("Traceback"):
            raise AssertionError(result)
    return results


def _work(case, arguments, variables, result, spec, timeout, prepare):
    os.environ.update(variables)
    torch.set_num_threads(1)
    heartbeat.INTERVAL, heartbeat.SILENCE, job_store.ANSWER_TIMEOUT = 0.15, 1.0, 2.0  # shorter than in a job
    if prepare is not None:
        prepare()
    try:
        group = open_group(spec, device=CPU, timeout=timeout, rdzv_timeout=20)
        value = case(group, *arguments)
        group.close()
    except PeerLost as error:
        value = error
    except Exception:  # noqa: BLE001  # the parent raises it
        value = traceback.format_exc()
    finished = result.with_name(result.name + ".part")
    finished.write_bytes(pickle.dumps(value))
    finished.rename(result)


def _stopped(pid):
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "T"
    return False
