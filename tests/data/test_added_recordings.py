import numpy as np
import pytest
import soundfile
import torch

from ds2f import augment
from ds2f.config import AugmentationConfig
from ds2f.data import added_recordings

RATE = 1000
NOISY = augment.Perturbation(snr=10.0)


def _drawn(folders, how, key=0):
    return added_recordings.drawn(folders, how, key, sample_rate=RATE, max_seconds=1800.0)


@pytest.fixture
def noises(tmp_path):
    """Writes a noise whose samples are their own places, and gives the folder's recordings."""

    def write(seconds, suffix="wav"):
        ramp = np.arange(round(seconds * RATE), dtype=np.float32) / 2**20
        soundfile.write(tmp_path / f"ramp.{suffix}", ramp, RATE, subtype="FLOAT" if suffix == "wav" else "PCM_24")
        return added_recordings.found(AugmentationConfig(noise_dir=str(tmp_path)))

    return write


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_of_a_long_noise_one_of_its_parts_is_read(noises, suffix):
    folders, begins = noises(95, suffix), set()
    for key in range(60):
        added = _drawn(folders, NOISY, key)
        begins.add(round(float(added.noise[0]) * 2**20))
        expected = (torch.arange(30 * RATE) + round(float(added.noise[0]) * 2**20)) / 2**20
        torch.testing.assert_close(added.noise, expected, atol=2**-20, rtol=0)
        assert torch.equal(added.noise, _drawn(folders, NOISY, key).noise)
    assert begins == {0, 30_000, 60_000, 64_900}


@pytest.mark.parametrize("seconds", [0.001, 0.3, 29.9, 30.0])
def test_a_short_noise_is_read_whole(noises, seconds):
    added = _drawn(noises(seconds), NOISY)
    assert torch.equal(added.noise, torch.arange(round(seconds * RATE)) / 2**20)


def test_only_what_is_drawn_is_read(noises):
    folders = noises(1)
    nothing = _drawn(folders, augment.Perturbation(reverb=True, room=augment.Room(0.3, 0.0)))
    assert (nothing.noise, nothing.response, nothing.files, nothing.unreadable) == (None, None, {}, [])


def test_a_recording_that_is_no_impulse_response_is_left_out_and_told(tmp_path):
    soundfile.write(tmp_path / "music.wav", np.ones(11 * RATE), RATE)
    folders = added_recordings.found(AugmentationConfig(reverb_prob=1.0, reverb_dir=str(tmp_path)))
    added = _drawn(folders, augment.Perturbation(reverb=True, gain=3.0))
    assert added.how == augment.Perturbation(gain=3.0)
    ((path, reason),) = added.unreadable
    assert path == tmp_path / "music.wav"
    assert "11 s are too long for an impulse response" in reason
    assert "augmentation.reverb_dir" in reason


def test_a_folder_of_impulse_responses_is_not_opened_without_reverberation(tmp_path):
    assert added_recordings.found(AugmentationConfig(reverb_dir=str(tmp_path / "none"))) == added_recordings.Folders()
