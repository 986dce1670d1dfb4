"""Tests of what audio files say about their own size and health, over files that libsndfile wrote."""

import io
import itertools
import os
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.data import audio
from ds2f.data.containers import mp3_frames, ogg_pages
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


def pages(ogg):
    """Where the pages of an Ogg file begin."""
    starts, position = [], 0
    while position < len(ogg):
        starts.append(position)
        segments = ogg[position + 26]
        position += 27 + segments + sum(ogg[position + 27 : position + 27 + segments])
    return starts


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
    # A few bytes of slack are left to programs that count their headers wrongly. Whole pages of Ogg without an end mark
    # may be all that a phone wrote: that is told.
    size = data.draw(st.integers(0, len(WHOLE[kind]) - 65))
    if size in (pages(WHOLE[kind]) if kind in ("vorbis", "opus") else ()):
        return
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
        assert ogg_pages.checksum(page) == bit_by_bit(page)


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
    with pytest.raises(InputError, match=r"^[^:]*/a\.wav: neither file nor folder; check the path$"):
        audio.info(tmp_path / "a.wav")


def test_a_header_of_endless_chunks_is_given_up(tmp_path):
    content = b"RIFF\xff\xff\xff\0WAVE" + bytes(8_000_000)
    with pytest.raises(InputError, match=r"here\.x: "):
        load(content)


# Streams that are whole, in files that are not as the book says

NO_END_MARK = "its last page lacks the end mark: read to the end of the file"
NO_LENGTH = "its header does not say how long it is: read to the end of the file"
MORE = "its header says fewer samples than there are: read to the end of the file"
MORE_FRAMES = "its index counts fewer frames than there are: read to the end of the file"
JOINED = "several recordings behind one another in a file: read as one"
ID3V2 = b"ID3\4\0\0\0\0\7\x74" + bytes([7]) * 1012
ID3V1 = b"TAG" + b"a title".ljust(125)
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 96, 3, 0xA0000000) + bytes(8) + b"b" * 64
APE += b"APETAGEX" + struct.pack("<IIII", 2000, 96, 3, 0x80000000) + bytes(8)
APE_WITHOUT_HEADER = b"b" * 64 + b"APETAGEX" + struct.pack("<IIII", 1000, 96, 3, 0) + bytes(8)


def read(content, rate=RATE):
    """The samples, which ``info`` must have counted, and the remarks."""
    found = audio.load(io.BytesIO(content), name="here.x", sample_rate=rate)
    assert audio.info(io.BytesIO(content), name="here.x", sample_rate=rate).samples == len(found.samples)
    return found


def unmarked(ogg):
    """The same stream without the flag of its last page, as phones write it."""
    *_, at = pages(ogg)
    page = bytearray(ogg[at:])
    page[5] &= ~4
    page[22:26] = bytes(4)
    page[22:26] = struct.pack("<I", ogg_pages.checksum(bytes(page)))
    return ogg[:at] + bytes(page)


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
@pytest.mark.parametrize("size", [300, 16000, 50_000])
@pytest.mark.parametrize("behind", [b"", ID3V1, APE, APE + ID3V1])
def test_an_ogg_stream_without_an_end_mark_is_read_to_its_end(kind, size, behind):
    whole = encoded(kind, size)
    samples, notes = read(unmarked(whole) + behind)
    assert notes == (NO_END_MARK,)
    np.testing.assert_array_equal(samples, load(whole).samples)


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_a_page_of_ogg_that_is_missing_is_found_at_the_start_and_in_training(kind):
    whole = encoded(kind, 100_000)
    starts = [*pages(whole), len(whole)]
    assert len(starts) > 6
    for first, second in itertools.pairwise(starts[2:-1]):
        for function in (audio.info, audio.load):
            with pytest.raises(InputError, match=r"here\.x: the recording is cut short: a page before byte \d+"):
                function(io.BytesIO(whole[:first] + whole[second:]), name="here.x")


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
@pytest.mark.parametrize("rest", [bytes(3000), b"\1", b"OggS", ID3V2[:500] + b"\1", ID3V1[:90], ID3V1 + b"\1"])
def test_zeros_in_place_of_the_last_pages_and_rubbish_are_refused(kind, rest):
    content = WHOLE[kind][: pages(WHOLE[kind])[-1]] + rest
    for function in (audio.info, audio.load):
        with pytest.raises(InputError, match=r"here\.x: .*page"):
            function(io.BytesIO(content), name="here.x")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("before", [b"", ID3V2, bytes(700), ID3V2 + bytes(99) + ID3V2])
@pytest.mark.parametrize("behind", [b"", ID3V1, bytes(5000), APE, APE + ID3V1, bytes(64) + ID3V1])
def test_tags_and_zeros_before_and_behind_a_recording_do_no_harm(kind, before, behind):
    samples, notes = read(before + WHOLE[kind] + behind)
    assert notes == ()
    np.testing.assert_array_equal(samples, load(WHOLE[kind]).samples)


