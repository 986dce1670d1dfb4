from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ds2f import features
from ds2f.config import Config, DataConfig, SpectConfig, resolve
from ds2f.data import audio, dataset, feature_statistics
from ds2f.data.manifests import Utterance
from ds2f.errors import InputError

CFG = resolve(Config(spect=SpectConfig(sample_rate=2000, normalize="global"), data=DataConfig(min_duration=0.0)))


def made(folder: Path, *loudness: float) -> dataset.Dataset:
    """A dataset of noises of different loudness and length."""
    utterances = []
    for row, loud in enumerate(loudness):
        samples = np.random.default_rng(row).normal(0, loud, 1000 + 700 * row).clip(-1, 1)
        soundfile.write(folder / f"{row}.wav", samples, 2000)
        utterances.append(Utterance(row, folder / f"{row}.wav", "A", len(samples) / 2000))
    return dataset.build(utterances, CFG, train=True)


def test_it_measures_all_frames_of_all_recordings(tmp_path: Path) -> None:
    made_of = made(tmp_path, 0.01, 0.1, 0.3, 0.05)
    frames = torch.cat(
        [
            features.unnormalized(torch.from_numpy(audio.load(each.audio, sample_rate=2000).samples), CFG.spect)
            for each in made_of.examples
        ],
        dim=1,
    ).double()
    mean, deviation = feature_statistics.measure(made_of)
    np.testing.assert_allclose(mean, frames.mean(dim=1), rtol=1e-6)
    assert deviation == pytest.approx(
        float((frames - frames.mean(dim=1, keepdim=True)).square().mean().sqrt()), rel=1e-5
    )

    spectrogram = features.log_spectrogram(
        torch.from_numpy(audio.load(made_of.examples[1].audio, sample_rate=2000).samples),
        made_of.with_statistics(mean, deviation).spect,
    )
    assert spectrogram.abs().mean() < 2
    assert abs(float(spectrogram.mean())) > 0.05  # it is not normalised by itself


def test_of_many_recordings_some_are_measured(tmp_path: Path) -> None:
    made_of = made(tmp_path, *[0.1] * 12)
    some, all_of_them = feature_statistics.measure(made_of, most=4), feature_statistics.measure(made_of)
    assert some != all_of_them
    np.testing.assert_allclose(some[0], all_of_them[0], rtol=0.1)


def test_recordings_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    made_of = made(tmp_path, 0.1, 0.2)
    alone = feature_statistics.measure(made(tmp_path, 0.1))
    (tmp_path / "1.wav").write_bytes(b"broken")
    assert feature_statistics.measure(made_of) == alone
    (tmp_path / "0.wav").write_bytes(b"broken")
    with pytest.raises(InputError, match="no training recording"):
        feature_statistics.measure(made_of)


def test_global_normalisation_needs_statistics() -> None:
    with pytest.raises(InputError, match=r"launch\.train"):
        features.log_spectrogram(torch.ones(4000), CFG.spect)
