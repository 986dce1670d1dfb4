"""Waveform to log spectrogram, the input of the model."""

import math
from functools import cache
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ds2f.config import SpectConfig
from ds2f.errors import InputError

_WINDOWS = {
    "hamming": torch.hamming_window,
    "hann": torch.hann_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}
Samples = TypeVar("Samples", int, NDArray[np.int64])
EPS = 1e-7  # far below the deviation of one bit of dither: only digital silence is affected


def num_frames(num_samples: Samples, cfg: SpectConfig) -> Samples:
    """The number of frames that ``log_spectrogram`` returns for ``num_samples`` samples.

    >>> num_frames(16000, SpectConfig(sample_rate=16000, window_stride=0.01))  # a second, and a frame at either end
    101
    """
    return (num_samples - cfg.window_samples % 2) // cfg.stride_samples + 1


def log_spectrogram(samples: Tensor, cfg: SpectConfig) -> Tensor:
    """Computes the log magnitude spectrogram, normalised by its mean and deviation over the utterance.

    1. Frames are centred on multiples of the stride, with reflection at both ends. The window is periodic and as long
       as the FFT. At most half a window of samples is padded with zeros, so that it can be reflected.
    2. With ``cfg.num_mels``, magnitudes are summed in mel bands (``mel_bands``).
    3. A magnitude m becomes log(1 + ``cfg.full_scale`` m), natural log.
    4. The mean is subtracted: over all bins and frames, or of each bin if ``cfg.normalize`` is "bins".
    5. All values are divided by their common unbiased deviation.

    Args:
      samples: [N] float, mono at ``cfg.sample_rate``, full scale is 1.
      cfg: the ``spect`` section.

    Returns:
      [F, T] float32 with F = ``cfg.num_bins`` and T = ``num_frames(N, cfg)``; all zeros for silence.

    Raises:
      InputError: if there are no samples.

    Source: the features of deepspeech.pytorch, plus an epsilon in the denominator, without which silence gives NaN.

    >>> tone = torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)  # a second of 1000 Hz
    >>> spectrogram = log_spectrogram(tone, SpectConfig())
    >>> spectrogram.shape, frequencies(SpectConfig())[spectrogram[:, 50].argmax()].item()
    (torch.Size([161, 101]), 1000.0)
    """
    return normalized(unnormalized(samples, cfg), cfg)


def unnormalized(samples: Tensor, cfg: SpectConfig) -> Tensor:
    """The log magnitudes of a whole recording: steps 1 to 3 of ``log_spectrogram``, with its arguments and errors.

    Returns:
      [F, T] float32.
    """
    if samples.numel() == 0:
        raise InputError("a recording without samples has no spectrogram; remove it from the manifest")
    size = cfg.window_samples
    extended = F.pad(samples.float(), (0, max(0, reflectable(cfg) - len(samples))))
    mirrored = F.pad(extended[None], (size // 2, size // 2), mode="reflect")[0]
    return log_magnitudes(mirrored, cfg)[:, : num_frames(len(samples), cfg)]


def reflectable(cfg: SpectConfig) -> int:
    """The number of samples that a reflection of half a window needs."""
    return cfg.window_samples // 2 + 1


def log_magnitudes(samples: Tensor, cfg: SpectConfig) -> Tensor:
    """Log magnitudes of the windows that lie within the samples: steps 2 and 3 of ``log_spectrogram``.

    Args:
      samples: [..., N] float; window t begins at sample t times the stride.
      cfg: the ``spect`` section.

    Returns:
      [..., F, T] float32, contiguous.
    """
    taper = window(cfg, dtype=samples.dtype, device=samples.device)
    spectrum = torch.stft(
        samples, cfg.window_samples, cfg.stride_samples, window=taper, center=False, return_complex=True
    )
    squares = torch.view_as_real(spectrum).square_()
    magnitudes = (squares[..., 0] + squares[..., 1]).sqrt_()  # takes a third of the time of torch.abs
    if cfg.num_mels:
        magnitudes = mel_bands(cfg).to(magnitudes.device) @ magnitudes
    return magnitudes.mul_(cfg.full_scale).log1p_().contiguous()


def window(cfg: SpectConfig, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """The window function, periodic: [``cfg.window_samples``]."""
    return _WINDOWS[cfg.window](cfg.window_samples, periodic=True, dtype=dtype, device=device)


def normalized(values: Tensor, cfg: SpectConfig) -> Tensor:
    """Subtracts the mean and divides by the deviation, as ``cfg.normalize`` says.

    Args:
      values: [F, T], of ``unnormalized``; with ``cfg.normalize`` "global" also [..., F, T].
      cfg: the ``spect`` section.

    Raises:
      InputError: global normalisation without the training set's statistics.
    """
    if cfg.normalize == "global":
        if not cfg.mean:
            raise InputError(
                "spect.normalize=global needs the mean and deviation of a training set, which launch.train measures"
            )
        return (values - values.new_tensor(cfg.mean)[:, None]) / (cfg.deviation + EPS)
    centred = values - (values.mean(dim=1, keepdim=True) if cfg.normalize == "bins" else values.mean())
    deviation = (centred.square().sum() / (centred.numel() - 1)).sqrt()  # takes a quarter of torch.std's time
    return centred / (deviation + EPS)


@cache
def mel_bands(cfg: SpectConfig) -> Tensor:
    """The weight of each FFT bin in each band of the mel scale.

    The bands are triangles of height 1 between 0 Hz and half the sampling rate. Their peaks have equal distances on the
    mel scale; a band reaches from the previous band's peak to the next band's peak. A bin's weight is the mean of the
    triangle over the bin's width, so a band narrower than a bin is not empty.

    Args:
      cfg: the ``spect`` section, ``num_mels`` positive.

    Returns:
      [``cfg.num_mels``, ``cfg.window_samples // 2 + 1``] float32 on the CPU, cached: callers must not change it.

    Source: mel = 2595 log10(1 + f / 700), O'Shaughnessy, "Speech Communication", 1987.
    """
    spacing, corners = _spacing(cfg), _corners(cfg)
    limits = spacing * (torch.arange(cfg.window_samples // 2 + 2, dtype=torch.float64) - 0.5)  # of the bins
    # A ramp from 0 at a corner to 1 at the next corner is the difference of two endless ramps relu(f - corner), each
    # with the integral relu(f - corner)^2 / 2.
    endless = (limits - corners[:, None]).relu().square().diff(dim=1) / (2 * spacing)
    ramps = (endless[:-1] - endless[1:]) / corners.diff()[:, None]
    return (ramps[:-1] - ramps[1:]).float()


@cache
def frequencies(cfg: SpectConfig) -> Tensor:
    """The centre frequency of each bin, hertz: [``cfg.num_bins``] float64 on the CPU, cached; do not change it.

    >>> frequencies(SpectConfig(num_mels=4)).round().tolist()
    [459.0, 1218.0, 2475.0, 4556.0]
    """
    if cfg.num_mels:
        return _corners(cfg)[1:-1]
    return _spacing(cfg) * torch.arange(cfg.num_bins, dtype=torch.float64)


def _spacing(cfg: SpectConfig) -> float:
    """Distance between bins of the FFT, hertz."""
    return cfg.sample_rate / cfg.window_samples


def _corners(cfg: SpectConfig) -> Tensor:
    """Corners of the mel bands, hertz: [num_mels + 2] float64; band k has its peak at corner k + 1."""
    highest = math.log10(1 + cfg.sample_rate / 2 / 700)
    return 700 * (10 ** torch.linspace(0, highest, cfg.num_mels + 2, dtype=torch.float64) - 1)
