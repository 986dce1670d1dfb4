"""Several channels become one, and samples are looked at for what makes them hard to recognise."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

_CANCELLED = 0.05  # power of the channels' mean, relative to that of independent channels, below which they cancel
_FULL = 0.9999  # of full scale, which 32767 of 32768 exceeds
_CLIPPED = 0.01  # fraction of the samples; a sine of full scale has less there
_LEAST_OFFSET = 0.01  # of full scale

Blocks = Callable[[], Iterator[NDArray[np.float32]]]


def mono(blocks: Blocks, channels: int) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """The mean of the channels, or the loudest channel where they cancel each other.

    Channels cancel when one is the other upside down, as from a microphone with swapped wires.

    Args:
      blocks: gives the samples from their beginning, at each call; at least one block [n, channels].
      channels: their number.

    Returns:
      Samples [N], and remarks.
    """
    if channels == 1:
        return _joined([block[:, 0] for block in blocks()]), ()
    mixed: list[NDArray[np.float32]] = []
    channel, remarks = choose(blocks, channels, keep=mixed.append)
    return _joined(mixed if channel is None else [block[:, channel] for block in blocks()]), remarks


def choose(
    blocks: Blocks, channels: int, *, keep: Callable[[NDArray[np.float32]], object] = lambda mixed: None
) -> tuple[int | None, tuple[str, ...]]:
    """Decides which channel to take, reading all blocks once if there are several.

    Args:
      blocks: as for ``mono``.
      channels: their number.
      keep: called with the mean of the channels of every block.

    Returns:
      The channel, or None for their mean; and remarks.
    """
    if channels == 1:
        return 0, ()
    powers, power = np.zeros(channels), 0.0
    for block in blocks():
        mean = block.mean(axis=1, dtype=np.float32)
        keep(mean)
        powers += _powers(block)
        power += float(_powers(mean[:, None])[0])
    # The mean of independent channels has the sum of their powers, divided by the square of their number.
    if power * channels**2 < _CANCELLED * powers.sum():
        return int(powers.argmax()), (f"its {channels} channels cancel each other: the loudest is taken alone",)
    return None, (f"mixed {channels} channels down to one",)


def oddities(samples: NDArray[np.float32], sizes: NDArray[np.float32]) -> tuple[str, ...]:
    """Remarks about silence, clipping and a constant offset.

    Args:
      samples: [N], at least one; full scale is 1.
      sizes: their absolute values.
    """
    peak = float(sizes.max())
    if not peak:
        return ("silent: every sample is zero",)
    notes: tuple[str, ...] = ()
    if peak > _FULL and np.count_nonzero(sizes > _FULL) > _CLIPPED * len(samples):
        notes += (f"clipped: more than {_CLIPPED:.0%} of its samples are at full scale",)
    offset = abs(float(samples.mean()))
    if offset > _LEAST_OFFSET and offset > float(samples.std(dtype=np.float64)):
        notes += ("its samples have a constant offset that is larger than the sound",)
    return notes


def _joined(pieces: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _powers(block: NDArray[np.float32]) -> NDArray[np.float64]:
    """The sum of squares of each channel of [N, channels]."""
    return np.einsum("nc,nc->c", block, block, dtype=np.float64)
