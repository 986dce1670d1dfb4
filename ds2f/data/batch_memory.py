"""Memory for the features of batches that loader processes share with their parent, used again by batch after batch.

torch sends a tensor in new shared memory: the parent opens and maps it, and gives its pages back after the batch. For
46 MB that is 16 ms of the training process, and as long in the loader process. Here buffers are mapped before the
processes are forked, and only their numbers travel.

A loader process takes a buffer, and marks it. The parent makes a tensor of it, and removes the mark when nobody has the
tensor any more. Where no buffer is free, or none is large enough, torch's way is taken. A buffer has pages from the
first use on, as many as its largest batch.
"""

import itertools
import math
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_FLAGS = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)  # most buffers are not filled
_ITEM = 4  # bytes of float32
_tokens = itertools.count()
_memories: "weakref.WeakValueDictionary[int, BatchMemory]" = weakref.WeakValueDictionary()


class Place(NamedTuple):
    """A buffer of a memory, as it travels between processes."""

    memory: int  # token of the memory
    buffer: int


class BatchMemory:
    """The buffers of the loader processes of one loader."""

    def __init__(self, processes: int, *, buffers: int, size: int) -> None:
        """Maps the buffers, before the processes are forked.

        Args:
          processes: number of loader processes.
          buffers: of each process.
          size: of a buffer, bytes: of the largest batch.

        Raises:
          OSError: the system refuses.
        """
        self._size, self._buffers_each, self._owner = size, buffers, os.getpid()
        self._buffers = [mmap.mmap(-1, max(1, size), flags=_FLAGS) for _ in range(processes * buffers)]
        self._marks = mmap.mmap(-1, len(self._buffers), flags=_FLAGS)  # a byte per buffer: 1 while it is in use
        self.token = next(_tokens)
        _memories[self.token] = self

    def take(self, process: int, shape: Sequence[int]) -> tuple[Tensor, Place] | None:
        """Takes a free buffer, in a loader process.

        Args:
          process: number of the loader process.
          shape: of the tensor, float32.

        Returns:
          A tensor, filled with anything, and its place; None if no buffer is free or large enough.
        """
        if _ITEM * math.prod(shape) > self._size:
            return None
        first = process * self._buffers_each
        for buffer in range(first, first + self._buffers_each):
            if not self._marks[buffer]:
                self._marks[buffer] = 1
                return self._tensor(buffer, shape)[0], Place(self.token, buffer)
        return None

    def _tensor(self, buffer: int, shape: Sequence[int]) -> tuple[Tensor, np.ndarray]:
        """The beginning of a buffer as a tensor, and the array that lives as long as the tensor's storage."""
        view = np.frombuffer(self._buffers[buffer], np.float32, math.prod(shape))
        return torch.from_numpy(view).view(*shape), view

    def opened(self, buffer: int, shape: Sequence[int]) -> Tensor:
        """The tensor that a loader process has put into a buffer; the buffer is free when nobody has the tensor."""
        tensor, view = self._tensor(buffer, shape)
        weakref.finalize(view, self._free, buffer).atexit = False
        return tensor

    def _free(self, buffer: int) -> None:
        if os.getpid() == self._owner:  # a process that is forked later has copies of the parent's objects
            self._marks[buffer] = 0


def opened(place: Place, shape: Sequence[int]) -> Tensor:
    """The tensor at a place, in the process that made the memory.

    Raises:
      KeyError: the memory's loader is gone.
    """
    return _memories[place.memory].opened(place.buffer, shape)
