import itertools
import multiprocessing
import os
import time

import attrs
import numpy as np
import pytest
import soundfile
import torch
from waiting import wait_for

from ds2f import augment, ctc
from ds2f.config import AugmentationConfig, Config, DataConfig, SpectConfig
from ds2f.convolutions import output_lengths
from ds2f.data import codecs, collate, dataset
from ds2f.data.loading import Loader
from ds2f.data.manifests import Utterance
from ds2f.errors import InputError
from ds2f.features import frequencies, log_spectrogram

RATE = 16000
SPEEDS = AugmentationConfig(speeds=(0.9, 1.0, 1.1), frequency_masks=1, time_masks=1)
EVERYTHING = attrs.evolve(
    SPEEDS,
    **{"tempo_min": 0.9, "tempo_max": 1.1, "silence": 0.1, "gain_min": -6, "gain_max": 8, "noise_prob": 0.5},
    **{"reverb_prob": 0.5, "band_prob": 0.5, "band_min_low": 0, "band_max_high": 4000, "codec_prob": 0.7},
    **{"codecs": ("ulaw", "alaw", "gsm", "opus", "vorbis", "mp3"), "warp_min": 0.9, "warp_max": 1.1},
)
RECORDED_ROOMS = attrs.evolve(EVERYTHING, reverb_prob=1.0)


@pytest.fixture
def corpus(tmp_path):
    """Thirteen recordings of 0.3 to 0.9 seconds, and one of noise."""
    draw = np.random.default_rng(0)
    utterances = []
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "hum.wav", draw.normal(0, 0.1, 3000), RATE)
    (tmp_path / "rooms").mkdir()
    for name, peak in (("hall", 40), ("cellar", 0)):
        response = 0.05 * draw.normal(0, 0.1, 2000)
        response[peak] = 0.5
        soundfile.write(tmp_path / "rooms" / f"{name}.wav", response, RATE)
    for row in range(13):
        path = tmp_path / f"utterance-{row}.wav"
        samples = int(RATE * (0.3 + 0.05 * ((5 * row) % 13)))
        soundfile.write(path, draw.normal(0, 0.1, samples), RATE)
        utterances.append(Utterance(row, path, "ABC"[: row % 4] + " X" * (row % 3), samples / RATE))
    return utterances


def _config(tmp_path, augmentation=EVERYTHING, *, cache_features=False, **data):
    if augmentation in (EVERYTHING, RECORDED_ROOMS):
        augmentation = attrs.evolve(augmentation, noise_dir=str(tmp_path / "noise"))
    if augmentation.reverb_prob == 1:
        augmentation = attrs.evolve(augmentation, reverb_dir=str(tmp_path / "rooms"))
    return Config(
        data_path=str(tmp_path), data=DataConfig(cache_features=cache_features, **data), augmentation=augmentation
    )


def _all(built, *, epoch=0, start=0, **options):
    loader = Loader(built, **{"batch_size": 4, **options})
    try:
        return list(loader.epoch(epoch, start=start))
    finally:
        loader.close()


def _assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("num_mels", [0, 20])
@pytest.mark.parametrize("cache_features", [True, False])
def test_frequencies_are_warped_in_training_only_and_each_epoch_anew(corpus, tmp_path, num_mels, cache_features):
    cfg = _config(tmp_path, AugmentationConfig(warp_min=0.8, warp_max=1.2), cache_features=cache_features)
    cfg = attrs.evolve(cfg, spect=SpectConfig(num_mels=num_mels))
    factors = set()
    for train, epoch in ((True, 0), (True, 1), (False, 0)):
        built = dataset.build(corpus, cfg, train=train)
        for batch in _all(built, epoch=epoch):
            for row, id in enumerate(batch.ids.tolist()):
                waveform, _ = soundfile.read(corpus[id].audio, dtype="float32")
                plain = log_spectrogram(torch.from_numpy(waveform), built.spect)
                factor = augment.draw_warp(built.key(id, epoch), cfg.augmentation) if train else 1.0
                expected = augment.warp(plain, factor, frequencies(built.spect))
                torch.testing.assert_close(batch.features[row, :, : plain.shape[1]], expected)
                factors.add((id, factor))
    assert len(factors) == 3 * len(corpus)


