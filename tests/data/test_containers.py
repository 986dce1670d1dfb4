"""Tests of what audio files say about their own size and health, over files that libsndfile wrote."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.data import audio, containers
from ds2f.errors import InputError

RATE = 16000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "sphere": ("NIST", "PCM_16"),
}


def encoded(kind, size=RATE, rate=RATE):
    container, subtype = FORMATS[kind]
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(size).normal(0, 0.1, size), rate, format=container, subtype=subtype)
    return file.getvalue()


WHOLE = {kind: encoded(kind) for kind in FORMATS}


def load(content):
    return audio.load(io.BytesIO(content), name="here.x")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [1, 700, 16000, 100_000])
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_whole_files_are_taken(kind, size, rate):
    content = encoded(kind, size, rate)
    assert len(audio.load(io.BytesIO(content), sample_rate=rate).samples) == size
    assert audio.info(io.BytesIO(content), sample_rate=rate).samples == size


@pytest.mark.parametrize("kind", FORMATS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_beginning_of_a_file_passes_for_the_whole(kind, data):
    # A few bytes of slack are left to programs that count their headers wrongly.
    size = data.draw(st.integers(0, len(WHOLE[kind]) - 65))
    with pytest.raises(InputError, match=r"here\.x: "):
        load(WHOLE[kind][:size])


@pytest.mark.parametrize("kind", ["flac", "vorbis", "opus"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_has_checksums_is_refused_when_a_byte_of_the_sound_differs(kind, data):
    content = bytearray(WHOLE[kind])
    at = data.draw(st.integers(len(content) // 2, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InputError, match=r"here\.x: "):
        load(bytes(content))


def test_the_checksum_is_that_of_the_ogg_specification():
    def bit_by_bit(page):
        register = 0
        for byte in page:
            register ^= byte << 24
            for _ in range(8):
                register = (register << 1 ^ (0x04C11DB7 if register >> 31 else 0)) & 0xFFFFFFFF
        return register

    for size in (0, 1, 27, 300):
        page = np.random.default_rng(size).bytes(size)
        assert containers._ogg_crc(page) == bit_by_bit(page)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_lies_before_and_behind_a_recording_in_its_container_does_no_harm(kind):
    if kind == "mp3":
        picture = bytes(3000)
        tag = b"ID3\4\0\0" + bytes((0, 0, len(picture) >> 7, len(picture) & 127)) + picture
        whole = tag + WHOLE["mp3"]
        assert len(load(whole).samples) == RATE
        with pytest.raises(InputError, match="cut short"):
            load(whole[:-1000])
    elif kind in ("wav", "sphere"):
        assert len(load(WHOLE[kind] + b"LIST\4\0\0\0abcd").samples) >= RATE


def test_an_mp3_without_an_index_is_not_refused_for_want_of_one():
    index = max(WHOLE["mp3"].find(b"Xing"), WHOLE["mp3"].find(b"Info"))
    assert index > 0
    without = WHOLE["mp3"][:index] + b"None" + WHOLE["mp3"][index + 4 :]
    assert len(load(without).samples)


def test_a_header_that_promises_more_than_memory_holds_does_not_get_it(tmp_path):
    flac = bytearray(WHOLE["flac"])
    flac[21:26] = bytes((flac[21] | 15, 255, 255, 255, 255))  # 2**36 - 1 samples: 256 GiB
    with pytest.raises(InputError, match=r"here\.x: "):
        load(bytes(flac))


def test_long_recordings_are_read_in_pieces(monkeypatch):
    expected = load(WHOLE["wav"]).samples
    for block in (999, RATE // 2, RATE, RATE + 1):
        monkeypatch.setattr(audio, "_BLOCK", block)
        assert np.array_equal(load(WHOLE["wav"]).samples, expected)


@pytest.mark.parametrize("rate", [1, 999, 2**31 - 1])
def test_an_absurd_sampling_rate_is_refused_before_anything_is_resampled(rate):
    content = bytearray(WHOLE["wav"])
    content[24:28] = struct.pack("<I", rate)
    for read in (audio.load, audio.info):
        with pytest.raises(InputError, match=f"here.x: its header says {rate} samples a second"):
            read(io.BytesIO(bytes(content)), name="here.x")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_would_not_survive_the_features_are_refused(value):
    samples = np.zeros(RATE, dtype=np.float32)
    samples[7] = value
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    with pytest.raises(InputError, match="NaN, infinite or absurdly large"):
        load(file.getvalue())


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(InputError, match=r"a\.wav: neither file nor folder"):
        audio.info(tmp_path / "a.wav")


def test_a_header_of_endless_chunks_is_given_up(tmp_path):
    content = b"RIFF\xff\xff\xff\0WAVE" + bytes(8_000_000)
    with pytest.raises(InputError, match=r"here\.x: "):
        load(content)
