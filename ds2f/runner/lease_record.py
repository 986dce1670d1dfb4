"""The content of a lease: which process of which machine holds a run's folder, and whether the process lives."""

import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple, Self

_SIZE = 1024  # bytes of a lease, with spaces at the end: a heartbeat overwrites it in place


class Record(NamedTuple):
    """The content of a lease."""

    host: str
    machine: str  # boot id and process-id namespace: two processes of one machine have the same
    pid: int
    process_start: int  # clock ticks since boot; tells a process from a later one with the same id
    job: str  # the same for all starts of one job; empty without a job
    token: str  # random
    taken: str  # by the holder's clock, for people
    heartbeat: int = 0  # number of heartbeats
    seconds: float = 0.0  # since the lease was taken, at the last heartbeat

    @classmethod
    def own(cls, job: str) -> Self:
        """A record of this process."""
        return cls(
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            process_start=_process_start(os.getpid()) or 0,
            job=job,
            token=uuid.uuid4().hex,
            taken=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        )

    @property
    def here(self) -> bool:
        """Whether the holder is a process of this machine, so that its end is known at once."""
        return bool(self.process_start) and self.machine == _machine()

    @property
    def dead(self) -> bool:
        """Whether the holder was a process of this machine and has ended."""
        return self.here and _process_start(self.pid) != self.process_start

    @property
    def age(self) -> float:
        """Seconds since the start of the holder, as far as they are known here."""
        if not self.here:
            return self.seconds
        started = self.process_start / os.sysconf("SC_CLK_TCK")
        return max(self.seconds, time.clock_gettime(time.CLOCK_BOOTTIME) - started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def to_bytes(self) -> bytes:
        """The content of the lease's file, always of the same size."""
        return json.dumps(self._asdict(), allow_nan=False).encode().ljust(_SIZE - 1) + b"\n"


def parse(content: bytes | None) -> Record | None:
    """The content of a lease; None if it is damaged."""
    try:
        values: dict[str, Any] = json.loads(content or b"")
        record = Record(**values)
    except (ValueError, TypeError, RecursionError):
        return None
    types = {name: type(value) for name, value in record._asdict().items()}
    expected = {"pid": int, "process_start": int, "heartbeat": int, "seconds": float}
    return record if all(types[name] is expected.get(name, str) for name in types) else None


def _machine() -> str:
    """Tells the running system of this process from others: boot id and process-id namespace; empty if unknown."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return ""


def _process_start(pid: int) -> int | None:
    """The start of a living process, in clock ticks since boot; None if it has ended or is unknown."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None