def test_a_batch_is_padded_with_zeros_and_says_how_long_everything_is(corpus, tmp_path):
    built = dataset.build(corpus, _config(tmp_path), train=False)
    for batch in _all(built):
        assert batch.features.dtype == batch.weight.dtype == torch.float32
        assert {x.dtype for x in (batch.lengths, batch.labels, batch.label_lengths, batch.ids)} == {torch.int64}
        longest = int(batch.lengths.max())
        assert batch.features.shape == (len(batch.ids), 161, longest + -longest % 8)
        for row, id in enumerate(batch.ids.tolist()):
            waveform, _ = soundfile.read(corpus[id].audio, dtype="float32")
            expected = log_spectrogram(torch.from_numpy(waveform), built.spect)
            length, label_length = batch.lengths[row], batch.label_lengths[row]
            torch.testing.assert_close(batch.features[row, :, :length], expected)
            assert batch.features[row, :, length:].count_nonzero() == 0
            text = "".join(Config().model.labels[label] for label in batch.labels[row, :label_length])
            assert text == corpus[id].transcript.strip()


def test_evaluation_gives_every_utterance_once_from_short_to_long_the_same_every_time(corpus, tmp_path):
    built = dataset.build(corpus, _config(tmp_path), train=False)
    first, second = _all(built, epoch=0), _all(built, epoch=5)
    _assert_same(first, second)
    lengths = torch.cat([batch.lengths for batch in first])
    assert torch.equal(lengths, lengths.sort().values)
    assert sorted(torch.cat([batch.ids for batch in first]).tolist()) == list(range(13))


