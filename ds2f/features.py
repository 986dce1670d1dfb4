"""Waveform to log spectrogram: what the model sees of a recording."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ds2f.config import SpectConfig
from ds2f.errors import InputError

_WINDOWS = {
    "hamming": torch.hamming_window,
    "hann": torch.hann_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}
_EPS = 1e-7  # far below the deviation of one bit of dither, so that only silence notices it


def num_frames(num_samples: int, cfg: SpectConfig) -> int:
    """The number of frames that ``log_spectrogram`` makes of ``num_samples`` samples (an odd window loses one)."""
    return (num_samples - cfg.window_samples % 2) // cfg.stride_samples + 1


def log_spectrogram(samples: Tensor, cfg: SpectConfig) -> Tensor:
    """Computes the log magnitude spectrogram, its mean and deviation over the utterance removed.

    The frames are centred on multiples of the stride, with reflection at both ends; the window is periodic and as long
    as the FFT. With ``cfg.num_mels`` the magnitudes are summed in bands, see ``mel_bands``. A magnitude m becomes
    log(1 + ``cfg.full_scale`` m). The mean is that of all bins and frames, or of each bin with ``cfg.normalize``
    "bins", the unbiased deviation that of all that is left. A waveform too short to be reflected (half a window or
    less) is lengthened with zeros first.

    Args:
      samples: [N] float, mono at ``cfg.sample_rate``, full scale is 1.
      cfg: the ``spect`` section.

    Returns:
      [F, T] float32 with F = ``cfg.num_bins`` and T = ``num_frames(N, cfg)``; all zeros for silence.

    Raises:
      InputError: when the waveform holds no samples.

    Source: as deepspeech.pytorch does, but for an epsilon in the denominator: silence there gives NaN.
    """
    if samples.numel() == 0:
        raise InputError("a recording without samples has no spectrogram; remove it from the manifest")
    size, frames = cfg.window_samples, num_frames(len(samples), cfg)
    reflectable = size // 2 + 1
    padded = F.pad(samples.float(), (0, max(0, reflectable - len(samples))))
    window = _WINDOWS[cfg.window](size, periodic=True, dtype=padded.dtype, device=padded.device)
    spectrum = torch.stft(
        padded, size, cfg.stride_samples, window=window, center=True, pad_mode="reflect", return_complex=True
    )
    magnitudes = spectrum[:, :frames].abs()
    if cfg.num_mels:
        magnitudes = mel_bands(cfg).to(magnitudes.device) @ magnitudes
    values = magnitudes.mul_(cfg.full_scale).log1p_().contiguous()
    centred = values - (values.mean(dim=1, keepdim=True) if cfg.normalize == "bins" else values.mean())
    deviation = (centred.square().sum() / (centred.numel() - 1)).sqrt()  # a quarter of the time of torch.std
    return centred / (deviation + _EPS)


@cache
def mel_bands(cfg: SpectConfig) -> Tensor:
    """What share of each of the FFT's bins belongs to which band of the mel scale.

    The bands are triangles of height 1 from 0 Hz to half the sampling rate, their corners equally far apart on the mel
    scale, each reaching from the peak of the one before to that of the one behind. A bin counts with the mean of the
    triangle over the bin's width, so that a band narrower than a bin is not empty.

    Args:
      cfg: the ``spect`` section, ``num_mels`` positive.

    Returns:
      [``cfg.num_mels``, ``cfg.window_samples // 2 + 1``] float32 on the CPU, shared: not to be changed.

    Source: mel = 2595 log10(1 + f / 700), O'Shaughnessy, "Speech Communication", 1987.
    """
    spacing, corners = _spacing(cfg), _corners(cfg)
    limits = spacing * (torch.arange(cfg.window_samples // 2 + 2, dtype=torch.float64) - 0.5)  # of the bins
    # The ramp from 0 at a corner to 1 at the next is a difference of two that never end; relu(f)^2 / 2 integrates relu.
    endless = (limits - corners[:, None]).relu().square().diff(dim=1) / (2 * spacing)
    ramps = (endless[:-1] - endless[1:]) / corners.diff()[:, None]
    return (ramps[:-1] - ramps[1:]).float()


@cache
def frequencies(cfg: SpectConfig) -> Tensor:
    """The frequency, in hertz, that each bin of a frame stands for: [``cfg.num_bins``] float64 on the CPU, shared."""
    if cfg.num_mels:
        return _corners(cfg)[1:-1]
    return _spacing(cfg) * torch.arange(cfg.num_bins, dtype=torch.float64)


def _spacing(cfg: SpectConfig) -> float:
    """Hertz between bins of the FFT."""
    return cfg.sample_rate / cfg.window_samples


def _corners(cfg: SpectConfig) -> Tensor:
    """Where the mel bands begin, peak and end, hertz: [num_mels + 2] float64."""
    highest = math.log10(1 + cfg.sample_rate / 2 / 700)
    return 700 * (10 ** torch.linspace(0, highest, cfg.num_mels + 2, dtype=torch.float64) - 1)
