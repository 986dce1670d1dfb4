"""What the ranks of a job do together: sums, verdicts, votes and broadcasts, over gloo, NCCL and HCCL alike.

Tensors travel over the device's own library; objects, votes and sums of host numbers over gloo on the host, so that
asking for them never waits for the device. Whatever torch.distributed raises comes out as ``PeerLost``, which says
which rank is missing.
"""

import logging
import os
import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ds2f import tree
from ds2f.runner.device import npu
from ds2f.runner.distributed.heartbeat import Heartbeat, PeerLost, Place, connect, first_sentence, run_with_timeout
from ds2f.types import SINGLE, Handle

__all__ = ["ALONE", "Group", "PeerLost", "Vote", "open_group"]

log = logging.getLogger(__name__)

MESSAGE_BYTES = 2**28  # of a broadcast, at most: what a rank holds beside the tree itself
HCCL_TIMEOUTS = {"HCCL_CONNECT_TIMEOUT": 120.0, "HCCL_EXEC_TIMEOUT": 1836.0}  # seconds, unless the environment says


class Vote:
    """A question to all ranks under way: whether any of them says yes."""

    def __init__(self, handle: Handle, ballot: Tensor) -> None:
        """Takes a maximum over the ranks that has been started."""
        self._handle = handle
        self._ballot = ballot

    def result(self) -> bool:
        """Waits for the other ranks' answers; the same on every rank."""
        self._handle.wait()
        return bool(self._ballot.item())