@pytest.mark.parametrize("train", [True, False])
def test_batches_do_not_depend_on_the_number_of_workers_or_threads(corpus, tmp_path, train):
    for utterance in corpus[:4]:  # long enough for torch to share a sum among threads
        soundfile.write(utterance.audio, np.random.default_rng(utterance.id).normal(0, 0.1, 4 * RATE), RATE)
    built = dataset.build(corpus, _config(tmp_path), train=train)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = _all(built, epoch=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    for num_workers in (1, 2):
        _assert_same(alone, _all(built, epoch=3, num_workers=num_workers))


@pytest.mark.parametrize("train", [False, True])
def test_more_processes_than_processors_are_started_without_a_warning(corpus, tmp_path, monkeypatch, recwarn, train):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    built = dataset.build(corpus, _config(tmp_path), train=train)
    assert _all(built, num_workers=2)
    assert [str(each.message) for each in recwarn if "worker processes" in str(each.message)] == []


def test_spawned_workers_load_what_forked_ones_do(corpus, tmp_path):
    built = dataset.build(corpus, _config(tmp_path), train=True)
    _assert_same(_all(built, num_workers=1), _all(built, num_workers=1, start_method="spawn"))


def test_only_features_come_from_a_worker_in_shared_memory_and_they_are_not_copied_there(corpus, tmp_path, monkeypatch):
    load = collate.load

    def require_shared(*share):
        loaded = load(*share)
        if loaded.place is None:
            raise InputError("features will be copied into shared memory")
        return loaded

    monkeypatch.setattr(collate, "load", require_shared)
    built = dataset.build(corpus, _config(tmp_path), train=True)
    for batch in _all(built, num_workers=1):
        assert all(tensor.zero_().count_nonzero() == 0 for tensor in batch), "none is read-only"


def test_loading_leaves_the_global_random_state_alone(corpus, tmp_path):
    built = dataset.build(corpus, _config(tmp_path), train=True)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    _all(built)
    _all(built, num_workers=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_one_loader_serves_epoch_after_epoch_even_abandoned_ones(corpus, tmp_path, num_workers):
    built = dataset.build(corpus, _config(tmp_path), train=True)
    loader = Loader(built, batch_size=2, num_workers=num_workers)
    abandoned = loader.epoch(0)
    next(abandoned)
    second = list(loader.epoch(1))
    assert list(abandoned) == []
    _assert_same(second, _all(built, epoch=1, batch_size=2))
    _assert_same(list(loader.epoch(2)), _all(built, epoch=2, batch_size=2))
    loader.close()
    with pytest.raises(RuntimeError, match="closed"):
        loader.epoch(3)


def _count_loads(monkeypatch):
    """A counter of the shares that have been loaded, by whatever process."""
    load, loads = collate.load, multiprocessing.Value("i", 0)

    def counted(*share):
        with loads.get_lock():
            loads.value += 1
        return load(*share)

    monkeypatch.setattr(collate, "load", counted)
    return loads


def test_the_next_training_epoch_is_begun_while_nobody_asks_for_it(corpus, tmp_path, monkeypatch):
    built = dataset.build(corpus, _config(tmp_path), train=True)
    expected = _all(built, epoch=4)
    loads = _count_loads(monkeypatch)
    loader = Loader(built, batch_size=4, num_workers=1)
    assert len(list(loader.epoch(3))) == 4
    assert wait_for(lambda: loads.value == 8)
    monkeypatch.setattr("ds2f.data.loading.plan", lambda *_, **__: pytest.fail("planned again"))
    _assert_same(list(itertools.islice(loader.epoch(4), 4)), expected)
    loader.close()


@pytest.mark.parametrize(("epoch", "start"), [(0, 0), (1, 2), (2, 0), (7, 1)])
def test_another_epoch_than_the_one_begun_ahead_is_what_was_asked_for(corpus, tmp_path, epoch, start):
    built = dataset.build(corpus, _config(tmp_path), train=True)
    loader = Loader(built, batch_size=4, num_workers=2)
    list(loader.epoch(0))
    for _ in range(2):
        _assert_same(list(loader.epoch(epoch, start=start)), _all(built, epoch=epoch, start=start))
    loader.close()


def test_evaluation_loads_nothing_ahead(corpus, tmp_path, monkeypatch):
    loads = _count_loads(monkeypatch)
    loader = Loader(dataset.build(corpus, _config(tmp_path), train=False), batch_size=4, num_workers=1)
    for times in (1, 2):
        assert len(list(loader.epoch())) == 4
        time.sleep(0.2)
        assert loads.value == 4 * times
    loader.close()


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_starting_late_gives_the_rest_of_the_epoch(corpus, tmp_path, start):
    built = dataset.build(corpus, _config(tmp_path), train=True)
    _assert_same(_all(built, epoch=2, start=start), _all(built, epoch=2)[start:])


def test_epochs_differ_in_company_and_in_sound(corpus, tmp_path):
    built = dataset.build(corpus, _config(tmp_path), train=True)
    by_epoch = [_all(built, epoch=epoch) for epoch in range(2)]
    companies = [{frozenset(batch.ids.tolist()) for batch in epoch} for epoch in by_epoch]
    assert companies[0] != companies[1]
    totals = [
        {int(id): row.double().sum() for b in epoch for id, row in zip(b.ids, b.features, strict=True)}
        for epoch in by_epoch
    ]
    assert all(totals[0][id] != totals[1][id] for id in range(13))


@pytest.mark.parametrize("augmentation", [EVERYTHING, RECORDED_ROOMS, SPEEDS, AugmentationConfig()])
def test_only_training_augments(corpus, tmp_path, augmentation):
    cfg = _config(tmp_path, augmentation)
    plain = _all(dataset.build(corpus, _config(tmp_path, AugmentationConfig()), train=False), batch_size=13)[0]
    evaluated = _all(dataset.build(corpus, cfg, train=False), batch_size=13)[0]
    assert torch.equal(evaluated.features, plain.features)
    trained = _all(dataset.build(corpus, cfg, train=True), batch_size=13)[0]
    same = torch.equal(trained.features[trained.ids.argsort()][..., :50], plain.features[plain.ids.argsort()][..., :50])
    assert same == (augmentation == AugmentationConfig())


def test_the_frames_planned_are_the_frames_loaded(corpus, tmp_path):
    built = dataset.build(corpus, _config(tmp_path), train=True)
    for epoch in range(3):
        planned = built.num_frames(epoch)
        for batch in _all(built, epoch=epoch):
            assert [planned[id] for id in batch.ids.tolist()] == batch.lengths.tolist()


def test_the_first_epoch_goes_from_short_to_long_when_asked(corpus, tmp_path):
    built = dataset.build(corpus, _config(tmp_path, SPEEDS, sort_first_epoch=True), train=True)
    ordered = []
    for epoch in range(2):
        lengths = torch.cat([batch.lengths for batch in _all(built, epoch=epoch)])
        ordered.append(torch.equal(lengths, lengths.sort().values))
    assert ordered == [True, False]


def test_the_weight_counts_the_feasible_utterances_of_the_global_batch(corpus, tmp_path):
    longer = [utterance._replace(transcript="A" * 13) if utterance.id % 2 else utterance for utterance in corpus]
    built = dataset.build(longer, _config(tmp_path, AugmentationConfig(speeds=(0.8, 1.6))), train=True)
    seen = set()
    for epoch in range(6):
        for batch in _all(built, epoch=epoch):
            feasible = ctc.feasible(output_lengths(batch.lengths), batch.labels, batch.label_lengths)
            expected = 1 / feasible.sum() if feasible.any() else torch.tensor(0.0)
            assert batch.weight == expected
            seen.add(int(feasible.sum()))
    assert len(seen) > 2


def test_a_batch_without_feasible_utterances_weighs_nothing(corpus, tmp_path):
    hopeless = [utterance._replace(transcript="A" * 200) for utterance in corpus]
    built = dataset.build(hopeless, _config(tmp_path), train=True)
    assert {batch.weight.item() for batch in _all(built)} == {0.0}


@pytest.mark.parametrize(("ranks", "micro_batches"), [(2, 1), (3, 2), (1, 4), (8, 1)])
def test_the_shares_of_all_ranks_make_up_the_global_batch(corpus, tmp_path, ranks, micro_batches):
    built = dataset.build(corpus, _config(tmp_path), train=True)
    whole = _all(built)
    steps = [[] for _ in whole]
    for rank in range(ranks):
        share = _all(built, rank=rank, ranks=ranks, micro_batches=micro_batches)
        assert len(share) == len(whole) * micro_batches
        for index, batch in enumerate(share):
            steps[index // micro_batches].append(batch)
    for parts, batch in zip(steps, whole, strict=True):
        assert sorted(torch.cat([part.ids for part in parts]).tolist()) == sorted(batch.ids.tolist())
        assert {part.weight.item() for part in parts} == {batch.weight.item()}
        for part in parts:
            for id, features in zip(part.ids, part.features, strict=True):
                row = batch.ids.tolist().index(id)
                width = min(features.shape[-1], batch.features.shape[-1])
                assert torch.equal(features[:, :width], batch.features[row, :, :width])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_empty_share_has_the_shapes_of_a_batch(corpus, tmp_path, num_workers):
    built = dataset.build(corpus[:1], _config(tmp_path), train=True)
    (batch,) = _all(built, rank=1, ranks=2, num_workers=num_workers)
    assert [tuple(x.shape) for x in batch] == [(0, 161, 8), (0,), (0, 1), (0,), (0,), ()]
    assert batch.weight == 1


LIMITED = {"max_frames": 200, "padded_shapes": 3, "batch_size": 3}


@pytest.mark.parametrize("sort_first_epoch", [False, True])
def test_a_limit_of_frames_holds_in_every_epoch_and_every_epoch_has_as_many_steps(corpus, tmp_path, sort_first_epoch):
    cfg = _config(tmp_path, max_frames=200, batch_size=4, sort_first_epoch=sort_first_epoch)
    built = dataset.build(corpus, cfg, train=True)
    loader = Loader(built, batch_size=8)
    for epoch in range(4):
        batches = list(loader.epoch(epoch))
        assert len(batches) == loader.steps
        assert sorted(torch.cat([batch.ids for batch in batches]).tolist()) == list(range(13))
        # Two cards share the global batch of 8, and each may hold 200 frames.
        assert max(-(-len(batch.ids) // 2) * batch.features.shape[-1] for batch in batches) <= 200
    loader.close()
    assert max(len(batch.ids) for batch in batches) > 2 > 200 // max(built.longest())


@pytest.mark.parametrize("train", [True, False])
def test_padded_lengths_are_few_and_the_same_in_every_epoch(corpus, tmp_path, train):
    built = dataset.build(corpus, _config(tmp_path, padded_shapes=2), train=train)
    seen = {batch.features.shape[-1] for epoch in range(4) for batch in _all(built, epoch=epoch, batch_size=2)}
    assert seen == set(built.shapes)
    assert len(seen) == 2


def test_a_shape_changes_nothing_but_the_padding(corpus, tmp_path):
    plain = _all(dataset.build(corpus, _config(tmp_path), train=True), epoch=1)
    shaped = _all(dataset.build(corpus, _config(tmp_path, padded_shapes=1), train=True), epoch=1)
    for left, right in zip(plain, shaped, strict=True):
        frames = left.features.shape[-1]
        assert torch.equal(left.features, right.features[..., :frames])
        assert right.features[..., frames:].count_nonzero() == 0
        _assert_same([left[1:]], [right[1:]])


def test_limited_batches_do_not_depend_on_workers_and_can_be_begun_late(corpus, tmp_path):
    built = dataset.build(corpus, _config(tmp_path, **LIMITED), train=True)
    alone = _all(built, epoch=2, batch_size=6)
    _assert_same(alone, _all(built, epoch=2, batch_size=6, num_workers=2))
    _assert_same(alone[2:], _all(built, epoch=2, batch_size=6, start=2))


@pytest.mark.parametrize(("ranks", "micro_batches"), [(2, 1), (1, 2), (3, 1)])
def test_the_ranks_share_the_limited_batches_of_one_and_stay_within_the_limit(corpus, tmp_path, ranks, micro_batches):
    built = dataset.build(corpus, _config(tmp_path, **LIMITED), train=True)
    whole = _all(built, epoch=1, batch_size=6)
    steps = [[] for _ in whole]
    for rank in range(ranks):
        share = _all(built, epoch=1, batch_size=6, rank=rank, ranks=ranks, micro_batches=micro_batches)
        for index, batch in enumerate(share):
            assert len(batch.ids) * batch.features.shape[-1] <= 200
            steps[index // micro_batches].extend(batch.ids.tolist())
    assert [sorted(ids) for ids in steps] == [sorted(batch.ids.tolist()) for batch in whole]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_recording_ends_an_evaluation_by_name(corpus, tmp_path, num_workers):
    corpus[7].audio.write_bytes(b"not audio at all")
    built = dataset.build(corpus, _config(tmp_path), train=False)
    with pytest.raises(InputError, match=r"utterance-7\.wav") as caught:
        _all(built, num_workers=num_workers)
    assert "Traceback" not in str(caught.value)


def test_no_worker_outlives_a_loader_whose_epoch_failed_or_was_abandoned(corpus, tmp_path):
    before = set(multiprocessing.active_children())
    built = dataset.build(corpus, _config(tmp_path), train=True)
    loader = Loader(built, batch_size=4, num_workers=2)
    unfinished = loader.epoch(0)
    next(unfinished)
    assert len(set(multiprocessing.active_children()) - before) == 2
    loader.close()
    assert set(multiprocessing.active_children()) == before
    corpus[7].audio.unlink()
    loader = Loader(dataset.build(corpus, _config(tmp_path), train=False), batch_size=4, num_workers=2)
    failing = loader.epoch(0)
    with pytest.raises(InputError):
        list(failing)
    loader.close()
    assert set(multiprocessing.active_children()) == before


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.usefixtures("roomy_disk")
def test_cached_epochs_have_the_bits_of_computed_ones(corpus, tmp_path, num_workers, monkeypatch):
    computed = dataset.build(corpus, _config(tmp_path, SPEEDS), train=True)
    cached = dataset.build(corpus, _config(tmp_path, SPEEDS, cache_features=True), train=True)
    expected = _all(computed, epoch=1)
    _assert_same(expected, _all(cached, epoch=1, num_workers=num_workers))
    monkeypatch.setattr(collate.audio_parts, "load", lambda *_, **__: pytest.fail("read although it is cached"))
    _assert_same(expected, _all(cached, epoch=1, num_workers=num_workers))


def test_what_more_than_speed_changes_is_not_cached(corpus, tmp_path):
    cfg = _config(tmp_path, AugmentationConfig(gain_min=-6, gain_max=6), cache_features=True)
    built = dataset.build(corpus, cfg, train=True)
    expected = _all(
        dataset.build(corpus, attrs.evolve(cfg, data=DataConfig(cache_features=False)), train=True), epoch=1
    )
    _all(built, epoch=0)
    _assert_same(_all(built, epoch=1), expected)
    assert not built.cache.directory.exists()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_is_odd_about_recordings_is_collected_and_logged_once(corpus, tmp_path, num_workers, caplog):
    for utterance in corpus[:3]:
        soundfile.write(utterance.audio, np.random.default_rng(1).normal(0, 0.1, (4000, 2)), RATE)
    loader = Loader(dataset.build(corpus, _config(tmp_path), train=True), batch_size=4, num_workers=num_workers)
    for epoch in range(2):
        list(loader.epoch(epoch))
    loader.close()
    (note,) = loader.notes
    assert "2 channels" in note
    assert loader.notes[note] == {utterance.audio for utterance in corpus[:3]}
    assert len(caplog.records) == 1


def test_a_cache_that_cannot_be_written_is_told_and_the_epoch_goes_on(corpus, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    built = dataset.build(corpus, _config(tmp_path, SPEEDS, cache_features=True), train=True)
    _assert_same(_all(built), _all(dataset.build(corpus, _config(tmp_path, SPEEDS), train=True)))
    assert sum("no longer cached" in record.getMessage() for record in caplog.records) == 1


def test_noise_reaches_the_features(corpus, tmp_path):
    cfg = _config(tmp_path, AugmentationConfig(noise_dir=str(tmp_path / "noise"), noise_prob=1.0))
    built = dataset.build(corpus[:1], cfg, train=True)
    (batch,) = _all(built)
    how, key = built.perturbation(0, 0), built.key(0, 0)
    waveform, noise = (
        torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in (corpus[0].audio, built.added.noises[0])
    )
    expected = log_spectrogram(augment.add_noise(waveform, noise, key, snr=how.snr), built.spect)
    torch.testing.assert_close(batch.features[0, :, : expected.shape[1]], expected)


def test_a_recorded_room_and_a_codec_reach_the_features(corpus, tmp_path):
    cfg = AugmentationConfig(reverb_prob=1.0, codec_prob=1.0, codecs=("mp3",))
    built = dataset.build(corpus[:1], _config(tmp_path, cfg), train=True)
    assert [path.name for path in built.added.responses] == ["cellar.wav", "hall.wav"]
    expected = set()
    waveform = torch.from_numpy(soundfile.read(corpus[0].audio, dtype="float32")[0])
    for path in built.added.responses:
        response = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        heard = codecs.coded(augment.reverberate(waveform, response), "mp3", RATE)
        expected.add(log_spectrogram(heard, built.spect).numpy().tobytes())
    found = set()
    for epoch in range(8):
        (batch,) = _all(built, epoch=epoch)
        found.add(batch.features[0, :, : int(batch.lengths[0])].contiguous().numpy().tobytes())
    assert found == expected, "each room in some epoch"


def test_an_impulse_response_that_cannot_be_read_is_told_and_the_utterance_goes_without_it(corpus, tmp_path):
    built = dataset.build(corpus, _config(tmp_path, AugmentationConfig(reverb_prob=1.0)), train=True)
    for path in built.added.responses:
        path.write_bytes(b"RIFF")
    loader = Loader(built, batch_size=4)
    found = list(loader.epoch(0))
    assert set(loader.unreadable) == set(built.added.responses)
    _assert_same(found, _all(dataset.build(corpus, _config(tmp_path, AugmentationConfig()), train=True)))


def test_only_features_that_speed_alone_has_changed_are_cached(corpus, tmp_path):
    cache = tmp_path / "cache"
    for change in ({"reverb_prob": 0.999}, {"band_prob": 1.0}, {"codec_prob": 1.0}, {"silence": 0.2}):
        cfg = _config(tmp_path, attrs.evolve(SPEEDS, **change), cache_features=True)
        _all(dataset.build(corpus, cfg, train=True))
        assert not [path for path in cache.rglob("*") if path.is_file()], change
    _all(dataset.build(corpus, _config(tmp_path, SPEEDS, cache_features=True), train=True))
    assert [path for path in cache.rglob("*") if path.is_file()]


def test_batches_for_a_device_lie_in_page_locked_memory(corpus, tmp_path, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda *_, **__: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda"))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x, *_: pinned.append(x.clone()) or pinned[-1])
    data = dataset.build(corpus, _config(tmp_path), train=True)
    for pin_memory, expected in ((False, 0), (True, len(collate.Batch._fields))):
        loader = Loader(data, batch_size=4, pin_memory=pin_memory)
        batch = next(loader.epoch(0))
        loader.close()
        assert len(pinned) == expected
    assert {id(x) for x in batch} == {id(x) for x in pinned}, "the copy to the device reads what was pinned"
