"""Convolution of a waveform with an impulse response, in its place and at its length."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def filtered(waveform: Tensor, response: NDArray[np.float64], *, origin: int) -> NDArray[np.float64]:
    """Convolves a waveform with an impulse response. It uses one thread, so its bits do not depend on threads.

    Args:
      waveform: [N] float on the CPU, N > 0.
      response: [M] the impulse response.
      origin: the sample of the response that stands for no delay.

    Returns:
      [N], sample n of the waveform at place n.
    """
    samples = len(waveform)
    size = fast_length(samples + len(response) - 1)
    spectrum = np.fft.rfft(waveform.double().numpy(), size)
    spectrum *= np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[origin : origin + samples]


def fast_length(least: int) -> int:
    """The smallest length, ``least`` or more, of a fast Fourier transform: 2, 3 and 5 are its only prime factors.

    >>> fast_length(1), fast_length(17), fast_length(168001)
    (1, 18, 168750)
    """
    best = 2 * least
    fives = 1
    while fives < best:
        odd = fives
        while odd < best:
            best = min(best, odd << (-(-least // odd) - 1).bit_length())
            odd *= 3
        fives *= 5
    return best


def power(waveform: Tensor) -> float:
    """The mean of the squares, in float64; 0 of an empty waveform."""
    return float(waveform.double().square().mean()) if len(waveform) else 0.0