class Group:
    """The ranks of a job; this class itself is the group of a single process, where all questions answer themselves.

    Every method but ``beat`` is called by every rank, in the same order. It is a ``ds2f.types.Collectives``.
    """

    rank: int = 0
    size: int = 1

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        """Starts summing a contiguous buffer over the ranks, in place; its handle never makes the host wait for a GPU
        or NPU."""
        return SINGLE.all_reduce_async(buffer)

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over the ranks as a new tensor, differentiable: its cotangents are summed over the ranks too."""
        return values

    def all_finite(self, flag: Tensor) -> Tensor:
        """Whether the boolean scalar ``flag`` is true on every rank: a boolean scalar on its device."""
        return flag

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over the ranks of some host numbers, in double precision."""
        return [float(value) for value in values]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value``, which can be pickled, in the order of the ranks."""
        return [value]

    def broadcast(self, values: tree.Tree) -> tree.Tree:
        """Rank 0's tensors, bit for bit; the others pass a tree of the same structure, shapes and dtypes.

        Returns:
          On rank 0 its argument, elsewhere new tensors on the devices of the argument's.
        """
        return values

    def vote(self, flag: bool) -> Vote:
        """Starts asking whether any rank says yes, and does not wait for the answer."""
        return Vote(SINGLE.all_reduce_async(torch.empty(0)), torch.tensor(flag))

    def beat(self, progress: int) -> None:
        """Notes that this rank begins step ``progress``, for the message should a rank be lost. Costs nothing."""

    def close(self) -> None:
        """Leaves the group."""


ALONE = Group()


def open_group(spec: str, *, device: torch.device, timeout: float, rdzv_timeout: float) -> Group:
    """Joins the job that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, as torchrun sets them).

    Args:
      spec: torch's backends by device type: ``gloo``, ``cpu:gloo,cuda:nccl`` or ``cpu:gloo,npu:hccl``.
      device: this rank's device, already the current one.
      timeout: how long an operation waits for the other ranks, seconds.
      rdzv_timeout: how long this rank waits for the job's store and for the other ranks to come, seconds.

    Returns:
      The group, or ``ALONE`` when RANK is not set.

    Raises:
      PeerLost: when the store or another rank does not show up in time.
      InputError: when MASTER_ADDR or MASTER_PORT is missing, or the port is taken.
    """
    if "RANK" not in os.environ:
        return ALONE
    place = Place.from_environment()
    store = connect(place, timeout=rdzv_timeout)
    return _Distributed(spec, store, place, device=device, timeout=timeout)


class _Distributed(Group):
    """The ranks of a job over torch.distributed."""

    def __init__(self, spec: str, store: dist.Store, place: Place, *, device: torch.device, timeout: float) -> None:
        self.rank, self.size = place.rank, place.size
        self._spec, self._timeout = spec, timeout
        self._heartbeat = Heartbeat(store, place)
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._lost: PeerLost | None = None
        self._host: Any = None
        with self._translated():
            dist.init_process_group(
                spec,
                store=store,
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=_device_timeout(spec, timeout)),
                device_id=device if device.type == "cuda" else None,
            )
            self._host = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        return self._start(buffer, dist.ReduceOp.SUM)

    def all_reduce(self, values: Tensor) -> Tensor:
        return _AllReduce.apply(values, self)

    def all_finite(self, flag: Tensor) -> Tensor:
        votes = flag.to(torch.int32, copy=True)
        self._start(votes, dist.ReduceOp.MIN).wait()
        return votes.to(torch.bool)

    def sum(self, values: Sequence[float]) -> list[float]:
        sums = torch.tensor(values, dtype=torch.float64)
        self._start(sums, dist.ReduceOp.SUM, self._host).wait()
        return sums.tolist()

    def gather(self, value: Any) -> list[Any]:
        gathered: list[Any] = [None] * self.size
        with self._translated():
            dist.all_gather_object(gathered, value, group=self._host)
        return gathered

    def broadcast(self, values: tree.Tree) -> tree.Tree:
        leaves, unflatten = tree.flatten(values)
        if self.rank != 0:
            leaves = [torch.empty_like(leaf, memory_format=torch.contiguous_format) for leaf in leaves]
        for message in _messages(leaves):
            buffer = torch.cat(message)
            with self._translated():
                dist.broadcast(buffer, src=0)
            if self.rank != 0:
                for piece, received in zip(message, buffer.split([len(piece) for piece in message]), strict=True):
                    piece.copy_(received)
        return unflatten(leaves)

    def vote(self, flag: bool) -> Vote:
        ballot = torch.tensor(flag, dtype=torch.int32)
        return Vote(self._start(ballot, dist.ReduceOp.MAX, self._host), ballot)

    def beat(self, progress: int) -> None:
        self._heartbeat.beat(progress)

    def close(self) -> None:
        self._heartbeat.leave("left the job")
        if self._lost is None:
            dist.destroy_process_group()
            self._heartbeat.wait_for_others()

    def _start(self, buffer: Tensor, operation: dist.ReduceOp.RedOpType, group: Any = None) -> Handle:
        if not buffer.is_contiguous():
            raise ValueError(f"a sum in place wants a contiguous buffer, not one of strides {buffer.stride()}")
        with self._translated():
            handle = _Handle(dist.all_reduce(buffer, operation, group=group, async_op=True), self)
        self._handles.add(handle)
        return handle

    @contextmanager
    def _translated(self, *, starts: bool = True) -> Iterator[None]:
        """Turns what torch.distributed raises into ``PeerLost``; once a rank is lost, every operation says so."""
        if self._lost is not None:
            raise self._lost
        if starts:
            self._heartbeat.count()
        try:
            yield
        except RuntimeError as error:
            self._lost = self._explain(first_sentence(error))
            self._hang_up()
            self._heartbeat.wait_for_others()
            raise self._lost from error

    def _explain(self, reason: str) -> PeerLost:
        broken = False
        if re.search("timed? ?out", reason, re.IGNORECASE):
            happened = f"no answer within {self._timeout:g} s"
        elif re.search("connection|closed|remote|peer", reason, re.IGNORECASE):
            happened, broken = "a connection broke", True
        else:
            happened = "an operation failed"
        found = self._heartbeat.findings(broken=broken)
        self._heartbeat.leave("gave up", found)
        hccl = f" {npu.explain_hccl(reason)}" if "hccl" in self._spec else ""
        return PeerLost(
            f"rank {self.rank} at step {self._heartbeat.step}: {happened}. {found}. (torch: {reason}){hccl}"
        )

    def _hang_up(self) -> None:
        """Closes the connections on the host, so that all ranks notice at once and not only when this process ends.

        Those of NCCL and HCCL are left to the end of the process: closing them may wait for the lost rank.
        """
        for handle in self._handles:
            handle.drop()
        group, self._host = self._host, None
        if group is not None:
            with suppress(TimeoutError, RuntimeError):  # what does not close now does at the end of the process
                run_with_timeout(1.0, lambda: dist.destroy_process_group(None if self._spec == "gloo" else group))


class _Handle:
    def __init__(self, work: Any, group: _Distributed) -> None:
        self._work = work
        self._group = group

    def wait(self) -> None:
        with self._group._translated(starts=False):
            self._work.wait()

    def drop(self) -> None:
        self._work = None  # as long as it is there, its connections stay open


class _AllReduce(torch.autograd.Function):
    """y = sum over ranks of x. Every rank's loss depends on y, so dx = the sum over ranks of dy."""

    @staticmethod
    def forward(values: Tensor, group: Group) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        group.all_reduce_async(total).wait()
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Group], output: Tensor) -> None:
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return ctx.group.all_reduce(cotangent), None


def _messages(leaves: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Packs the bytes of ``leaves`` into few messages: lists of views of one device, MESSAGE_BYTES together at most."""
    message: list[Tensor] = []
    for leaf in leaves:
        for piece in leaf.contiguous().reshape(-1).view(torch.int8).split(MESSAGE_BYTES):
            full = sum(map(len, message)) + len(piece) > MESSAGE_BYTES
            if message and (full or piece.device != message[0].device):
                yield message
                message = []
            message.append(piece)
    if message:
        yield message


def _device_timeout(spec: str, timeout: float) -> float:
    """The process group's own timeout, seconds: a little longer than the host's, whose message names the lost rank.

    NCCL and HCCL end the process when theirs passes. HCCL wants it longer than what its own variables say.
    """
    if spec == "gloo":
        return timeout
    hccl = [float(os.environ.get(name, default)) for name, default in HCCL_TIMEOUTS.items()]
    if "hccl" not in spec or timeout > max(hccl):
        return 1.1 * timeout
    log.warning(
        "--collective_timeout=%g does not exceed HCCL_CONNECT_TIMEOUT and HCCL_EXEC_TIMEOUT (%g s), as HCCL needs; on "
        "the device it is taken as %g s. Lower those variables to learn of a lost card earlier",
        timeout,
        max(hccl),
        1.1 * max(hccl),
    )
    return 1.1 * max(hccl)