@pytest.mark.parametrize("kind", ["flac", "vorbis", "opus"])
@pytest.mark.parametrize("behind", [APE_WITHOUT_HEADER, APE_WITHOUT_HEADER + ID3V1])
def test_an_ape_tag_without_a_header_behind_a_recording_does_no_harm(kind, behind):
    samples, notes = read(WHOLE[kind] + behind)
    assert notes == ()
    np.testing.assert_array_equal(samples, load(WHOLE[kind]).samples)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("between", [b"", ID3V2, bytes(500), ID3V1 + ID3V2])
def test_recordings_that_were_put_behind_one_another_are_read_as_one(kind, between):
    other = encoded(kind, 9000)
    samples, notes = read(WHOLE[kind] + between + other)
    assert notes == (JOINED,)
    np.testing.assert_array_equal(samples, np.concatenate([load(WHOLE[kind]).samples, load(other).samples]))


def test_twice_the_same_flac_is_read_twice():
    samples, notes = load(WHOLE["flac"] * 2)
    assert notes == (JOINED,)
    np.testing.assert_array_equal(samples, np.tile(load(WHOLE["flac"]).samples, 2))


def test_joined_recordings_may_have_other_rates_and_numbers_of_channels():
    stereo = io.BytesIO()
    soundfile.write(stereo, np.random.default_rng(3).normal(0, 0.1, (8000, 2)), 8000, format="FLAC")
    samples, notes = read(WHOLE["flac"] + stereo.getvalue())
    assert notes == ("mixed 2 channels down to one", "resampled from 8000 Hz to 16000 Hz", JOINED)
    assert len(samples) == 2 * RATE
    with pytest.raises(InputError, match=r"here\.x: 2 s long or more; the limit is 1 s"):
        audio.load(io.BytesIO(WHOLE["flac"] + stereo.getvalue()), name="here.x", max_seconds=1)


# Headers that were never finished

HEADERS = {  # where the size of the samples stands, its form, and bytes that the size counts besides
    "WAV": (40, "<I", 0),
    "AU": (8, ">I", 0),
    "AIFF": (42, ">I", 8),
    "W64": (96, "<Q", 24),
    "RF64": (28, "<Q", 0),
    "CAF": (4084, ">q", 4),
}


def with_size(container, size, subtype="PCM_16", *, chunk=b""):
    """A file of a second, its header with another size, with all samples."""
    file = io.BytesIO()
    sound = np.random.default_rng(5).integers(-9999, 9999, RATE).astype(np.int16)
    soundfile.write(file, sound, RATE, format=container, subtype=subtype)
    content = bytearray(file.getvalue())
    at, form, more = HEADERS[container]
    assert struct.unpack_from(form, content, at)[0] == 2 * RATE + more
    struct.pack_into(form, content, at, size)
    return bytes(content) + chunk, sound / np.float32(32768)


@pytest.mark.parametrize("container", HEADERS)
@pytest.mark.parametrize("size", [0, 24, 3200, 2 * RATE - 100])
def test_a_header_that_was_never_finished_does_not_cut_the_recording(container, size):
    content, expected = with_size(container, size)
    samples, notes = read(content)
    assert notes == (MORE,)
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize(
    ("container", "size"), [("WAV", 0xFFFFFFFF), ("WAV", 0x7FFFFFFF), ("AU", 0xFFFFFFFF), ("CAF", -1)]
)
def test_a_size_that_was_left_open_means_the_end_of_the_file(container, size):
    content, expected = with_size(container, size)
    samples, notes = read(content)
    assert notes == (NO_LENGTH,)
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("container", HEADERS)
def test_a_header_that_promises_more_is_refused_with_both_sizes(container):
    content, _ = with_size(container, 3 * RATE)
    for function in (audio.info, audio.load):
        with pytest.raises(InputError, match=rf"cut short: its header says \d+ bytes, {len(content)} are there"):
            function(io.BytesIO(content), name="here.x")


@pytest.mark.parametrize("count", [0, 1600])
def test_a_sphere_header_with_too_few_samples_does_not_cut_the_recording(count):
    header = WHOLE["sphere"][:1024].replace(b"sample_count -i 16000\n", b"sample_count -i %d\n" % count, 1)
    samples, notes = read(header.ljust(1024)[:1024] + WHOLE["sphere"][1024:])
    assert notes == (MORE,)
    np.testing.assert_array_equal(samples, load(WHOLE["sphere"]).samples)


