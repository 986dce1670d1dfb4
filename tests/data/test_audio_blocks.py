"""Recordings block by block against the same recordings at once."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.data import audio, audio_blocks
from ds2f.data.audio_blocks import Recording
from ds2f.errors import InputError


@pytest.fixture(autouse=True)
def _in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_blocks, "_SHORT", 0.5)
    monkeypatch.setattr(audio_blocks, "_BLOCK_SECONDS", 0.1)


def recording(path: Path, *, rate: int = 16000, channels: int = 1, seconds: float = 1.03) -> Path:
    samples = np.random.default_rng(0).normal(0, 0.1, (int(seconds * rate), channels)).astype(np.float32)
    soundfile.write(path, samples, rate)
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (16000, 3), (22050, 1), (44100, 2), (8000, 1)])
def test_blocks_are_the_recording(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    if suffix == "mp3" and channels > 2:
        pytest.skip("MP3 has at most two channels")
    path = recording(tmp_path / f"a.{suffix}", rate=rate, channels=channels)
    whole, found = audio.load(path), Recording(path)

    blocks = list(found)

    assert len(blocks) > 5
    np.testing.assert_allclose(np.concatenate(blocks), whole.samples, rtol=0, atol=1e-6)
    assert found.notes == whole.notes
    assert found.seconds == pytest.approx(len(whole.samples) / 16000)


def test_channels_that_cancel_do_not(tmp_path: Path) -> None:
    left = np.random.default_rng(0).normal(0, 0.1, 16000)
    soundfile.write(tmp_path / "a.wav", np.stack((left, -left), axis=1), 16000, subtype="FLOAT")
    found = Recording(tmp_path / "a.wav")
    np.testing.assert_allclose(np.abs(np.concatenate(list(found))), np.abs(left), atol=1e-6)
    assert "cancel" in found.notes[0]


def test_open_files_and_arrays_are_read(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.wav")
    whole = audio.load(path).samples
    for source in (io.BytesIO(path.read_bytes()), whole, (whole * 32768).astype(np.int16)):
        found = Recording(source, rate=16000 if isinstance(source, np.ndarray) else None)
        np.testing.assert_allclose(np.concatenate(list(found)), whole, rtol=0, atol=1e-4)
    with pytest.raises(InputError, match="rate"):
        Recording(whole)


def test_faults_are_told_when_they_are_reached(tmp_path: Path) -> None:
    samples = np.zeros(16000, np.float32)
    samples[12000] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    blocks = iter(Recording(tmp_path / "a.wav"))
    next(blocks)
    with pytest.raises(InputError, match="NaN"):
        list(blocks)


def test_a_long_recording_is_refused_by_the_limit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="limit"):
        list(Recording(recording(tmp_path / "a.wav", seconds=2), max_seconds=1.5))


@pytest.mark.parametrize(("rate", "channels"), [(1_000_000, 1000), (8000, 1000), (655_350, 8)])
def test_a_block_is_bounded_whatever_rate_and_channels_the_header_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, channels: int
) -> None:
    monkeypatch.setattr(audio_blocks, "_BLOCK_SECONDS", 10.0)
    soundfile.write(tmp_path / "a.wav", np.zeros((5000, channels), np.int16), rate, subtype="PCM_U8")
    read: list[int] = []
    real = soundfile.SoundFile.read

    def watched(self: soundfile.SoundFile, frames: int, **options: object) -> object:
        read.append(frames * self.channels)
        return real(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", watched)
    monkeypatch.setattr(Recording, "_whole", lambda self: None)
    assert sum(map(len, Recording(tmp_path / "a.wav", sample_rate=rate))) == 5000
    assert max(read) <= 2 * audio_blocks._BLOCK_VALUES
