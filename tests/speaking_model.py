"""Models with random weights that name all their labels, as few random weights do."""

from functools import cache

import attrs
import numpy as np
import torch

from ds2f import features
from ds2f.config import Config, ModelConfig, SpectConfig, resolve
from ds2f.model import deepspeech2

RATE = 2000
SPECT = SpectConfig(sample_rate=RATE, normalize="global", mean=tuple(i / 100 for i in range(21)), deviation=0.7)
MODEL = ModelConfig(
    hidden_size=8, hidden_layers=2, bidirectional=False, lookahead_context=7, labels=("_", "A", "B", "C", " ")
)
CFG = resolve(Config(model=MODEL, spect=SPECT))
BOTH_WAYS = resolve(Config(model=attrs.evolve(MODEL, bidirectional=True), spect=SPECT))


def sound(seconds, seed=0):
    """[N] float32: noise, by turns loud and quiet."""
    count = int(seconds * RATE)
    levels = np.resize(np.repeat([0.1, 0.0001, 0.3, 0.03, 0.001, 0.2, 0.0001], RATE // 4), count)
    return (levels * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


@cache
def model(*, bidirectional=False):
    """(parameters, statistics): those of the noise, so that every label is the most probable one in some frames."""
    cfg = BOTH_WAYS if bidirectional else CFG
    params, stats = deepspeech2.init(cfg.model, key=3 if bidirectional else 1)
    if not bidirectional:
        params["output"]["lookahead"]["weight"].abs_()  # outputs that the clip lets through
    params["output"]["weight"] *= 10
    values = features.log_spectrogram(torch.from_numpy(sound(5, seed=1)), CFG.spect)[None]
    lengths = torch.tensor([values.shape[2]])
    for _ in range(30):  # running statistics approach the noise's
        _, stats = deepspeech2.apply(params, stats, values, lengths, cfg=cfg.model, train=True)
    return params, stats
