"""The process groups of torch.distributed that one rank holds; a failure in them comes out as ``PeerLost``.

Every rank holds two groups: one over the device's own library for tensors, and one over gloo on the host for objects,
votes and host numbers, so that these never wait for the device. All collectives pass through ``translating_errors``:
torch reports a lost rank as one of many RuntimeErrors, in different words for gloo, NCCL and HCCL.
"""

import hmac
import logging
import os
import re
import secrets
import socket
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ds2f.runner.device import npu
from ds2f.runner.distributed.heartbeat import Heartbeat
from ds2f.runner.distributed.job_store import Membership, PeerLost, first_sentence, run_with_timeout
from ds2f.types import Handle

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 15.0  # seconds in which gloo's connections between all ranks must stand
MAX_REASON = 2000  # characters of a reason that other ranks are told
_SLICE = timedelta(seconds=0.25)
DEVICE_CONNECT_TIMEOUT = 60.0  # seconds for the connections of NCCL or HCCL together with gloo's


class ProcessGroups:
    """One rank's process groups and heartbeat. Once a rank is lost, every operation raises the same ``PeerLost``."""

    def __init__(
        self,
        backends: str,
        store: dist.Store,
        membership: Membership,
        *,
        device: torch.device,
        timeout: float,
        connect_timeout: float,
    ) -> None:
        """Joins the groups together with all other ranks.

        Args:
          backends: torch's backends by device type, as in ``cpu:gloo,cuda:nccl``.
          store: of this start of the job.
          membership: this process's rank.
          device: this rank's device.
          timeout: how long an operation waits for the other ranks, seconds.
          connect_timeout: how long the ranks may take to connect once all have reached the store, seconds; at most
            ``CONNECT_TIMEOUT``, or ``DEVICE_CONNECT_TIMEOUT`` where NCCL or HCCL connect as well.

        Raises:
          PeerLost: when another rank does not join in time, or a connection does not lead to its rank.
        """
        self.rank, self.size = membership.rank, membership.size
        self._backends, self._timeout = backends, timeout
        self.heartbeat = Heartbeat(store, membership)
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._lost: PeerLost | None = None
        self.look: Callable[[], None] = _nothing  # called while this rank waits on the host; may raise
        self.host_group: Any = None
        limit = min(connect_timeout, CONNECT_TIMEOUT if backends == "gloo" else DEVICE_CONNECT_TIMEOUT)
        with self.translating_errors():
            try:  # torch's own timeout of a connection is the timeout of a collective, half an hour
                self.host_group = run_with_timeout(limit, lambda: self._connect(store, device))
            except TimeoutError as error:
                raise _ConnectError(
                    f"the ranks did not connect to each other within {limit:g} s, although all have reached the job's "
                    "store: a firewall may close their ports, or another program has taken a connection"
                ) from error

    def _connect(self, store: dist.Store, device: torch.device) -> Any:
        """Opens both groups, and returns the group on the host."""
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
        dist.init_process_group(
            self._backends,
            store=store,
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=_device_timeout(self._backends, self._timeout)),
            device_id=device if device.type == "cuda" else None,
        )
        host_group = dist.new_group(backend="gloo", timeout=timedelta(seconds=self._timeout))
        key = _agree_on_key(store, self.rank)
        if "gloo" in self._backends:
            self._require_peers(key + b"device", None)
        self._require_peers(key + b"host", host_group)
        return host_group

    def _require_peers(self, key: bytes, group: Any) -> None:
        """Checks that each connection of gloo leads to its rank.

        gloo takes the first connection with the right number for a rank's, and numbers are counted from 0. So each rank
        sends a token over each connection that only a rank with access to the store can compute.

        Raises:
          _ConnectError: when another program holds a connection.
        """
        ranks = range(self.size)
        sent = torch.stack([_token(key, self.rank, other) for other in ranks])
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        expected = torch.stack([_token(key, other, self.rank) for other in ranks])
        if not hmac.compare_digest(received.numpy().tobytes(), expected.numpy().tobytes()):
            raise _ConnectError("a connection between ranks was taken by another program, which may scan ports")

    def all_reduce(self, buffer: Tensor, operation: dist.ReduceOp.RedOpType, *, on_host: bool = False) -> Handle:
        """Starts an all-reduce in place.

        Raises:
          ValueError: when the buffer is not contiguous.
          PeerLost: when a rank is lost.
        """
        if not buffer.is_contiguous():
            raise ValueError(f"an all-reduce in place needs a contiguous buffer, not strides {buffer.stride()}")
        group = self.host_group if on_host else None
        with self.translating_errors():
            handle = _Handle(dist.all_reduce(buffer, operation, group=group, async_op=True), self, on_host=on_host)
        self._handles.add(handle)
        return handle

    @contextmanager
    def translating_errors(self, *, starts: bool = True) -> Iterator[None]:
        """Turns errors of torch.distributed into ``PeerLost``.

        Args:
          starts: whether the block starts a collective, which the heartbeat counts.
        """
        if self._lost is not None:
            raise self._lost
        if starts:
            self.heartbeat.count_operation()
        try:
            yield
        except RuntimeError as error:
            self._lost = self._explain(error)
            self._close_connections()
            self.heartbeat.wait_for_others()
            raise self._lost from error

    def wait(self, work: Any, *, on_host: bool = False) -> None:
        """Waits for a collective under way. On the host in slices, between which Python handles signals.

        Args:
          work: torch's handle.
          on_host: whether it runs in the group on the host.
        """
        try:
            while on_host or self._backends == "gloo":
                with suppress(RuntimeError):  # of the slice, or of the collective: the last wait raises it again
                    work.wait(_SLICE)
                if work.is_completed():
                    break
                self.look()
            work.wait()
        finally:
            del work  # the error's traceback would keep it, and with it the connections open

    def abandon(self, reason: str) -> None:
        """Leaves the job without the other ranks: their collectives fail at once, and they learn the reason."""
        if self._lost is None:
            self._lost = PeerLost(f"rank {self.rank} has left the job: {reason}")
            name = f"Rank {self.rank} (host {socket.gethostname()}, process {os.getpid()})"
            self.heartbeat.leave("gave up", f"{name} has left: {reason[:MAX_REASON].rstrip('.')}")
            self._close_connections()

    def beat(self, step: int) -> None:
        """Notes in the heartbeat that this rank begins ``step``."""
        self.heartbeat.beat(step)

    def close(self) -> None:
        """Leaves the job."""
        self.heartbeat.leave("left the job")
        if self._lost is None:
            dist.destroy_process_group()
            self.heartbeat.wait_for_others()

    def _explain(self, error: RuntimeError) -> PeerLost:
        broke, reason = False, first_sentence(error)
        if isinstance(error, _ConnectError):
            event, cause = str(error), ""
        elif re.search("timed? ?out", reason, re.IGNORECASE):
            event, cause = f"no answer within {self._timeout:g} s", f" (torch: {reason})"
        elif re.search("connection|closed|remote|peer", reason, re.IGNORECASE):
            event, cause, broke = "a connection broke", f" (torch: {reason})", True
        else:
            event, cause = "a collective failed", f" (torch: {reason})"
        diagnosis = self.heartbeat.diagnose(connection_broke=broke)
        self.heartbeat.leave("gave up", diagnosis)
        hccl = f" {npu.explain_hccl(reason)}" if "hccl" in self._backends else ""
        return PeerLost(f"rank {self.rank} at step {self.heartbeat.step}: {event}. {diagnosis}.{cause}{hccl}")

    def _close_connections(self) -> None:
        """Closes the connections on the host, so that all ranks notice at once and not when this process ends.

        Connections of NCCL and HCCL stay open until the process ends: closing them may wait for the lost rank.
        """
        for handle in self._handles:
            handle.drop()
        if self.host_group is not None:
            groups, self.host_group = [self.host_group], None

            def destroy() -> None:
                dist.destroy_process_group(None if self._backends == "gloo" else groups[0])
                groups.clear()  # the last reference: gloo then waits for the collective under way, until its timeout

            with suppress(TimeoutError, RuntimeError):  # the end of the process closes the rest
                run_with_timeout(1.0, destroy)


