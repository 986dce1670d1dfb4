"""Small models whose weights and statistics are drawn, for the tests of exported models."""

import torch

from ds2f import tree
from ds2f.config import Config, ModelConfig, SpectConfig
from ds2f.model import deepspeech2
from ds2f.types import Batch, Params, Stats


def drawn(*, spect: SpectConfig = SpectConfig(), **model: object) -> tuple[Config, Params, Stats]:  # noqa: B008
    """A configuration, and weights as of training: norms that are not the identity."""
    sizes = {"hidden_size": 16, "hidden_layers": 2, "num_bins": spect.num_bins, "frequency_stride": 8} | model
    cfg = Config(model=ModelConfig(**sizes), spect=spect)
    params, stats = deepspeech2.init(cfg.model, key=5)
    generator = torch.Generator().manual_seed(6)
    params = tree.map(lambda x: x + 0.1 * torch.randn(x.shape, generator=generator), params)
    stats = tree.map(lambda x: x + 0.3 * torch.rand(x.shape, generator=generator), stats)
    return cfg, params, stats


def batch(cfg: Config, lengths: list[int], *, seed: int = 0) -> Batch:
    """Features whose padding holds values."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(lengths), cfg.model.num_bins, max(lengths), generator=generator)
    none = torch.zeros(len(lengths), dtype=torch.int64)
    return Batch(values, torch.tensor(lengths), none[:, None], none, none, torch.ones(()))


def log_probs(cfg: Config, params: Params, stats: Stats, given: Batch) -> list[torch.Tensor]:
    """The log-probabilities of each utterance by ``deepspeech2.apply``, without its padding."""
    logits, _ = deepspeech2.apply(params, stats, given.features, given.lengths, cfg=cfg.model, train=False)
    values = logits.values.log_softmax(dim=2)
    return [row[:length] for row, length in zip(values, logits.lengths.tolist(), strict=True)]
