"""The process groups of torch.distributed that one rank holds; a failure in them comes out as ``PeerLost``.

Every rank holds two groups: one over the device's own library for tensors, and one over gloo on the host for objects,
votes and host numbers, so that these never wait for the device. All collectives pass through ``translating_errors``:
torch reports a lost rank as one of many RuntimeErrors, in different words for gloo, NCCL and HCCL.
"""

import logging
import os
import re
import weakref
from collections.abc import Iterator
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


class ProcessGroups:
    """One rank's process groups and heartbeat. Once a rank is lost, every operation raises the same ``PeerLost``."""

    def __init__(
        self, backends: str, store: dist.Store, membership: Membership, *, device: torch.device, timeout: float
    ) -> None:
        """Joins the groups together with all other ranks.

        Args:
          backends: torch's backends by device type, as in ``cpu:gloo,cuda:nccl``.
          store: of this start of the job.
          membership: this process's rank.
          device: this rank's device.
          timeout: how long an operation waits for the other ranks, seconds.

        Raises:
          PeerLost: when another rank does not join in time.
        """
        self.rank, self.size = membership.rank, membership.size
        self._backends, self._timeout = backends, timeout
        self._heartbeat = Heartbeat(store, membership)
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._lost: PeerLost | None = None
        self.host_group: Any = None
        with self.translating_errors():
            dist.init_process_group(
                backends,
                store=store,
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=_device_timeout(backends, timeout)),
                device_id=device if device.type == "cuda" else None,
            )
            self.host_group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

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
            handle = _Handle(dist.all_reduce(buffer, operation, group=group, async_op=True), self)
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
            self._heartbeat.count_operation()
        try:
            yield
        except RuntimeError as error:
            self._lost = self._explain(first_sentence(error))
            self._close_connections()
            self._heartbeat.wait_for_others()
            raise self._lost from error

    def beat(self, step: int) -> None:
        """Notes in the heartbeat that this rank begins ``step``."""
        self._heartbeat.beat(step)

    def close(self) -> None:
        """Leaves the job."""
        self._heartbeat.leave("left the job")
        if self._lost is None:
            dist.destroy_process_group()
            self._heartbeat.wait_for_others()

    def _explain(self, reason: str) -> PeerLost:
        broke = False
        if re.search("timed? ?out", reason, re.IGNORECASE):
            event = f"no answer within {self._timeout:g} s"
        elif re.search("connection|closed|remote|peer", reason, re.IGNORECASE):
            event, broke = "a connection broke", True
        else:
            event = "a collective failed"
        diagnosis = self._heartbeat.diagnose(connection_broke=broke)
        self._heartbeat.leave("gave up", diagnosis)
        hccl = f" {npu.explain_hccl(reason)}" if "hccl" in self._backends else ""
        return PeerLost(
            f"rank {self.rank} at step {self._heartbeat.step}: {event}. {diagnosis}. (torch: {reason}){hccl}"
        )

    def _close_connections(self) -> None:
        """Closes the connections on the host, so that all ranks notice at once and not when this process ends.

        Connections of NCCL and HCCL stay open until the process ends: closing them may wait for the lost rank.
        """
        for handle in self._handles:
            handle.drop()
        group, self.host_group = self.host_group, None
        if group is not None:
            with suppress(TimeoutError, RuntimeError):  # the end of the process closes the rest
                run_with_timeout(1.0, lambda: dist.destroy_process_group(None if self._backends == "gloo" else group))


class _Handle:
    def __init__(self, work: Any, groups: ProcessGroups) -> None:
        self._work = work
        self._groups = groups

    def wait(self) -> None:
        with self._groups.translating_errors(starts=False):
            self._work.wait()

    def drop(self) -> None:
        self._work = None  # the work object keeps its connections open


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
