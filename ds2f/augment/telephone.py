"""Sound of a telephone: a band of frequencies, and the codecs of ITU-T G.711 in closed form."""

import math
from collections.abc import Callable

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ds2f.augment.filtering import filtered

RATE = 8000  # hertz, of telephone codecs
G711 = ("ulaw", "alaw")
_TRANSITION = 100.0  # hertz around a cut-off, from the band to the attenuation
_ATTENUATION = 60.0  # dB beyond it
_PEAK = 0.9  # of the waveform while it is coded; full scale is 1

Coding = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def band_limit(waveform: Tensor, low: float, high: float, *, sample_rate: int) -> Tensor:
    """Takes away the frequencies below ``low`` and above ``high``, without delay.

    The cut-offs have half the amplitude. 50 Hz inside the band the amplitude is whole, to 0.1 %; 50 Hz beyond the
    cut-offs it is 60 dB lower.

    Args:
      waveform: [N] float on the CPU.
      low: lower cut-off, hertz; 0: none.
      high: upper cut-off, hertz; none from half the sampling rate on.
      sample_rate: hertz.

    Returns:
      [N].

    Source: Kaiser's window, in Oppenheim and Schafer, "Discrete-Time Signal Processing", section 7.5.
    """
    if not len(waveform) or (low <= 0 and 2 * high >= sample_rate):
        return waveform
    width = _TRANSITION / sample_rate
    half = math.ceil((_ATTENUATION - 7.95) / (14.36 * width) / 2)
    places = np.arange(-half, half + 1)
    window = np.kaiser(len(places), 0.1102 * (_ATTENUATION - 8.7))
    response = _low_pass(high / sample_rate, places, window) - _low_pass(low / sample_rate, places, window)
    return torch.from_numpy(filtered(waveform, response, origin=half)).to(waveform)


def _low_pass(cutoff: float, places: NDArray[np.int64], window: NDArray[np.float64]) -> NDArray[np.float64]:
    """The impulse response of a low-pass filter; the cut-off in cycles per sample."""
    if cutoff <= 0:
        return np.zeros(len(places))
    if cutoff >= 0.5:
        return (places == 0).astype(np.float64)
    response = 2 * cutoff * np.sinc(2 * cutoff * places) * window
    return response / response.sum()


def coded(waveform: Tensor, codec: str, *, sample_rate: int) -> Tensor:
    """Encodes a waveform at 8 kHz and 64 kbit/s with G.711, and decodes it.

    The peak is 90 % of full scale while the waveform is coded. So the distortion does not depend on its level.

    Args:
      waveform: [N] float32 on the CPU.
      codec: ``ulaw`` (North America, Japan) or ``alaw`` (elsewhere).
      sample_rate: hertz, of the waveform and of the result.

    Returns:
      [N]; ``waveform`` itself if it is silent.

    Raises:
      ValueError: another codec; ``ds2f.data.codecs.coded`` has more.

    >>> quantized = coded(torch.tensor([1.0, 0.5, -0.5]), "alaw", sample_rate=8000)
    >>> (quantized - torch.tensor([1.0, 0.5, -0.5])).abs().max() < 0.02
    tensor(True)
    """
    if codec not in G711:
        raise ValueError(f"codec {codec!r} is none of {', '.join(G711)}: pass a coder that has it")
    quantize = ulaw if codec == "ulaw" else alaw

    def code(samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return (quantize(np.rint(samples * 32768).astype(np.int32)) / 32768).astype(np.float32)

    return at_level(waveform, code, rate=RATE, sample_rate=sample_rate)


def at_level(waveform: Tensor, code: Coding, *, rate: int, sample_rate: int) -> Tensor:
    """Applies a codec at its sampling rate and at a fixed peak, and restores rate, length and level.

    Args:
      waveform: [N] float32 on the CPU.
      code: encodes and decodes samples at ``rate``, of a peak of about 0.9; it keeps their number or adds to it.
      rate: the codec's rate, hertz.
      sample_rate: the waveform's rate, hertz.

    Returns:
      [N]; ``waveform`` itself if it is silent.
    """
    peak = float(waveform.abs().max()) if len(waveform) else 0.0
    if peak == 0:
        return waveform
    samples = (waveform.double() * (_PEAK / peak)).float().numpy()
    if rate != sample_rate:
        samples = soxr.resample(samples, sample_rate, rate, quality="HQ")
    heard = code(np.clip(samples, -1, 1 - 2**-15))
    if rate != sample_rate:
        heard = soxr.resample(heard, rate, sample_rate, quality="HQ")
    whole = torch.from_numpy(np.ascontiguousarray(heard[: len(waveform)]))
    return (F.pad(whole, (0, len(waveform) - len(whole))).double() * (peak / _PEAK)).to(waveform)


def ulaw(samples: NDArray[np.int32]) -> NDArray[np.int32]:
    """Encodes 16-bit samples with G.711's mu-law of 8 bits, and decodes them.

    >>> ulaw(np.array([0, 10, 1000, -30000]))
    array([     0,      8,    988, -30076])
    """
    size = np.minimum(np.abs(samples), 32635) + 132  # the first of eight segments begins here; each is twice as wide
    step = 2 ** (np.frexp(size.astype(np.float64))[1] - 5)
    return np.where(samples < 0, -1, 1) * (size // step * step + step // 2 - 132)


def alaw(samples: NDArray[np.int32]) -> NDArray[np.int32]:
    """Encodes 16-bit samples with G.711's A-law of 8 bits, and decodes them.

    >>> alaw(np.array([0, 10, 1000, -30000]))
    array([     8,      8,   1008, -30208])
    """
    size = np.minimum(np.abs(samples), 32767)
    step = 2 ** np.maximum(np.frexp(size.astype(np.float64))[1] - 5, 4)  # the first two segments have one step
    return np.where(samples < 0, -1, 1) * (size // step * step + step // 2)