class _Handle:
    def __init__(self, work: Any, groups: ProcessGroups, *, on_host: bool) -> None:
        self._work = work
        self._groups, self._on_host = groups, on_host

    def wait(self) -> None:
        with self._groups.translating_errors(starts=False):
            self._groups.wait(self._work, on_host=self._on_host)

    def drop(self) -> None:
        self._work = None  # the work object keeps its connections open


def _nothing() -> None:
    """Does nothing."""


class _ConnectError(RuntimeError):
    """The ranks did not connect to each other."""


def _agree_on_key(store: dist.Store, rank: int) -> bytes:
    """A random key of this start of the job, known to whoever can read the store."""
    if rank == 0:
        store.set("key", secrets.token_hex(32))
    return store.get("key")


def _token(key: bytes, sender: int, receiver: int) -> Tensor:
    """The token that one rank sends to another: 32 bytes."""
    digest = hmac.digest(key, f"{sender}>{receiver}".encode(), "sha256")
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)


def _device_timeout(backends: str, timeout: float) -> float:
    """The timeout of the device's process group, seconds: 10 % above the host's, whose message names the lost rank.

    NCCL and HCCL end the process after this timeout. HCCL needs a longer timeout than its own variables name.
    """
    if backends == "gloo":
        return timeout
    limit = max(float(os.environ.get(name, default)) for name, default in npu.HCCL_TIMEOUTS.items())
    if "hccl" not in backends or timeout > limit:
        return 1.1 * timeout
    log.warning(
        "--collective_timeout=%g does not exceed HCCL_CONNECT_TIMEOUT and HCCL_EXEC_TIMEOUT (%g s), as HCCL needs. The "
        "device's timeout is %g s instead. Lower these variables to notice a lost NPU earlier",
        timeout,
        limit,
        1.1 * limit,
    )
    return 1.1 * limit
