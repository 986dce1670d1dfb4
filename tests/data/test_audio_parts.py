"""Parts of recordings are the same samples as those of the whole recording, cut."""

import numpy as np
import pytest
import soundfile

from ds2f.config import AugmentationConfig, Config, DataConfig
from ds2f.data import audio, audio_parts, collate, dataset, manifests
from ds2f.data.loading import Loader
from ds2f.data.manifests import Utterance
from ds2f.errors import InputError

RATE = 16000
SPANS = [(0.0, 0.5), (0.0004, 0.00003), (0.3333, 0.7), (1.0, 0.25), (1.234567, 0.765), (1.9, 0.1)]  # of two seconds


def noise(path, rate=RATE, channels=1, seconds=2.0, **form):
    samples = np.random.default_rng(0).normal(0, 0.1, (int(seconds * rate), channels))
    soundfile.write(path, samples, rate, **form)
    return path


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize(
    "form",
    [
        {"format": "WAV", "subtype": "PCM_16"},
        {"format": "WAV", "subtype": "ULAW"},
        {"format": "FLAC", "subtype": "PCM_16"},
        {"format": "OGG", "subtype": "VORBIS"},
        {"format": "MP3"},
        {"format": "NIST", "subtype": "PCM_16"},
    ],
    ids=lambda form: f"{form['format']}-{form.get('subtype', '')}",
)
def test_a_part_has_the_samples_of_the_whole(tmp_path, form, rate, channels):
    path = noise(tmp_path / "a.bin", rate, channels, **form)
    whole = audio.load(path, sample_rate=RATE).samples
    for start, seconds in SPANS:
        begin, count = int(start * RATE + 0.5), audio_parts.num_samples(seconds, RATE)
        part = audio_parts.load(path, start, count, sample_rate=RATE).samples
        assert len(part) == count
        exact = rate == RATE
        np.testing.assert_allclose(part, whole[begin : begin + count], atol=0 if exact else 3e-7)


@pytest.mark.parametrize("form", [{"format": "OGG", "subtype": "OPUS"}, {"format": "WAV", "subtype": "GSM610"}])
def test_parts_of_telephone_and_internet_codecs_are_the_whole_cut(tmp_path, form):
    path = noise(tmp_path / "a.bin", 8000, **form)
    whole = audio.load(path).samples
    part = audio_parts.load(path, 0.7, 8000).samples
    np.testing.assert_allclose(part, whole[11200:19200], atol=3e-7)


@pytest.mark.parametrize("suffix", ["ogg", "flac", "mp3"])
def test_a_part_may_reach_from_one_joined_recording_into_the_next(tmp_path, suffix):
    path = noise(tmp_path / f"one.{suffix}", seconds=1.0)
    path.write_bytes(path.read_bytes() * 2)
    whole = audio.load(path).samples
    for start in (0.2, 0.75, 1.2):
        part = audio_parts.load(path, start, RATE // 2).samples
        np.testing.assert_array_equal(part, whole[int(start * RATE) : int(start * RATE) + RATE // 2])


def test_a_part_of_a_long_recording_costs_no_more_than_its_length(tmp_path, monkeypatch):
    path, decoded = noise(tmp_path / "long.flac", 44100, seconds=60.0), []
    read = soundfile.SoundFile.read

    def counted(self, *arguments, **settings):
        block = read(self, *arguments, **settings)
        decoded.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    audio_parts.load(path, 50.0, RATE)
    assert 44100 <= sum(decoded) < 1.3 * 44100


def test_a_recording_that_ends_before_its_part_is_refused(tmp_path):
    path = noise(tmp_path / "a.wav")
    assert len(audio_parts.load(path, 1.0, RATE + 1).samples) == RATE + 1  # a rounded duration
    for start, count in ((1.0, RATE + 100), (5.0, RATE)):
        with pytest.raises(
            InputError, match=r"a\.wav \(from .* are there; copy the recording again or correct the row"
        ):
            audio_parts.load(path, start, count)


def test_a_part_is_as_long_as_the_limit_allows(tmp_path):
    path = noise(tmp_path / "a.wav")
    with pytest.raises(InputError, match="the limit is 1 s"):
        audio_parts.load(path, 0.1, RATE + 1, max_seconds=1.0)
    audio_parts.load(path, 0.1, RATE, max_seconds=1.0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_of_parts_have_the_bits_of_batches_of_cut_recordings(tmp_path, num_workers):
    """The random numbers of an utterance depend on its row, and on nothing of its recording."""
    path = noise(tmp_path / "talk.wav", seconds=6.0, subtype="FLOAT")
    samples, _ = soundfile.read(path, dtype="float32")
    parts, cut = [], []
    for row in range(7):
        start, count = 0.7 * row, 6000 + 700 * row
        part = samples[int(start * RATE + 0.5) :][:count]
        soundfile.write(tmp_path / f"{row}.wav", part, RATE, subtype="FLOAT")
        parts.append(Utterance(row, path, "AB", count / RATE, start))
        cut.append(Utterance(row, tmp_path / f"{row}.wav", "AB", count / RATE))
    augmentation = AugmentationConfig(speeds=(0.9, 1.1), tempo_min=0.9, gain_min=-6, gain_max=6, time_masks=1)
    cfg = Config(data_path=str(tmp_path), data=DataConfig(cache_features=True), augmentation=augmentation)

    def batches(utterances):
        loader = Loader(dataset.build(utterances, cfg, train=True), batch_size=3, num_workers=num_workers)
        try:
            return list(loader.epoch(1))
        finally:
            loader.close()

    for one, other in zip(batches(parts), batches(cut), strict=True):
        assert all((left == right).all() for left, right in zip(one, other, strict=True))


def test_features_of_parts_are_not_looked_up(tmp_path):
    path = noise(tmp_path / "talk.wav")
    cfg = Config(data_path=str(tmp_path), data=DataConfig(cache_features=True))
    built = dataset.build([Utterance(0, path, "A", 0.5, 0.5), Utterance(1, path, "A", 0.5, 1.0)], cfg, train=True)
    first, second = collate.load(built, collate.Shard(0, (0, 1), 0.5)).batch.features
    assert not (first == second).all()
    assert not (tmp_path / "cache").exists()


def test_a_manifest_of_parts_opens_each_recording_once_and_names_the_parts(tmp_path, monkeypatch):
    noise(tmp_path / "talk.flac")
    rows = [
        f'{{"audio_filepath": "talk.flac", "text": "A", "offset": {row / 10}, "duration": 0.1}}' for row in range(9)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    opened, info = [], audio.info
    monkeypatch.setattr(audio, "info", lambda path: opened.append(path) or info(path))
    utterances = manifests.read(tmp_path / "m.jsonl")
    assert opened == [tmp_path / "talk.flac"]
    assert [each.start for each in utterances] == pytest.approx([row / 10 for row in range(9)])
    assert utterances[3].name == f"{tmp_path}/talk.flac#t=0.3,0.4"
    assert utterances[3]._replace(start=35999.123, duration=1.001).name == f"{tmp_path}/talk.flac#t=35999.123,36000.124"
    assert len({each.name for each in utterances}) == 9
