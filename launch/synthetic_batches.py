"""Synthetic batches for timed programs: noise, with the lengths and the batches of a training on AN4."""

from collections.abc import Sequence

import numpy as np
import torch

from ds2f import rng
from ds2f.config import Config
from ds2f.data.padding import padded
from ds2f.data.sampling import plan_epoch, slots
from ds2f.types import Batch

UTTERANCES = 846  # in the training set of AN4
# Quantiles of the number of frames in the training set of AN4: numpy.quantile(frames, numpy.linspace(0, 1, 21)).
# The recordings are those of launch.prepare from an4_raw.bigendian.tar.gz. The mean is 269 frames.
QUANTILES = (
    *(71, 91, 111, 141, 161, 181, 201, 211, 221, 241, 251),
    *(271, 281, 301, 321, 341, 371, 401, 431, 491, 631),
)
_FRAMES_PER_CHARACTER = 14  # 14.3 in AN4


def frames_like_an4(quantiles: Sequence[float]) -> list[int]:
    """The number of frames at each quantile (0 to 1) of the training set of AN4, interpolated."""
    known = np.linspace(0, 1, len(QUANTILES))
    return np.interp(quantiles, known, QUANTILES).round().astype(int).tolist()


def epoch_like_an4() -> list[int]:
    """The number of frames of 846 utterances, distributed as in the training set of AN4, from short to long."""
    return frames_like_an4([(index + 0.5) / UTTERANCES for index in range(UTTERANCES)])


def draw_batch(cfg: Config, *, batch_size: int) -> Batch:
    """Makes a batch with lengths drawn as in AN4, without bucketing."""
    random = np.random.default_rng(rng.fold_in(cfg.training.seed, "bench"))
    return make_batch(cfg, frames_like_an4(random.random(batch_size).tolist()))


def epoch_batches(cfg: Config, count: int) -> list[Batch]:
    """Makes ``count`` batches of an epoch, evenly spread from its shortest to its longest batch.

    The epoch is ``epoch_like_an4``. The sampler of the training cuts it into batches of ``cfg.data.batch_size``. If the
    batch is larger than the epoch, the epoch is repeated.
    """
    size = cfg.data.batch_size
    lengths = epoch_like_an4() * -(-size // UTTERANCES)
    planned = plan_epoch(
        lengths, slots(lengths, batch_size=size), seed=cfg.training.seed, epoch=0, jitter=cfg.data.bucket_jitter
    )
    full = [[lengths[index] for index in batch] for batch in planned if len(batch) == size]
    full.sort(key=max)
    chosen = [full[int((index + 0.5) / count * len(full))] for index in range(count)]
    return [make_batch(cfg, batch, key=index) for index, batch in enumerate(chosen)]


def make_batch(cfg: Config, lengths: Sequence[int], *, key: int = 0) -> Batch:
    """Makes a batch of noise on the CPU, from long to short, with as many characters per second as AN4.

    Args:
      cfg: gives the number of bins, the labels and the seed.
      lengths: frames of each utterance.
      key: seeds the noise, together with the seed of ``cfg``.
    """
    generator = rng.generator(rng.fold_in(cfg.training.seed, "noise", key))
    ordered = torch.tensor(sorted(lengths, reverse=True), dtype=torch.int64)
    label_lengths = (ordered // _FRAMES_PER_CHARACTER).clamp(min=1)
    labels = torch.randint(len(cfg.model.labels) - 1, (len(ordered), int(label_lengths.max())), generator=generator)
    size = padded(int(ordered.max()))
    features = torch.randn(len(ordered), cfg.model.num_bins, size, generator=generator)
    return Batch(
        features=features.masked_fill_(torch.arange(size) >= ordered[:, None, None], 0.0),
        lengths=ordered,
        labels=labels + (labels >= cfg.model.blank),
        label_lengths=label_lengths,
        ids=torch.arange(len(ordered)),
        weight=torch.tensor(1 / len(ordered)),
    )


def padding_share(batches: Sequence[Batch]) -> float:
    """The share of padding (0 to 1) among the frames of the batches."""
    computed = sum(batch.features.shape[0] * batch.features.shape[2] for batch in batches)
    return 1 - sum(int(batch.lengths.sum()) for batch in batches) / computed
