"""Made-up batches, for programs that are timed."""

import numpy as np
import torch

from ds2f import rng
from ds2f.config import Config
from ds2f.types import Batch


def draw_batch(cfg: Config, *, batch_size: int, frames: int) -> Batch:
    """Makes up a batch of noise with transcripts as dense as AN4's, on the CPU."""
    key = rng.fold_in(cfg.training.seed, "bench")
    random, generator = np.random.default_rng(key), rng.generator(key)
    drawn = 70 + 570 * random.beta(2, 3.7, batch_size)
    lengths = torch.from_numpy(np.full(batch_size, frames) if frames else drawn.round().astype(np.int64))
    label_lengths = (lengths // 14).clamp(min=1)
    labels = torch.randint(len(cfg.model.labels) - 1, (batch_size, int(label_lengths.max())), generator=generator)
    return Batch(
        features=torch.randn(batch_size, cfg.model.num_bins, int(lengths.max()), generator=generator),
        lengths=lengths,
        labels=labels + (labels >= cfg.model.blank),
        label_lengths=label_lengths,
        ids=torch.arange(batch_size),
        weight=torch.tensor(1 / batch_size),
    )
