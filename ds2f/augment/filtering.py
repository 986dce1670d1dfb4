"""Convolution of a waveform with an impulse response, in its place and at its length."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft
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
    size = fft.next_fast_len(samples + len(response) - 1, real=True)
    spectrum = fft.rfft(waveform.double().numpy(), size)
    spectrum *= fft.rfft(response, size)
    return fft.irfft(spectrum, size, overwrite_x=True)[origin : origin + samples]


def power(waveform: Tensor) -> float:
    """The mean of the squares, in float64; 0 of an empty waveform."""
    return float(waveform.double().square().mean()) if len(waveform) else 0.0
