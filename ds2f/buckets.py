"""Asynchronous all-reduce of trees, in one contiguous buffer per tree and dtype."""

from typing import Any

import torch
from torch import Tensor

from ds2f import tree
from ds2f.precision import DTYPES
from ds2f.types import Collectives, Handle


class Buckets:
    """The all-reduce operations in progress. Every rank starts the same trees in the same order.

    >>> from ds2f.types import SINGLE
    >>> buckets = Buckets(SINGLE)
    >>> summed = buckets.start({"w": torch.ones(2)})  # the all-reduce runs while the caller computes
    >>> buckets.wait()
    >>> summed
    {'w': tensor([1., 1.])}
    """

    def __init__(self, collectives: Collectives, *, dtype: str = "fp32") -> None:
        """Starts without operations in progress.

        Args:
          collectives: the ranks' all-reduce operations.
          dtype: dtype in which float32 leaves are sent and summed: ``fp32``, or ``bf16`` or ``fp16`` for half the
            bytes. A sum that overflows a half type becomes infinite and fails the step.
        """
        self._collectives, self._dtype = collectives, DTYPES[dtype]
        self._in_progress: list[tuple[Handle, Tensor, Tensor]] = []

    def start(self, values: Any) -> Any:
        """Starts the all-reduce of a tree, with one buffer per dtype.

        Returns:
          A tree of views into the buffers; they hold the sums after ``wait``. With one rank, ``values`` itself.
        """
        if self._collectives.size == 1:
            return values
        flat, unflatten = tree.flatten(values)
        summed: list[Tensor] = list(flat)
        for dtype in sorted({leaf.dtype for leaf in flat}, key=str):
            places = [index for index, leaf in enumerate(flat) if leaf.dtype == dtype]
            buffer = torch.cat([flat[index].reshape(-1) for index in places])
            sent = buffer.to(self._dtype) if dtype == torch.float32 else buffer
            self._in_progress.append((self._collectives.all_reduce_async(sent), sent, buffer))
            for index, piece in zip(places, buffer.split([flat[index].numel() for index in places]), strict=True):
                summed[index] = piece.view_as(flat[index])
        return unflatten(summed)

    def wait(self) -> None:
        """Makes all sums usable on the device, in the order of their start."""
        for handle, sent, buffer in self._in_progress:
            handle.wait()
            if sent is not buffer:
                buffer.copy_(sent)
        self._in_progress.clear()


def sum_over_ranks(values: Any, collectives: Collectives) -> Any:
    """The all-reduce of a tree; waits for it. With one rank, the tree itself."""
    buckets = Buckets(collectives)
    values = buckets.start(values)
    buckets.wait()
    return values
