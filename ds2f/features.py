"""Waveform to log spectrogram: what the model sees of a recording."""

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


def log_spectrogram(waveform: Tensor, cfg: SpectConfig) -> Tensor:
    """Computes the log magnitude spectrogram, its mean and deviation over the utterance removed.

    The frames are centred on multiples of the stride, with reflection at both ends; the window is periodic and as long
    as the FFT; a magnitude m becomes log(1 + ``cfg.full_scale`` m). The mean is that of all bins and frames, or of each
    bin with ``cfg.normalize`` "bins", the unbiased deviation that of all that is left. A waveform too short to be
    reflected (half a window or less) is lengthened with zeros first.

    Args:
      waveform: [N] float, mono at ``cfg.sample_rate``, full scale is 1.
      cfg: the ``spect`` section.

    Returns:
      [F, T] float32 with F = ``cfg.num_bins`` and T = ``num_frames(N, cfg)``; all zeros for silence.

    Raises:
      InputError: when the waveform holds no samples.

    Source: as deepspeech.pytorch does, but for an epsilon in the denominator: silence there gives NaN.
    """
    if waveform.numel() == 0:
        raise InputError("a recording without samples has no spectrogram; remove it from the manifest")
    size, frames = cfg.window_samples, num_frames(len(waveform), cfg)
    reflectable = size // 2 + 1
    waveform = F.pad(waveform.float(), (0, max(0, reflectable - len(waveform))))
    window = _WINDOWS[cfg.window](size, periodic=True, dtype=waveform.dtype, device=waveform.device)
    spectrum = torch.stft(
        waveform, size, cfg.stride_samples, window=window, center=True, pad_mode="reflect", return_complex=True
    )
    values = spectrum[:, :frames].abs().mul_(cfg.full_scale).log1p_().contiguous()
    centred = values - (values.mean(dim=1, keepdim=True) if cfg.normalize == "bins" else values.mean())
    deviation = (centred.square().sum() / (centred.numel() - 1)).sqrt()  # a quarter of the time of torch.std
    return centred / (deviation + _EPS)
