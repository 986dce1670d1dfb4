"""Counts the bytes of the tensors that are alive while something computes."""

import weakref

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the memory of tensors that operators make while it is entered; ``peak`` is the most at any time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.untyped_storage() not in given:
                self._count(leaf.untyped_storage())
        return made

    def _count(self, memory):
        if memory in self._known:  # two of an operator's results may share it
            return
        size = memory.nbytes()
        self._known.add(memory)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(memory, self._forget, size)

    def _forget(self, size):
        self.now -= size


def peak_bytes(fn):
    """The most bytes that tensors made by ``fn()`` had together at any time."""
    with LiveBytes() as live:
        fn()
    return live.peak
