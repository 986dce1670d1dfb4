"""Tests of launch.augment: copies are what a training hears, lines say what was drawn, pictures show it."""

import io

import attrs
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from ds2f import features
from ds2f.config import AugmentationConfig, Config, DataConfig, SpectConfig, TrainingConfig
from ds2f.data import dataset
from ds2f.data.loading import Loader
from ds2f.data.manifests import Utterance
from launch import spectrogram_picture

RATE = 16000


@pytest.fixture
def folder(tmp_path):
    """A recording, one of noise, and one of a room."""
    draw = np.random.default_rng(0)
    for name in ("noise", "rooms"):
        (tmp_path / name).mkdir()
    soundfile.write(tmp_path / "a.wav", draw.normal(0, 0.1, 20000), RATE)
    soundfile.write(tmp_path / "noise" / "hum\x1b[31m.wav", draw.normal(0, 0.1, 3000), RATE)
    soundfile.write(tmp_path / "rooms" / "hall.wav", np.array([0.9, 0, 0.3, 0.2]), RATE)
    return tmp_path


def test_a_copy_is_what_the_loader_makes_of_the_first_utterance_in_that_epoch(launch, folder):
    ended = launch(
        *("augment", "a.wav", "--output=out", "--copies=3", "--augmentation.speeds=0.9,1.1", "--training.seed=5"),
        *("--augmentation.reverb_prob=0.5", "--augmentation.noise_dir=noise", "--augmentation.noise_prob=1"),
        *("--augmentation.codec_prob=1", "--augmentation.codecs=mp3,alaw"),
        folder=folder,
    )
    assert ended.status == 0, ended.err
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        f"a-{number}.{suffix}" for number in range(4) for suffix in ("png", "wav")
    ]
    cfg = Config(
        data_path=str(folder),
        data=DataConfig(cache_features=False),
        training=TrainingConfig(seed=5),
        augmentation=AugmentationConfig(
            **{"speeds": (0.9, 1.1), "reverb_prob": 0.5, "noise_dir": str(folder / "noise"), "noise_prob": 1.0},
            **{"codec_prob": 1.0, "codecs": ("mp3", "alaw")},
        ),
    )
    built = dataset.build([Utterance(0, folder / "a.wav", "A", 20000 / RATE)], cfg, train=True)
    for epoch in range(3):
        (batch,) = Loader(built, batch_size=1).epoch(epoch)
        samples, rate = soundfile.read(folder / "out" / f"a-{epoch + 1}.wav", dtype="float32")
        assert rate == RATE
        found = features.log_spectrogram(torch.from_numpy(samples), cfg.spect)
        assert torch.equal(found, batch.features[0, :, : int(batch.lengths[0])])
    original, _ = soundfile.read(folder / "a.wav", dtype="float32")
    assert np.array_equal(soundfile.read(folder / "out" / "a-0.wav", dtype="float32")[0], original)
    lines = ended.out.splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("1.25 s  as it is")
    for line, how in zip(lines[1:], (built.perturbation(0, epoch) for epoch in range(3)), strict=True):
        assert f"speed {how.speed:g}" in line
        assert f"noise hum\\x1b[31m.wav at {how.snr:.1f} dB, codec {how.codec}" in line
        assert ("RT60" in line) == how.reverb


