"""A rank's side of its agent: reads its number in the job, dies with the agent, and reports errors to the agent."""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ds2f.errors import InputError, WorkerDied
from ds2f.processes import die_with_parent
from ds2f.runner.distributed.job_store import PeerLost
from ds2f.runner.distributed.signals import REQUESTS
from ds2f.text import shown

PEER_LOST = 75  # exit status: another rank failed (EX_TEMPFAIL of sysexits.h)
GIVE_UP = 78  # exit status: a restart would fail again (EX_CONFIG)

GRACE = 3.0  # seconds that an agent has to kill the other ranks after a rank died


class Job(NamedTuple):
    """A rank's job and its number on its machine."""

    id: str  # the same on all ranks and in all restarts; empty for a single process
    restarts: int  # restarts after failures so far
    local_rank: int
    local_ranks: int  # ranks on this machine


def job() -> Job:
    """Reads the environment that an agent gives its ranks. A single process is the only rank of a job without a name.

    Raises:
      InputError: when a variable is not a number.
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
    """Whether this process was started as a rank, by an agent, torchrun or a cluster's launcher.

    Args:
      starts_ranks: whether this process starts ranks when it is none itself. RANK without LOCAL_RANK is then the
        number of its machine, as Kubernetes sets it; otherwise RANK is its own number.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE") if starts_ranks else ("RANK",)
    return all(name in os.environ for name in names)


def work(run: Callable[[], int]) -> int:
    """Runs a rank and returns its exit status. The rank dies with its agent.

    Errors are reported to the agent, which prints them once for all ranks; an unforeseen error leaves its traceback as
    well. After an ``InputError`` the agent starts nothing again. After a ``PeerLost`` this process waits ``GRACE``
    seconds: if the agent has seen the lost rank die, it kills this process and prints its own message.

    Args:
      run: the rank's work; returns an exit status.
    """
    agent = os.environ.get("DS2F_AGENT")
    die_with_parent(int(agent) if agent else None)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job of a shell
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
        return run()
    except InputError as error:
        _report(str(error))
        return _left(GIVE_UP)
    except WorkerDied as error:
        _report(str(error))
        return _left(1)
    except PeerLost as error:
        time.sleep(GRACE)
        _report(str(error))
        return _left(PEER_LOST)
    except KeyboardInterrupt:
        return _left(128 + signal.SIGINT)
    except SystemExit as end:
        if isinstance(end.code, str):
            _report(end.code)
        raise
    except Exception as error:
        _report(_describe(error))
        raise


def _left(status: int) -> int:
    """Ends the process if it has open connections to ranks, otherwise returns the status.

    A normal exit may wait for a lost rank, or be aborted by one of gloo's threads.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _describe(error: Exception) -> str:
    """An unforeseen error in one line, with the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = next(iter(str(error).strip().splitlines()), "no message")
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"


def _report(message: str) -> None:
    """Writes ``message`` to the agent's error file, in torchrun's format, or prints it where there is no agent."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        Path(file).write_text(json.dumps({"message": message, "timestamp": int(time.time())}), encoding="utf-8")
    else:
        print(f"rank {os.environ['RANK']}: {shown(message, lines=True)}", file=sys.stderr, flush=True)
