"""Collectives over the ranks of a job: all-reduce, verdicts, votes, gather and broadcast, over gloo, NCCL and HCCL.

torch's DistributedDataParallel was decided against: it hooks into modules and their ``.grad``, while here parameters
are pytrees and gradients are results of a function. The training step gets its collectives as an argument instead
(``ds2f.types.Collectives``), so a test can pass others, and one process passes a group of one.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ds2f import tree
from ds2f.runner.distributed import messages
from ds2f.runner.distributed.job_store import Membership, connect
from ds2f.runner.distributed.process_group import ProcessGroups
from ds2f.types import SINGLE, Handle

MESSAGE_BYTES = 2**28  # limit of one message: memory that a rank needs beside the values themselves


class Vote:
    """A question to all ranks under way: whether any rank answers yes."""

    def __init__(self, handle: Handle, ballot: Tensor) -> None:
        """Takes the handle and the buffer of an all-reduce with the operation maximum."""
        self._handle = handle
        self._ballot = ballot

    def result(self) -> bool:
        """Waits for the other ranks' answers; the same on every rank."""
        self._handle.wait()
        return bool(self._ballot.item())


class Group:
    """The ranks of a job, as ``ds2f.types.Collectives``; this class itself is the group of a single process.

    The methods from ``all_reduce_async`` to ``vote`` are called by every rank, in the same order. In a group of several
    ranks they raise ``PeerLost`` when a rank is lost.
    """

    rank: int = 0
    size: int = 1

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        """Starts an all-reduce (sum) of a contiguous buffer in place. Waiting for it does not block the host on a CUDA
        device or NPU."""
        return SINGLE.all_reduce_async(buffer)

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over the ranks as a new tensor, differentiable: its cotangents are all-reduced too."""
        return values

    def all_finite(self, flag: Tensor) -> Tensor:
        """Whether ``flag`` ([] bool) is true on every rank: [] bool on the same device."""
        return flag

    def sum(self, values: Sequence[float]) -> list[float]:
        """All-reduces host numbers in double precision."""
        return [float(value) for value in values]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value``, by rank, as ``messages.encode`` sends it: plain values, and lists, tuples, sets and
        dicts of them; a NamedTuple arrives as a tuple.

        Raises:
          TypeError: when ``value`` is no such value.
        """
        return [messages.decode(messages.encode(value))]

    def broadcast(self, values: tree.Tree) -> tree.Tree:
        """Sends rank 0's tensors to all ranks, bit for bit.

        Args:
          values: on rank 0, the tensors; elsewhere a tree of the same structure, shapes and dtypes.

        Returns:
          On rank 0 the argument, elsewhere new tensors on the devices of the argument's tensors.
        """
        return values

    def vote(self, flag: bool) -> Vote:
        """Starts asking whether any rank answers yes, without waiting for the answer."""
        return Vote(SINGLE.all_reduce_async(torch.empty(0)), torch.tensor(flag))

    def beat(self, progress: int) -> None:
        """Notes that this rank begins step ``progress``, for messages about a lost rank. Costs nothing."""

    def while_waiting(self, look: Callable[[], None]) -> None:
        """Calls ``look`` several times a second while this rank waits for the others on the host; it may raise."""

    def abandon(self, reason: str) -> None:
        """Leaves the other ranks without their consent: their collectives raise ``PeerLost`` with ``reason``."""

    def tell_saved(self) -> None:
        """Tells the other ranks, after ``abandon`` or a ``PeerLost``, that rank 0 writes nothing more."""

    def wait_until_saved(self) -> None:
        """Waits, after ``abandon`` or a ``PeerLost``, until rank 0 writes nothing more, or cannot be heard."""

    def close(self) -> None:
        """Leaves the group."""


ALONE = Group()


