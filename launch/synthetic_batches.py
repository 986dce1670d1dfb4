"""Made-up batches for programs that are timed: noise, in lengths and in batches as training on AN4 has them."""

from collections.abc import Sequence

import numpy as np
import torch

from ds2f import rng
from ds2f.config import Config
from ds2f.data.padding import padded
from ds2f.data.sampling import plan_epoch, slots
from ds2f.types import Batch

UTTERANCES = 846  # of AN4's training set
# Frames at every twentieth of the lengths of AN4's training recordings, as launch.prepare makes them of
# an4_raw.bigendian.tar.gz: numpy.quantile(frames, numpy.linspace(0, 1, 21)). Their mean is 269.
QUANTILES = (
    *(71, 91, 111, 141, 161, 181, 201, 211, 221, 241, 251),
    *(271, 281, 301, 321, 341, 371, 401, 431, 491, 631),
)
_FRAMES_PER_CHARACTER = 14  # AN4 has 14.3


def frames_like_an4(shares: Sequence[float]) -> list[int]:
    """Frames of the utterances that are longer than these shares (0 to 1) of AN4's training set."""
    known = np.linspace(0, 1, len(QUANTILES))
    return np.interp(shares, known, QUANTILES).round().astype(int).tolist()


def epoch_like_an4() -> list[int]:
    """Frames of as many utterances as AN4's training set has, distributed like them, from short to long."""
    return frames_like_an4([(index + 0.5) / UTTERANCES for index in range(UTTERANCES)])


def draw_batch(cfg: Config, *, batch_size: int, frames: int = 0) -> Batch:
    """Makes up a batch of lengths drawn without regard to each other (``frames=0``), or all of ``frames``."""
    random = np.random.default_rng(rng.fold_in(cfg.training.seed, "bench"))
    lengths = [frames] * batch_size if frames else frames_like_an4(random.random(batch_size).tolist())
    return make_batch(cfg, lengths)


def epoch_batches(cfg: Config, count: int) -> list[Batch]:
    """Makes up ``count`` of the batches of an epoch, spread evenly from its shortest to its longest ones.

    The epoch is ``epoch_like_an4``, cut into batches of ``cfg.data.batch_size`` by the sampler that training uses. A
    batch larger than the epoch is drawn from several.
    """
    size = cfg.data.batch_size
    lengths = epoch_like_an4() * -(-size // UTTERANCES)
    places = slots(lengths, batch_size=size)
    planned = plan_epoch(lengths, places, seed=cfg.training.seed, epoch=0, jitter=cfg.data.bucket_jitter)
    whole = [[lengths[index] for index in batch] for batch in planned if len(batch) == size]
    whole.sort(key=max)
    chosen = [whole[int((index + 0.5) / count * len(whole))] for index in range(count)]
    return [make_batch(cfg, batch, key=index) for index, batch in enumerate(chosen)]


def make_batch(cfg: Config, lengths: Sequence[int], *, key: int = 0) -> Batch:
    """Makes up a batch of noise on the CPU, from long to short, with transcripts as dense as AN4's.

    Args:
      cfg: the number of bins, the labels and the seed are read.
      lengths: frames.
      key: another one makes another batch.
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
    """The share of the padded batches' frames that belongs to no utterance."""
    computed = sum(batch.features.shape[0] * batch.features.shape[2] for batch in batches)
    return 1 - sum(int(batch.lengths.sum()) for batch in batches) / computed
