"""Ranks as threads of one process: enough of a group for what only gathers and broadcasts."""

import threading
from concurrent.futures import ThreadPoolExecutor

from ds2f.runner.distributed import messages
from ds2f.runner.distributed.collectives import Group


class ThreadGroup(Group):
    """One rank of ``size``; the ranks share a list and a barrier."""

    def __init__(self, rank, size, values, barrier):
        self.rank, self.size = rank, size
        self._values, self._barrier = values, barrier

    def gather(self, value):
        return [messages.decode(message) for message in self._share(messages.encode(value))]

    def _share(self, value):
        self._values[self.rank] = value
        self._barrier.wait(timeout=30)
        gathered = list(self._values)
        self._barrier.wait(timeout=30)
        return gathered

    def broadcast(self, values):
        return self._share(values)[0]


def in_ranks(size, work):
    """Calls ``work(group)`` on every rank at once and returns the results, exceptions included, by rank."""
    values, barrier = [None] * size, threading.Barrier(size)

    def guarded(rank):
        try:
            return work(ThreadGroup(rank, size, values, barrier))
        except Exception as error:  # noqa: BLE001
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(guarded, range(size)))