def open_group(spec: str, *, device: torch.device, timeout: float, rdzv_timeout: float) -> Group:
    """Joins the job that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, as torchrun sets them).

    Args:
      spec: torch's backends by device type: ``gloo``, ``cpu:gloo,cuda:nccl`` or ``cpu:gloo,npu:hccl``.
      device: this rank's device, already the current one.
      timeout: how long a collective waits for the other ranks, seconds.
      rdzv_timeout: how long this rank waits for the job's store and for the other ranks to connect, seconds.

    Returns:
      The group, or ``ALONE`` when RANK is not set.

    Raises:
      PeerLost: when the store or another rank cannot be reached in time.
      InputError: when MASTER_ADDR or MASTER_PORT is missing, or the port is taken.
    """
    if "RANK" not in os.environ:
        return ALONE
    membership = Membership.from_environment()
    store = connect(membership, timeout=rdzv_timeout)
    groups = ProcessGroups(spec, store, membership, device=device, timeout=timeout, connect_timeout=rdzv_timeout)
    return _DistributedGroup(groups)


class _DistributedGroup(Group):
    """The ranks of a job over torch.distributed."""

    def __init__(self, groups: ProcessGroups) -> None:
        self.rank, self.size = groups.rank, groups.size
        self._groups = groups

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        return self._groups.all_reduce(buffer, dist.ReduceOp.SUM)

    def all_reduce(self, values: Tensor) -> Tensor:
        return _AllReduce.apply(values, self)

    def all_finite(self, flag: Tensor) -> Tensor:
        verdict = flag.to(torch.int32, copy=True)
        self._groups.all_reduce(verdict, dist.ReduceOp.MIN).wait()
        return verdict.to(torch.bool)

    def sum(self, values: Sequence[float]) -> list[float]:
        sums = torch.tensor(values, dtype=torch.float64)
        self._groups.all_reduce(sums, dist.ReduceOp.SUM, on_host=True).wait()
        return sums.tolist()

    def gather(self, value: Any) -> list[Any]:
        message = torch.frombuffer(bytearray(messages.encode(value)), dtype=torch.uint8)
        if len(message) > MESSAGE_BYTES:
            raise ValueError(f"a message of {len(message)} bytes to all ranks: the limit is {MESSAGE_BYTES} bytes")
        sizes = self._all_gather(torch.tensor([len(message)]))
        longest = int(max(sizes))
        if longest > MESSAGE_BYTES:
            raise RuntimeError(f"a rank announces a message of {longest} bytes: the limit is {MESSAGE_BYTES} bytes")
        gathered = self._all_gather(torch.nn.functional.pad(message, (0, longest - len(message))))
        return [
            messages.decode(padded[: int(size)].numpy().tobytes()) for padded, size in zip(gathered, sizes, strict=True)
        ]

    def _all_gather(self, values: Tensor) -> list[Tensor]:
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        with self._groups.translating_errors():
            # No name for the group: the traceback of an interrupted wait would keep it, and its connections open.
            self._groups.wait(
                dist.all_gather(gathered, values, group=self._groups.host_group, async_op=True), on_host=True
            )
        return gathered

    def broadcast(self, values: tree.Tree) -> tree.Tree:
        leaves, unflatten = tree.flatten(values)
        if self.rank != 0:
            leaves = [torch.empty_like(leaf, memory_format=torch.contiguous_format) for leaf in leaves]
        for message in _messages(leaves):
            buffer = torch.cat(message)
            with self._groups.translating_errors():
                self._groups.wait(dist.broadcast(buffer, src=0, async_op=True))
            if self.rank != 0:
                for piece, received in zip(message, buffer.split([len(piece) for piece in message]), strict=True):
                    piece.copy_(received)
        return unflatten(leaves)

    def vote(self, flag: bool) -> Vote:
        ballot = torch.tensor(flag, dtype=torch.int32)
        return Vote(self._groups.all_reduce(ballot, dist.ReduceOp.MAX, on_host=True), ballot)

    def beat(self, progress: int) -> None:
        self._groups.beat(progress)

    def while_waiting(self, look: Callable[[], None]) -> None:
        self._groups.look = look

    def abandon(self, reason: str) -> None:
        self._groups.abandon(reason)

    def tell_saved(self) -> None:
        self._groups.heartbeat.tell_saved()

    def wait_until_saved(self) -> None:
        self._groups.heartbeat.wait_until_saved()

    def close(self) -> None:
        self._groups.close()


class _AllReduce(torch.autograd.Function):
    """y = sum over ranks of x. Every rank's loss depends on y, so dx = sum over ranks of dy."""

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
    """Packs the bytes of ``leaves`` into few messages: lists of views on one device, at most MESSAGE_BYTES together."""
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
