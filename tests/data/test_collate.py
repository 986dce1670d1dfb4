"""Tests of what a batch becomes when recordings cannot be read: who is left out, what the others weigh, who is told."""

import numpy as np
import pytest
import soundfile
import torch

from ds2f import ctc, optim, tree
from ds2f.config import ApexConfig, AugmentationConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainingConfig
from ds2f.convolutions import output_lengths
from ds2f.data import dataset
from ds2f.data.loading import Loader
from ds2f.data.manifests import Utterance
from ds2f.errors import InputError
from ds2f.steps import init_state, objective, train_step

RATE = 16000


@pytest.fixture
def corpus(tmp_path):
    """Twelve recordings of 0.3 to 0.85 seconds."""
    draw = np.random.default_rng(0)
    utterances = []
    for row in range(12):
        path = tmp_path / f"utterance-{row}.wav"
        samples = int(RATE * (0.3 + 0.05 * ((5 * row) % 12)))
        soundfile.write(path, draw.normal(0, 0.1, samples), RATE)
        utterances.append(Utterance(row, path, "ABC"[: 1 + row % 3], samples / RATE))
    return utterances


def _config(tmp_path, *, augmentation=None, **data):
    return Config(
        data_path=str(tmp_path),
        data=DataConfig(**{"cache_features": False, **data}),
        augmentation=augmentation or AugmentationConfig(),
        model=ModelConfig(hidden_size=4, hidden_layers=1),
        optim=OptimConfig(schedule="constant", learning_rate=0.1, name="sgd"),
        apex=ApexConfig(opt_level="O0"),
        training=TrainingConfig(engine="autograd"),
    )


def _epoch(built, epoch=0, **options):
    loader = Loader(built, **{"batch_size": 6, **options})
    try:
        return list(loader.epoch(epoch)), loader
    finally:
        loader.close()


def _truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def _forbid(path):
    path.unlink()
    path.symlink_to(path)  # what nobody may read, root included


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), _truncate, _forbid, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_becomes_unreadable_is_left_out_counted_and_told_once(corpus, tmp_path, caplog, damage, num_workers):
    built = dataset.build(corpus, _config(tmp_path), train=True)
    loader = Loader(built, batch_size=4, num_workers=num_workers)
    assert len(torch.cat([batch.ids for batch in loader.epoch(0)])) == 12
    damage(corpus[7].audio)
    for epoch in (2, 3):  # the beginning of epoch 1 is loaded ahead
        ids = torch.cat([batch.ids for batch in loader.epoch(epoch)]).tolist()
        assert sorted(ids) == [row for row in range(12) if row != 7]
    loader.close()
    assert list(loader.unreadable) == [corpus[7].audio]
    assert str(corpus[7].audio) in loader.unreadable[corpus[7].audio]
    (record,) = caplog.records
    assert "left out (1 of at most 10)" in record.getMessage()
    assert "utterance-7.wav" in record.getMessage()


def test_a_recording_that_comes_back_is_used_again(corpus, tmp_path):
    content = corpus[7].audio.read_bytes()
    corpus[7].audio.unlink()
    loader = Loader(dataset.build(corpus, _config(tmp_path), train=True), batch_size=4)
    assert sum(len(batch.ids) for batch in loader.epoch(0)) == 11
    corpus[7].audio.write_bytes(content)
    assert sum(len(batch.ids) for batch in loader.epoch(1)) == 12
    loader.close()
    assert len(loader.unreadable) == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_more_lost_recordings_than_allowed_end_the_run_and_are_all_listed(corpus, tmp_path, num_workers):
    built = dataset.build(corpus, _config(tmp_path, max_unreadable=2), train=True)
    for row in (1, 4):
        corpus[row].audio.unlink()
    assert sum(len(batch.ids) for batch in _epoch(built, num_workers=num_workers)[0]) == 10
    corpus[9].audio.unlink()
    with pytest.raises(InputError, match=r"3 recordings .* data\.max_unreadable=2") as caught:
        _epoch(built, num_workers=num_workers)
    for row in (1, 4, 9):
        assert f"utterance-{row}.wav: No such file" in str(caught.value)


def test_without_allowance_the_first_lost_recording_is_an_error(corpus, tmp_path):
    corpus[3].audio.unlink()
    with pytest.raises(InputError, match=r"utterance-3\.wav"):
        _epoch(dataset.build(corpus, _config(tmp_path, max_unreadable=0), train=True))


@pytest.mark.parametrize(("ranks", "micro_batches"), [(1, 1), (2, 1), (1, 2)])
def test_the_weights_of_a_global_batch_add_up_to_one_whatever_a_rank_could_not_read(
    corpus, tmp_path, ranks, micro_batches
):
    infeasible = {2, 8}
    utterances = [each._replace(transcript="A" * 99) if each.id in infeasible else each for each in corpus]
    built = dataset.build(utterances, _config(tmp_path), train=True)
    for row in (0, 2, 5):
        corpus[row].audio.unlink()
    for epoch in range(3):
        sums = [0.0, 0.0]
        for rank in range(ranks):
            batches, _ = _epoch(built, epoch, rank=rank, ranks=ranks, micro_batches=micro_batches)
            for index, batch in enumerate(batches):
                counted = ctc.feasible(output_lengths(batch.lengths), batch.labels, batch.label_lengths).sum()
                sums[index // micro_batches] += float(counted * batch.weight)
        assert sums == pytest.approx([1.0, 1.0])


def test_a_share_of_which_nothing_is_left_is_an_empty_batch(corpus, tmp_path):
    built = dataset.build(corpus[:2], _config(tmp_path), train=True)
    for utterance in corpus[:2]:
        utterance.audio.unlink()
    ((batch,), _) = _epoch(built)
    assert [tuple(x.shape) for x in batch] == [(0, 161, 8), (0,), (0, 1), (0,), (0,), ()]


def test_a_step_without_a_lost_recording_is_the_step_of_a_corpus_that_never_had_it(corpus, tmp_path):
    cfg = _config(tmp_path)

    def step(utterances):
        built = dataset.build(utterances, cfg, train=True)
        ((batch,), _) = _epoch(built, batch_size=12)
        tx = optim.from_config(cfg.optim, lambda step: torch.tensor(0.1))
        state = init_state(cfg, tx, key=3)
        order = batch.ids.argsort()
        same = batch._replace(**{name: getattr(batch, name)[order] for name in batch._fields if name != "weight"})
        return train_step(state, same, loss=objective(cfg.model), tx=tx, cfg=cfg, key=1)

    without = step([utterance for utterance in corpus if utterance.id != 5])
    corpus[5].audio.unlink()
    lost = step(corpus)
    for left, right in zip(tree.flatten(lost)[0], tree.flatten(without)[0], strict=True):
        assert torch.equal(left, right)


def test_a_lost_noise_recording_is_counted_and_the_utterance_goes_without_it(corpus, tmp_path):
    (tmp_path / "noise").mkdir()
    noise = tmp_path / "noise" / "hum.wav"
    soundfile.write(noise, np.random.default_rng(0).normal(0, 0.1, 3000), RATE)
    noisy = AugmentationConfig(noise_dir=str(tmp_path / "noise"), noise_prob=1.0)
    built = dataset.build(corpus, _config(tmp_path, augmentation=noisy), train=True)
    noise.write_bytes(b"RIFF")
    batches, loader = _epoch(built, num_workers=1)
    assert list(loader.unreadable) == [noise]
    clean, _ = _epoch(dataset.build(corpus, _config(tmp_path), train=True))
    for left, right in zip(batches, clean, strict=True):
        assert torch.equal(left.features, right.features)