def test_a_room_of_a_folder_and_a_flagfile_of_a_training_are_taken(launch, folder):
    (folder / "own.flags").write_text("--training.epochs=3\n--augmentation.reverb_prob=1\n--model.hidden_size=8\n")
    ended = launch(
        *("augment", "a.wav", "--output=out", "--copies=1", "--flagfile=own.flags", "--augmentation.reverb_dir=rooms"),
        folder=folder,
    )
    assert ended.status == 0, ended.err
    assert "impulse response hall.wav" in ended.out
    found = soundfile.read(folder / "out" / "a-1.wav")[0]
    expected = np.convolve(soundfile.read(folder / "a.wav")[0], [0.9, 0, 0.3, 0.2])[:20000]
    assert np.corrcoef(found, expected)[0, 1] > 0.9999


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["a.wav", "--output=out"], "no augmentation is on"),
        (["a.wav", "--output=out", "--augmentation.noise_dir=noise", "--augmentation.noise_prob=0"], "no augmentation"),
        (["a.wav", "--output=out", "--augmentation.gain_max=3", "--augmentation.gain_prob=0"], "no augmentation"),
        (["a.wav", "--augmentation.silence=1"], "--output=DIR"),
        (["--output=out", "--augmentation.silence=1"], "name one recording"),
        (["a.wav", "a.wav", "--output=out", "--augmentation.silence=1"], "name one recording"),
        (["b.wav", "--output=out", "--augmentation.silence=1"], "b.wav"),
        (
            ["a.wav", "--output=out", "--augmentation.silence=1", "--training.epochs=2"],
            "flags without effect: --training.epochs",
        ),
        (
            ["a.wav", "--output=out", "--augmentation.reverb_prob=1", "--augmentation.reverb_dir=rooms"]
            + ["--augmentation.reverb_min_rt60=0.3"],
            "--augmentation.reverb_min_rt60 needs --augmentation.reverb_prob without --augmentation.reverb_dir",
        ),
        (
            ["a.wav", "--output=out", "--augmentation.band_prob=1", "--augmentation.band_max_low=4000"],
            "band_max_low=4000 is not below",
        ),
        (["a.wav", "--output=out", "--augmentation.codec_prob=1", "--augmentation.codecs=amr"], "amr"),
        (["a.wav", "--output=out", "--augmentation.codec_prob=1", "--augmentation.codecs="], "codec_prob without"),
        (["a.wav", "--output=out", "--augmentation.reverb_prob=1", "--augmentation.reverb_dir=none"], "none"),
    ],
)
def test_mistakes_are_told_and_leave_nothing_behind(launch, folder, arguments, problem):
    ended = launch("augment", *arguments, folder=folder)
    assert ended.status == 1
    assert problem in ended.err
    assert "Traceback" not in ended.err
    assert not (folder / "out").exists()


def _picture(values, spect, **options):
    file = spectrogram_picture.png(values, spect, **{"scale": (0.0, 1.0), "title": "", **options})
    return np.asarray(Image.open(io.BytesIO(file)).convert("L"), dtype=float)


@pytest.mark.parametrize("num_mels", [0, 40])
def test_a_picture_is_bright_where_the_sound_is(num_mels):
    """A tone of 2 kHz in the second half: to the right, at its height on the axis."""
    spect = SpectConfig(num_mels=num_mels)
    samples = torch.sin(2 * torch.pi * 2000 * torch.arange(2 * RATE) / RATE) * (torch.arange(2 * RATE) > RATE)
    values = features.log_spectrogram(samples, spect)
    picture = _picture(values, spect, scale=spectrogram_picture.scale_of(values))
    inside = picture[30:-40, 60:-30]  # without axes
    bright = inside > 0.7 * inside.max()
    rows, columns = np.nonzero(bright)
    assert columns.min() > 0.45 * inside.shape[1]
    assert columns.max() > 0.9 * inside.shape[1]
    centre = int(features.frequencies(spect).sub(2000).abs().argmin()) / values.shape[0]
    assert 1 - rows.mean() / inside.shape[0] == pytest.approx(centre, abs=0.06)


@pytest.mark.parametrize("frames", [1, 3, 640, 30000])
def test_a_picture_of_any_length_has_a_size_that_programs_show(frames):
    spect = SpectConfig()
    picture = _picture(torch.rand(161, frames), spect, title="x" * 3000 + "\x1b[31m 测")
    assert 640 < picture.shape[1] <= 4100
    assert 320 < picture.shape[0] < 1500
    flat = torch.zeros(161, frames)
    assert _picture(flat, spect, scale=spectrogram_picture.scale_of(flat)).shape[1] == picture.shape[1]


def test_pictures_of_one_scale_compare():
    spect = attrs.evolve(SpectConfig(), sample_rate=8000)
    quiet, loud = torch.full((81, 50), 0.2), torch.full((81, 50), 0.9)
    assert _picture(quiet, spect).mean() < _picture(loud, spect).mean()
