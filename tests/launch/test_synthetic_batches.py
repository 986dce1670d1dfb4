"""Tests of synthetic batches: their lengths are distributed as in AN4."""

from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from ds2f import ctc
from ds2f.config import Config, DataConfig
from ds2f.convolutions import output_lengths
from ds2f.data import manifests
from ds2f.features import num_frames
from launch import synthetic_batches

CFG = Config(data=DataConfig(batch_size=32))
MANIFEST = Path(__file__).parents[2] / "data" / "an4_train_manifest.csv"


def test_an_epoch_has_the_lengths_of_an4() -> None:
    lengths = synthetic_batches.epoch_like_an4()
    assert len(lengths) == 846
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (pytest.approx(71, abs=2), pytest.approx(631, abs=5))
    # 2,271 seconds of training recordings, at 100 frames a second.
    assert sum(lengths) / 100 == pytest.approx(2271 + 8, rel=0.01)


def test_the_quantiles_are_those_of_the_training_recordings() -> None:
    if not MANIFEST.exists():
        pytest.skip("needs AN4 in data/: python -m launch.prepare --dataset=an4")
    frames = [num_frames(round(each.duration * 16000), CFG.spect) for each in manifests.read(MANIFEST)]
    assert len(frames) == synthetic_batches.UTTERANCES
    assert tuple(np.quantile(frames, np.linspace(0, 1, 21)).round()) == synthetic_batches.QUANTILES


def test_batches_are_spread_from_short_to_long_and_little_padded() -> None:
    batches = synthetic_batches.epoch_batches(CFG, 3)
    longest = [int(batch.lengths.max()) for batch in batches]
    assert longest == sorted(longest)
    assert longest[0] < 200 < longest[1] < 330 < longest[2]
    assert {len(batch.ids) for batch in batches} == {32}
    assert 0 < synthetic_batches.padding_share(batches) < 0.1
    frames = sum(int(batch.lengths.sum()) for batch in batches)
    computed = sum(32 * batch.features.shape[2] for batch in batches)
    assert synthetic_batches.padding_share(batches) == pytest.approx(1 - frames / computed)


def test_a_batch_may_be_larger_than_the_epoch() -> None:
    cfg = attrs.evolve(CFG, data=DataConfig(batch_size=1000))
    (batch,) = synthetic_batches.epoch_batches(cfg, 1)
    assert len(batch.ids) == 1000


def test_a_batch_can_be_trained_on_and_is_reproducible() -> None:
    batch, again, other = (synthetic_batches.make_batch(CFG, [40, 71, 300], key=key) for key in (0, 0, 1))
    assert batch.lengths.tolist() == [300, 71, 40]
    assert batch.features.shape == (3, 161, 304), "padded to a multiple of 8, as by the loader"
    assert not batch.features[2, :, 40:].any()
    assert torch.equal(batch.features, again.features)
    assert not torch.equal(batch.features, other.features)
    assert (batch.labels != CFG.model.blank).all()
    assert (ctc.min_frames(batch.labels, batch.label_lengths) <= output_lengths(batch.lengths)).all()
    assert float(batch.weight) == pytest.approx(1 / 3)


def test_batches_have_the_given_lengths_or_draw_those_of_an4() -> None:
    assert synthetic_batches.make_batch(CFG, [90] * 5).lengths.tolist() == [90] * 5
    drawn = synthetic_batches.draw_batch(CFG, batch_size=500).lengths.float()
    assert float(drawn.mean()) == pytest.approx(269, rel=0.06)
