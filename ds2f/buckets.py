"""Sums of trees over the ranks: each tree travels in contiguous buffers, and the caller goes on meanwhile."""

from typing import Any

import torch
from torch import Tensor

from ds2f import tree
from ds2f.types import Collectives, Handle

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Buckets:
    """Collects the sums that are under way; every rank starts the same trees in the same order."""

    def __init__(self, collectives: Collectives, *, dtype: str = "fp32") -> None:
        """Starts with nothing under way.

        Args:
          collectives: sums over the ranks.
          dtype: what float32 leaves travel in: ``fp32``, or ``bf16`` or ``fp16`` for half the bytes. A sum that a half
            type cannot hold becomes infinite, which fails the step like any other overflow.
        """
        self._collectives, self._dtype = collectives, _DTYPES[dtype]
        self._under_way: list[tuple[Handle, Tensor, Tensor]] = []

    def start(self, values: Any) -> Any:
        """Begins to sum a tree over the ranks, in one buffer per dtype.

        Returns:
          A tree of views into the buffers, which hold the sums once ``wait`` has returned; ``values`` for one rank.
        """
        if self._collectives.size == 1:
            return values
        flat, unflatten = tree.flatten(values)
        summed: list[Tensor] = list(flat)
        for dtype in sorted({leaf.dtype for leaf in flat}, key=str):
            places = [index for index, leaf in enumerate(flat) if leaf.dtype == dtype]
            buffer = torch.cat([flat[index].reshape(-1) for index in places])
            sent = buffer.to(self._dtype) if dtype == torch.float32 else buffer
            self._under_way.append((self._collectives.all_reduce_async(sent), sent, buffer))
            for index, piece in zip(places, buffer.split([flat[index].numel() for index in places]), strict=True):
                summed[index] = piece.view_as(flat[index])
        return unflatten(summed)

    def wait(self) -> None:
        """Makes the sums usable on the device, in the order in which they were started."""
        for handle, sent, buffer in self._under_way:
            handle.wait()
            if sent is not buffer:
                buffer.copy_(sent)
        self._under_way.clear()


def sum_over_ranks(values: Any, collectives: Collectives) -> Any:
    """Sums every tensor of a tree over the ranks and waits for it; the tree itself for one rank."""
    buckets = Buckets(collectives)
    values = buckets.start(values)
    buckets.wait()
    return values
