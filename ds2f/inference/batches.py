"""Pieces of recordings in batches of like length: mixed lengths would cost more in padding than a batch gains."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

_WINDOW_FRAMES = 80_000  # of the spectrograms that are held to be batched by length: 32 pieces of 25 s
_WINDOW_ITEMS = 512  # at most
_BATCH_FRAMES = 12_000  # of the spectrogram in a batch, padding included: two minutes
_LEAST_FILLED = 0.9  # of a batch: with more padding, batches are slower than single pieces

Item = TypeVar("Item")


def windows(items: Iterable[Item], frames: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Groups items in their order, by what is held at a time: the more, the closer their lengths in a batch.

    >>> [len(window) for window in windows([50_000, 35_000, 5, 5], lambda frames: frames)]
    [2, 2]
    """
    window: list[Item] = []
    held = 0
    for item in items:
        window.append(item)
        held += frames(item)
        if held >= _WINDOW_FRAMES or len(window) == _WINDOW_ITEMS:
            yield window
            window, held = [], 0
    if window:
        yield window


def batches_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Groups indices of like lengths: at most ``_BATCH_FRAMES`` with padding, of which a tenth may be padding.

    >>> list(batches_by_length([500, 10, 490, 5000]))
    [[3], [0, 2], [1]]
    """
    batch: list[int] = []
    filled = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[batch[0]] if batch else 0
        padded = longest * (len(batch) + 1)
        if batch and (padded > _BATCH_FRAMES or filled + lengths[index] < _LEAST_FILLED * padded):
            yield batch
            batch, filled = [], 0
        batch.append(index)
        filled += lengths[index]
    if batch:
        yield batch
