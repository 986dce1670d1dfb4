"""What a rank does beside training: it learns its place from its agent, dies with it, and tells it what went wrong."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ds2f.errors import InputError, WorkerDied
from ds2f.processes import die_with_parent
from ds2f.runner.distributed.job_store import PeerLost
from ds2f.runner.distributed.signals import REQUESTS

PEER_LOST = 75  # exit status: another rank failed (EX_TEMPFAIL of sysexits.h)
GIVE_UP = 78  # exit status: this would fail again (EX_CONFIG)

GRACE = 3.0  # seconds in which an agent ends the peers of a rank that died


class Job(NamedTuple):
    """What a rank knows of its job besides the group."""

    id: str  # the same for all starts of all ranks; empty for a process on its own
    restarts: int  # how often the ranks were started again after a failure
    local_rank: int
    local_ranks: int  # on this machine


def job() -> Job:
    """Reads the environment that an agent gives its ranks; a process on its own is the only rank of a nameless job.

    Raises:
      InputError: when a variable that should be a number is none.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return Job(
        id="" if name == "none" else name,  # torchrun's default
        restarts=_number("TORCHELASTIC_RESTART_COUNT", 0),
        local_rank=_number("LOCAL_RANK", 0),
        local_ranks=_number("LOCAL_WORLD_SIZE", 1),
    )


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise InputError(
            f"the environment says {variable}={text}, which is no number; unset it, or let torchrun set it"
        )
    return int(text)


def is_worker(*, starts_ranks: bool = True) -> bool:
    """Whether an agent, ours or torchrun, or a cluster's launcher has started this process as a rank.

    Args:
      starts_ranks: whether it is to start ranks unless it is one. To such a process RANK without LOCAL_RANK is the
        number of its machine, as Kubernetes sets it; to any other it is its own.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE") if starts_ranks else ("RANK",)
    return all(name in os.environ for name in names)


def work(run: Callable[[], int]) -> int:
    """Runs a rank, which dies with its agent, and returns its exit status.

    What ends it goes to the agent, which says it once for all ranks: an ``InputError``, after which nothing is started
    again, and a ``PeerLost``, unless the agent knows better and ends this process.
    """
    agent = os.environ.get("DS2F_AGENT")
    die_with_parent(int(agent) if agent else None)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job of a shell
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
        return run()
    except InputError as error:
        _report(str(error))
        return GIVE_UP
    except WorkerDied as error:
        _report(str(error))
        return 1
    except PeerLost as error:
        time.sleep(GRACE)
        _report(str(error))
        sys.stdout.flush()
        os._exit(PEER_LOST)  # the usual way out may wait for the lost rank
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _report(message: str) -> None:
    """Leaves ``message`` where the agent looks for it, in torchrun's form, or prints it where no agent does."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        Path(file).write_text(json.dumps({"message": message, "timestamp": int(time.time())}), encoding="utf-8")
    else:
        print(f"rank {os.environ['RANK']}: {message}", file=sys.stderr, flush=True)
