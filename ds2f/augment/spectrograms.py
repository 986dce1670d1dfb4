"""Augmentation of features: vocal tract length perturbation and SpecAugment."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ds2f.augment.drawing import happens, integer, uniform
from ds2f.config import AugmentationConfig


def draw_warp(key: int, cfg: AugmentationConfig) -> float:
    """Draws the factor for ``warp``: with ``cfg.warp_prob`` uniform from ``warp_min`` to ``warp_max``, else 1."""
    if not happens(key, "warped", cfg.warp_prob):
        return 1.0
    return uniform(key, "warp", cfg.warp_min, cfg.warp_max)


def warp(features: Tensor, factor: float, frequencies: Tensor) -> Tensor:
    """Multiplies the frequencies of a spectrogram by a factor, like a shorter or longer vocal tract.

    The content of frequency f moves to ``factor`` f, for f up to a knee. Above the knee a second line maps up to the
    highest bin, which stays in place. Values between bins are interpolated linearly. Below the lowest bin, the
    spectrogram is taken as constant.

    Args:
      features: [F, T] float of one utterance.
      factor: above 1: a shorter vocal tract, a higher voice.
      frequencies: [F] float64 on the CPU, ascending, of the bins; any unit in which 0 is 0 Hz.

    Returns:
      [F, T]; ``features`` itself if the factor is 1.

    Source: Jaitly and Hinton, "Vocal Tract Length Perturbation (VTLP) improves speech recognition", 2013. Their knee,
      at 4.8 of 8 kHz, is here at 60 % of the highest frequency.

    >>> ramp = torch.arange(5.0)[:, None]  # the bin of each value
    >>> warp(ramp, 1.25, torch.arange(5.0).double())[:, 0]  # bin 1 now has the content of bin 0.8
    tensor([0.0000, 0.8000, 1.6000, 2.7000, 4.0000])
    """
    if factor == 1:
        return features
    bins = frequencies.numpy()
    knee = 0.6 * bins[-1] * min(1.0, factor)
    origins = np.interp(bins, [0, knee, bins[-1]], [0, knee / factor, bins[-1]])
    places = torch.from_numpy(np.interp(origins, bins, np.arange(len(bins))))
    below = places.long().clamp(max=max(0, len(bins) - 2))
    fraction = (places - below).to(features).unsqueeze(1)
    lower, upper = features[below], features[(below + 1).clamp(max=len(bins) - 1)]
    return lower + fraction * (upper - lower)


def spec_augment(features: Tensor, key: int, cfg: AugmentationConfig, *, donate: bool = False) -> Tensor:
    """Sets random bands of frequencies and stretches of time to zero, the mean of an utterance.

    A band is 0 to ``cfg.frequency_width`` bins wide. A stretch is 0 to ``cfg.time_width`` frames long, but at most a
    fifth of the utterance. Widths and places are drawn uniformly.

    Args:
      features: [F, T] float of one utterance, without padding, of zero mean; not changed unless ``donate``.
      key: draws the masks.
      cfg: the ``augmentation`` section.
      donate: writes the zeros into ``features`` and returns it.

    Returns:
      [F, T], a new tensor unless ``donate``.

    Source: Park et al., "SpecAugment", Interspeech 2019, without time warping.

    >>> masked = spec_augment(torch.ones(20, 100), 0, AugmentationConfig(frequency_masks=1, frequency_width=5))
    >>> masked.shape, (masked.sum(dim=1) == 0).sum() <= 5
    (torch.Size([20, 100]), tensor(True))
    """
    masked = features if donate else features.clone()
    bands, stretches = _hidden(key, cfg, num_bins=features.shape[0], num_frames=features.shape[1])
    for band in bands:
        masked[band] = 0
    for stretch in stretches:
        masked[:, stretch] = 0
    return masked


def spec_augment_batch(features: Tensor, lengths: Tensor, keys: Sequence[int], cfg: AugmentationConfig) -> Tensor:
    """Applies ``spec_augment`` to every utterance of a batch, on the batch's device.

    Args:
      features: [B, F, T] float, padded.
      lengths: [B] int64 on the CPU, frames.
      keys: B keys, one per utterance.
      cfg: the ``augmentation`` section.

    Returns:
      [B, F, T], a new tensor. Within the lengths, it equals ``spec_augment`` of each utterance alone.
    """
    num_bins, num_frames = features.shape[1:]
    bands, stretches = [], []
    for key, length in zip(keys, lengths.tolist(), strict=True):
        of_bins, of_frames = _hidden(key, cfg, num_bins=num_bins, num_frames=length)
        bands.append(list(of_bins))
        stretches.append(list(of_frames))
    bins = _within(bands, num_bins, cfg.frequency_masks, features.device)[:, :, None]
    frames = _within(stretches, num_frames, cfg.time_masks, features.device)[:, None]
    return features.masked_fill(bins | frames, 0)


def _within(rows: Sequence[Sequence[slice]], size: int, count: int, device: torch.device) -> Tensor:
    """Whether each of ``size`` places lies in one of a row's ``count`` slices: [B, size] bool on the device.

    Only the slices' ends are copied there: a few bytes per utterance, for which no device waits.
    """
    ends = torch.tensor([[(each.start, each.stop) for each in row] for row in rows], dtype=torch.int64, device="cpu")
    ends = ends.reshape(len(rows), count, 2, 1).to(device, non_blocking=True)
    places = torch.arange(size, device=device)
    return ((ends[:, :, 0] <= places) & (places < ends[:, :, 1])).any(dim=1)


def _hidden(
    key: int, cfg: AugmentationConfig, *, num_bins: int, num_frames: int
) -> tuple[Iterator[slice], Iterator[slice]]:
    """Draws the bands of bins and the stretches of frames that SpecAugment sets to zero."""
    width, length = min(cfg.frequency_width, num_bins), min(cfg.time_width, num_frames // 5)
    bands = (_mask(key, "frequency", index, size=num_bins, widest=width) for index in range(cfg.frequency_masks))
    stretches = (_mask(key, "time", index, size=num_frames, widest=length) for index in range(cfg.time_masks))
    return bands, stretches


def _mask(key: int, axis: str, index: int, *, size: int, widest: int) -> slice:
    width = integer(key, axis, index, "width", high=widest)
    start = integer(key, axis, index, "start", high=size - width)
    return slice(start, start + width)