@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF"])
def test_chunks_behind_the_samples_are_no_samples(container):
    name, size = b"note", 400
    head = {"WAV": struct.pack("<4sI", name, size), "AIFF": struct.pack(">4sI", name, size)}.get(container)
    if container == "CAF":
        head = struct.pack(">4sq", name, size)
    content, expected = with_size(container, 2 * RATE + HEADERS[container][2], chunk=head + bytes([99]) * size)
    samples, notes = read(content)
    assert notes == ()
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("filling", [b"", b"\0"])
def test_a_chunk_behind_an_odd_number_of_bytes_may_follow_at_once(filling):
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 8001), RATE, format="WAV", subtype="PCM_U8")
    content = file.getvalue()[: 44 + 8001]
    assert content[40:44] == struct.pack("<I", 8001)
    samples, notes = read(content + filling + b"LIST" + struct.pack("<I", 400) + bytes([99]) * 400)
    assert notes == ()
    assert len(samples) == 8001


@pytest.mark.parametrize("samples", [0, 1000])
def test_a_flac_header_without_the_length_does_not_cut_the_recording(samples):
    content = bytearray(WHOLE["flac"])
    content[21:26] = bytes((content[21] & 0xF0,)) + struct.pack(">I", samples)
    for behind in (b"", bytes(500), ID3V1):
        found = read(bytes(content) + behind)
        assert found.notes == (MORE if samples else NO_LENGTH,)
        np.testing.assert_array_equal(found.samples, load(WHOLE["flac"]).samples)
    with pytest.raises(InputError, match="cut short: its last frame is missing, cut off or damaged"):
        load(bytes(content[:-1000]))


# MP3, whose length is an estimate


def mp3(sound, rate, mode):
    """An MP3 with the frame of its index, and the number of bytes of that frame."""
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="MP3", bitrate_mode=mode)
    content = file.getvalue()
    return content, mp3_frames._frame(content[:64]).length


def quiet_then_loud(rate, seconds=6, channels=1):
    sound = np.random.default_rng(rate).normal(0, 0.1, (rate * seconds, channels))
    sound[: rate * seconds // 2] = 0
    return sound


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (44100, 1), (48000, 2)])
def test_an_mp3_without_an_index_is_read_to_its_end(mode, rate, channels):
    sound = quiet_then_loud(rate, channels=channels)
    content, index = mp3(sound, rate, mode)
    expected, bare = read(content, rate).samples, read(content[index:], rate).samples
    assert len(expected) == len(sound)
    # Without the index the decoder does not know how much of the first and the last frame is filling.
    assert abs(len(bare) - len(sound)) < 4 * 1152
    compared = len(sound) - 4 * 1152
    assert min(np.abs(bare[lag : lag + compared] - expected[:compared]).max() for lag in range(0, 1153, 576)) < 1e-6


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_index_that_counts_too_few_frames_does_not_cut_the_recording(mode):
    content, _ = mp3(quiet_then_loud(RATE), RATE, mode)
    at = max(content.find(b"Xing"), content.find(b"Info")) + 8
    samples, notes = read(content[:at] + struct.pack(">I", 40) + content[at + 4 :])
    assert notes == (MORE_FRAMES,)
    np.testing.assert_array_equal(samples, read(content).samples)


@pytest.mark.parametrize("between", [b"", bytes(700), ID3V1 + ID3V2])
def test_mp3s_without_indexes_that_were_put_together_are_read_to_their_end(between):
    content, index = mp3(quiet_then_loud(RATE), RATE, "VARIABLE")
    alone, samples = read(content[index:]).samples, read(content[index:] + between + content[index:]).samples
    assert 2 * len(alone) <= len(samples) < 2 * len(alone) + 1152
    assert np.std(samples[-2 * RATE :]) == pytest.approx(np.std(alone[-2 * RATE :]), rel=0.01)


@pytest.mark.parametrize("rubbish", [bytes(2000), np.random.default_rng(0).bytes(5000)])
def test_rubbish_in_an_mp3_is_skipped_and_told(rubbish):
    content, index = mp3(quiet_then_loud(RATE), RATE, "VARIABLE")
    middle = len(content) // 2
    with pytest.raises(InputError, match=r"cut short: its index counts \d+ frames, \d+ are there"):
        load(content[:middle] + rubbish + content[middle:])
    samples, notes = read(content[index:middle] + rubbish + content[middle:])
    assert "bytes between its MP3 frames are skipped" in notes
    assert abs(len(samples) - 6 * RATE) < 5 * 1152


def test_a_last_frame_that_is_cut_off_is_told():
    content, index = mp3(quiet_then_loud(RATE), RATE, "VARIABLE")
    samples, notes = read(content[index:-30])
    assert notes == ("its last frame is cut off: read to the end of the file",)
    assert abs(len(samples) - 6 * RATE) < 3 * 1152


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("declared", [True, False])
def test_an_mp3_in_a_wav_file_is_read_to_its_end(mode, declared):
    content, index = mp3(quiet_then_loud(RATE), RATE, mode)
    for stream in (content, content[index:]):
        form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 200, 1, 1393)
        size = len(stream) if declared else 0
        head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size)
        samples, notes = read(b"RIFF" + struct.pack("<I", len(head) + len(stream)) + head + stream)
        assert notes == ()
        np.testing.assert_array_equal(samples, read(stream).samples)
