"""Mean and deviation of the log spectrogram over a training set, for global normalisation and for streaming."""

import numpy as np
import torch

from ds2f import features
from ds2f.data import audio_parts
from ds2f.data.dataset import Dataset
from ds2f.errors import InputError

_MOST = 1000  # recordings that are measured: the mean of a bin is then known to a few thousandths of its deviation


def measure(dataset: Dataset, *, most: int = _MOST) -> tuple[tuple[float, ...], float]:
    """Measures the recordings of a dataset, without augmentation: all, or ``most`` at equal distances.

    Args:
      dataset: the training set.
      most: largest number of recordings.

    Returns:
      The mean of each bin, and the deviation from these means over all bins and frames. Recordings that cannot be read
      are left out.

    Raises:
      InputError: no recording can be read, or all are silent.
    """
    count = len(dataset.examples)
    chosen = sorted({index * count // min(count, most) for index in range(min(count, most))})
    frames, sums, squares = 0, np.zeros(dataset.spect.num_bins), np.zeros(dataset.spect.num_bins)
    for index in chosen:
        try:
            values = _log_magnitudes(dataset, index).numpy().astype(np.float64)
        except InputError:
            continue  # training says so
        frames += values.shape[1]
        sums += values.sum(axis=1)
        squares += np.square(values).sum(axis=1)
    mean = sums / max(frames, 1)
    variance = float((squares / max(frames, 1) - np.square(mean)).mean())
    if variance <= 0:
        raise InputError("spect.normalize=global: no training recording can be read, or all are silent")
    return tuple(mean.tolist()), variance**0.5


def _log_magnitudes(dataset: Dataset, index: int) -> torch.Tensor:
    example = dataset.examples[index]
    rate, limit = dataset.spect.sample_rate, dataset.data.max_recording_seconds
    recording = audio_parts.load(example.audio, example.start, example.num_samples, sample_rate=rate, max_seconds=limit)
    return features.unnormalized(torch.from_numpy(recording.samples), dataset.spect)
