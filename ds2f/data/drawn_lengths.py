"""Lengths of many utterances after augmentation, without drawing what does not change them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ds2f import augment
from ds2f.config import AugmentationConfig


def perturbed_lengths(num_samples: NDArray[np.int64], how: augment.Perturbation) -> NDArray[np.int64]:
    """``how.num_samples`` of each of many lengths, [N]."""
    return how.before + _stretched(_stretched(num_samples, how.speed), how.tempo) + how.after


def drawn_lengths(
    num_samples: NDArray[np.int64], keys: Iterable[int], cfg: AugmentationConfig, *, sample_rate: int
) -> NDArray[np.int64]:
    """The samples of utterances after ``augment.perturb``.

    Args:
      num_samples: [N], before.
      keys: of the utterances in their epoch; not read if no setting changes a length.
      cfg: the ``augmentation`` section.
      sample_rate: hertz.

    Returns:
      [N]: ``augment.draw(key, cfg, ...).num_samples(samples)`` of each utterance.
    """
    # Each random number is a hash of the key and of its own name. So the settings that change no length can be left
    # out, which halves the time.
    lengths = AugmentationConfig(
        **{name: getattr(cfg, name) for name in ("speeds", "speed_prob", "tempo_min", "tempo_max", "tempo_prob")},
        **{name: getattr(cfg, name) for name in ("silence", "silence_prob")},
    )
    one_tempo = lengths.tempo_min == lengths.tempo_max and (lengths.tempo_prob == 1 or not lengths.varies_tempo)
    if one_tempo and not lengths.silence:
        if not lengths.speeds or (len(lengths.speeds) == 1 and lengths.speed_prob == 1):
            return perturbed_lengths(num_samples, augment.draw(0, lengths, sample_rate=sample_rate))
        speeds = np.fromiter((augment.draw_speed(key, lengths) for key in keys), np.float64, len(num_samples))
        return _stretched(_stretched(num_samples, speeds), lengths.tempo_min)
    drawn = (augment.draw(key, lengths, sample_rate=sample_rate) for key in keys)
    return np.fromiter(
        (how.num_samples(samples) for how, samples in zip(drawn, num_samples.tolist(), strict=True)), np.int64
    )


def _stretched(num_samples: NDArray[np.int64], factor: NDArray[np.float64] | float) -> NDArray[np.int64]:
    """``wsola.stretched`` of each length."""
    stretched = np.maximum(np.minimum(num_samples, 1), np.floor(num_samples / factor + 0.5)).astype(np.int64)
    return np.where(np.equal(factor, 1), num_samples, stretched)
