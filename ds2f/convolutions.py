"""The model's two convolutions: their sizes, and how many frames they leave of an utterance.

The model computes with them; ``data`` only has to know which utterances keep enough frames for their labels.
"""

from typing import NamedTuple, TypeVar

from torch import Tensor

Lengths = TypeVar("Lengths", int, Tensor)


class Convolution(NamedTuple):
    """Sizes of one convolution, (frequency, time)."""

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


def convolutions(time_stride: int = 2, frequency_stride: int = 4) -> tuple[Convolution, ...]:
    """The two convolutions of a model.

    Args:
      time_stride: input frames per output frame, even.
      frequency_stride: input bins per output bin, even.
    """
    return (
        Convolution(32, (41, 11), (frequency_stride // 2, 2), (20, 5)),
        Convolution(32, (21, 11), (2, time_stride // 2), (10, 5)),
    )


def output_lengths(lengths: Lengths, *, time_stride: int = 2) -> Lengths:
    """Frames of the logits for utterances of ``lengths`` frames: lengths / time_stride, rounded up (0 stays 0).

    >>> output_lengths(101), output_lengths(101, time_stride=4)
    (51, 26)
    """
    for conv in convolutions(time_stride):
        lengths = (lengths + 2 * conv.padding[1] - conv.kernel[1]) // conv.stride[1] + 1
    return lengths
