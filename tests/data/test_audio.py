"""Tests of decoding, conversion and the messages for files that cannot be used."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from ds2f.data import audio
from ds2f.errors import InputError


@pytest.fixture
def pcm() -> np.ndarray:
    return np.random.default_rng(0).integers(-20000, 20000, 4000, dtype=np.int16)


def tone(rate: int, *, hertz: float = 440.0, seconds: float = 0.48) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def test_16_bit_pcm_is_divided_by_32768(tmp_path: Path, pcm: np.ndarray):
    header = b"RIFF" + struct.pack("<I", 36 + 2 * len(pcm)) + b"WAVEfmt "
    header += struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16) + b"data" + struct.pack("<I", 2 * len(pcm))
    (tmp_path / "a.wav").write_bytes(header + pcm.astype("<i2").tobytes())
    samples, notes = audio.load(tmp_path / "a.wav")
    assert samples.dtype == np.float32
    assert notes == ()
    np.testing.assert_array_equal(samples, pcm / np.float32(32768))


@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "PCM_24", 0),
        ("WAV", "PCM_32", 0),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("FLAC", "PCM_16", 0),
        ("NIST", "PCM_16", 0),
    ],
)
def test_lossless_containers_give_the_written_samples(
    tmp_path: Path, pcm: np.ndarray, container: str, subtype: str, tolerance: float
):
    path = tmp_path / f"a.{container.lower()}"
    written = pcm / 32768 if subtype in ("FLOAT", "DOUBLE") else pcm
    soundfile.write(path, written, 16000, format=container, subtype=subtype)
    np.testing.assert_allclose(audio.load(path).samples, pcm / 32768, atol=tolerance, rtol=0)


@pytest.mark.parametrize("container", ["OGG", "MP3"])
def test_lossy_containers_give_about_the_written_tone(tmp_path: Path, container: str):
    path = tmp_path / f"a.{container.lower()}"
    soundfile.write(path, tone(16000), 16000, format=container)
    samples = audio.load(path).samples
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) * 16000 / len(samples) == pytest.approx(440, abs=4)
    assert np.std(samples) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_channels_are_averaged_and_noted(tmp_path: Path):
    left, right = np.tile([0.5, -0.5], 400), np.tile([-0.25, 0.25], 400)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    samples, notes = audio.load(tmp_path / "a.wav")
    np.testing.assert_array_equal(samples, np.tile([0.125, -0.125], 400).astype(np.float32))
    assert notes == ("mixed 2 channels down to one",)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_other_rates_are_resampled_to_the_same_tone(tmp_path: Path, rate: int):
    soundfile.write(tmp_path / "a.wav", tone(rate), rate, subtype="FLOAT")
    samples, notes = audio.load(tmp_path / "a.wav")
    assert notes == (f"resampled from {rate} Hz to 16000 Hz",)
    middle = slice(1000, -1000)  # the filter rings at the ends
    np.testing.assert_allclose(samples[middle], tone(16000)[middle], atol=1e-3)


@given(st.integers(1, 30000), st.sampled_from([8000, 11025, 22050, 44100, 48000]))
def test_the_length_is_known_before_resampling(count: int, rate: int):
    resampled = audio.resample(np.zeros(count, np.float32), rate, 16000)
    assert audio.resampled_length(count, rate, 16000) == len(resampled)


def test_info_agrees_with_load(tmp_path: Path):
    soundfile.write(tmp_path / "a.flac", tone(44100), 44100)
    found = audio.info(tmp_path / "a.flac")
    assert found.samples == len(audio.load(tmp_path / "a.flac").samples) == 7680
    assert found.duration == 0.48


def test_an_open_file_reads_like_its_path(tmp_path: Path, pcm: np.ndarray):
    soundfile.write(tmp_path / "a.wav", pcm, 16000)
    upload = io.BytesIO((tmp_path / "a.wav").read_bytes())
    np.testing.assert_array_equal(audio.load(upload).samples, audio.load(tmp_path / "a.wav").samples)


def test_silence_is_read_and_noted(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    samples, notes = audio.load(tmp_path / "a.wav")
    assert len(samples) == 100
    assert notes == ("silent: every sample is zero",)


@pytest.mark.parametrize("container", ["WAV", "NIST", "FLAC"])
def test_a_recording_that_was_cut_short_is_refused(tmp_path: Path, pcm: np.ndarray, container: str):
    path = tmp_path / "a.audio"
    soundfile.write(path, pcm, 16000, format=container)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a\.audio: .*(cut short|broken)"):
        audio.load(path)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_that_was_written_to_a_pipe_is_read_to_its_end(tmp_path: Path, pcm: np.ndarray, size: int):
    soundfile.write(tmp_path / "a.wav", pcm, 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = struct.pack("<I", size)
    content[4:8] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "a.wav").write_bytes(content)
    assert audio.info(tmp_path / "a.wav").samples == len(pcm)
    np.testing.assert_array_equal(audio.load(tmp_path / "a.wav").samples, pcm / np.float32(32768))


def test_a_chunk_before_the_samples_is_skipped(tmp_path: Path, pcm: np.ndarray):
    soundfile.write(tmp_path / "a.wav", pcm, 16000)
    content = (tmp_path / "a.wav").read_bytes()
    odd = b"note" + struct.pack("<I", 5) + b"words\0"
    longer = b"RIFF" + struct.pack("<I", len(content) - 8 + len(odd)) + content[8:36] + odd + content[36:]
    (tmp_path / "a.wav").write_bytes(longer)
    assert audio.info(tmp_path / "a.wav").samples == len(pcm)
    (tmp_path / "a.wav").write_bytes(longer[:-1000])
    with pytest.raises(InputError, match="cut short"):
        audio.info(tmp_path / "a.wav")


@pytest.mark.parametrize("read", [audio.load, audio.info])
def test_files_that_are_no_recordings_are_named_with_a_remedy(tmp_path: Path, read):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("hello " * 50)
    (tmp_path / "a.raw").write_bytes(b"\0" * 100)
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16000)
    for name, message in {
        "missing.wav": "No such file.*check the path",
        "empty.wav": "empty; copy or record it again",
        "text.wav": "not audio.*readable are WAV",
        "a.raw": "headerless.*convert the file to WAV",
        "nothing.wav": "no samples; remove it",
        ".": "check the path",
    }.items():
        with pytest.raises(InputError, match=f"{tmp_path / name}.*{message}"):
            read(tmp_path / name)


def test_samples_that_are_not_numbers_are_refused(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.array([0.0, np.nan, 0.5]), 16000, subtype="FLOAT")
    with pytest.raises(InputError, match=r"a\.wav: contains NaN"):
        audio.load(tmp_path / "a.wav")


CANCELLED = "its 2 channels cancel each other: the loudest is taken alone"
CLIPPED = "clipped: more than 1% of its samples are at full scale"
OFFSET = "its samples have a constant offset that is larger than the sound"


def speech(seed: int = 0, seconds: float = 1.0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(16000 * seconds))


@pytest.mark.parametrize("second", [-1.0, -0.9, -1.1])
def test_of_channels_that_cancel_the_loudest_is_taken(tmp_path: Path, second: float):
    sound = speech()
    soundfile.write(tmp_path / "a.wav", np.stack([sound, second * sound], axis=1), 16000, subtype="FLOAT")
    samples, notes = audio.load(tmp_path / "a.wav")
    assert notes == (CANCELLED,)
    np.testing.assert_array_equal(samples, (sound * (second if second < -1 else 1)).astype(np.float32))


def test_channels_that_cancel_are_found_in_all_blocks_at_other_rates_and_in_other_containers(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(audio, "_BLOCK", 1000)
    sound = speech()
    for name, rate in (("a.flac", 16000), ("b.flac", 8000), ("c.mp3", 16000)):
        soundfile.write(tmp_path / name, np.stack([sound, -sound], axis=1), rate)
        samples, notes = audio.load(tmp_path / name)
        assert notes[0] == CANCELLED
        assert np.std(samples) > 0.05


@pytest.mark.parametrize("channels", [2, 3, 64])
def test_channels_that_do_not_cancel_are_mixed(tmp_path: Path, channels: int):
    independent = np.stack([speech(seed) for seed in range(channels)], axis=1)
    alone = np.zeros_like(independent)
    alone[:, -1] = independent[:, 0]
    silent = np.zeros_like(independent)
    for several in (independent, alone, silent):
        soundfile.write(tmp_path / "a.wav", several, 16000, subtype="FLOAT")
        samples, notes = audio.load(tmp_path / "a.wav")
        assert notes[0] == f"mixed {channels} channels down to one"
        np.testing.assert_allclose(samples, several.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "notes"),
    [
        (np.clip(20 * speech(), -1, 1), (CLIPPED,)),
        (np.clip(speech() + 5 * tone(16000, seconds=1), -1, 1 - 2**-15), (CLIPPED,)),
        (0.999 * speech() / np.abs(speech()).max(), ()),
        (2 * tone(16000), ()),  # a sine of full scale
        (0.4 + speech(), (OFFSET,)),
        (-0.2 + 0.1 * speech(), (OFFSET,)),
        (0.02 + speech(), ()),
        (1e-4 * speech() + 1e-3, ()),
    ],
)
def test_clipping_and_offsets_are_told(tmp_path: Path, samples: np.ndarray, notes: tuple[str, ...]):
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="PCM_16")
    assert audio.load(tmp_path / "a.wav").notes == notes


def test_an_mp3_is_the_same_in_blocks_of_any_size(tmp_path, monkeypatch):
    samples = np.random.default_rng(0).normal(0, 0.1, 22710).astype(np.float32)
    soundfile.write(tmp_path / "a.mp3", samples, 22050)
    whole = audio.load(tmp_path / "a.mp3", sample_rate=22050).samples
    for block in (1, 1000, 4410, 7777):
        monkeypatch.setattr(audio, "_BLOCK", block)
        found = audio.load(tmp_path / "a.mp3", sample_rate=22050).samples
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-6)
