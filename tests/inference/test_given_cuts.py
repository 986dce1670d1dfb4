"""Given parts of recordings are read from the files that programs write, and cut to the sample."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.data.audio_blocks import Recording
from ds2f.errors import InputError
from ds2f.inference import given_cuts
from ds2f.inference.given_cuts import GivenCuts, Span
from ds2f.inference.pieces import Cutting

RATE, GRID = 1000, 20
SAMPLES = (0.5 + np.arange(20_000) / 1e6).astype(np.float32)  # all different, and nowhere a pause


class Blocks(Recording):
    """A recording that is read in blocks of a given size."""

    def __init__(self, size: int, name: str = "call.wav") -> None:
        super().__init__(SAMPLES, rate=RATE, sample_rate=RATE, name=name)
        self.size = size

    def __iter__(self):
        yield from (SAMPLES[begin : begin + self.size] for begin in range(0, len(SAMPLES), self.size))


def cut(*spans: tuple[float, float], size: int = 700, longest: float = 4.0):
    given = {"call": sorted(Span(*span, "f:1") for span in spans)}
    cutter = GivenCuts(given, cutting=Cutting(longest=longest, overlap=1.0))
    return list(cutter(Blocks(size), rate=RATE, grid=GRID))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 19_900), st.integers(1, 9000)), min_size=1, max_size=6), st.integers(1, 25_000)
)
def test_parts_have_the_samples_of_their_times(parts, size):
    parts = sorted((begin, begin + length) for begin, length in parts)
    found = cut(*((begin / RATE, end / RATE) for begin, end in parts), size=max(size, 50))
    reached, number = 0, -1
    for piece in found:
        np.testing.assert_array_equal(piece.samples, SAMPLES[piece.begin : piece.begin + len(piece.samples)])
        if not piece.shared:
            number += 1
            assert piece.begin == parts[number][0]
        else:
            assert piece.begin == reached - piece.shared
        reached = piece.begin + len(piece.samples)
        last = number + 1 == len(parts)
        assert reached <= parts[number][1]
        assert last or piece.begin <= parts[number + 1][0] or piece.shared
    assert number + 1 == len(parts)
    assert reached == min(parts[-1][1], len(SAMPLES))


def test_a_part_after_the_end_names_its_line():
    with pytest.raises(InputError, match=r"call.wav: f:1: the part from 21 s begins after .* 20.00 s"):
        cut((1.0, 2.0), (21.0, 22.0))


def test_a_part_of_digital_silence_has_no_piece_and_the_next_one_is_cut(monkeypatch):
    monkeypatch.setitem(globals(), "SAMPLES", np.where(np.arange(20_000) < 3000, 0, SAMPLES).astype(np.float32))
    assert [(piece.begin, piece.end) for piece in cut((1.0, 2.0), (4.0, 5.0))] == [(4000, 5000)]


def test_a_recording_without_parts_is_told():
    with pytest.raises(InputError, match=r"other\.flac: has no line in the file of segments; name it there other,"):
        list(GivenCuts({"call": [Span(0, 1, "")]})(Blocks(10, "folder/other.flac"), rate=RATE, grid=GRID))


FILES = {
    "table": "call.wav\t0.5\t1.5\nmy call.wav\t2\t3\n",
    "spaces": "# comment\ncall 0.5 1.5\n\n",
    "audacity": "0.500000\t1.500000\thello there\n\\\t100\t200\n",
    "kaldi": "call-0001 call 0.50 1.50\n",
    "rttm": ";; made by hand\nSPKR-INFO call 1 <NA> <NA> <NA> unknown a <NA> <NA>\n"
    "SPEAKER call 1 0.500 1.000 <NA> <NA> a <NA> <NA>\n",
    "nemo": '{"audio_filepath": "call.wav", "offset": 0.5, "duration": 1.0, "label": "infer"}\n',
}


@pytest.mark.parametrize("kind", sorted(FILES.keys() - {"audacity"}))
def test_the_files_of_other_programs_are_read(tmp_path, kind):
    path = tmp_path / "parts"
    path.write_text("\ufeff" + FILES[kind], encoding="utf-8")
    (first, *_) = GivenCuts(given_cuts.read(path))(Blocks(700), rate=RATE, grid=GRID)
    assert (first.begin, first.end) == (500, 1500)


def test_labels_without_a_recording_stand_for_every_one(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("0.500000\t1.500000\thello there\n2\t3\n", encoding="utf-8")
    found = list(GivenCuts(given_cuts.read(path))(Blocks(700, "any.mp3"), rate=RATE, grid=GRID))
    assert [(piece.begin, piece.end) for piece in found] == [(500, 1500), (2000, 3000)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("call 1.0 2.0\ncall 3.0 3.0\n", ":2: the part from 3 to 3 s is empty"),
        ("call -1 2\n", ":1: the part from -1 to 2 s is empty"),
        ("call 1 nan\n", ":1: the part from 1 to nan s is empty"),
        ("call 1 inf\n", "is empty"),
        ("call one two\n", ":1: call one two: a line is RECORDING START END"),
        ("\x1b[2J 1\n", r":1: \\x1b\[2J 1: a line is"),
        ('{"audio_filepath": "a.wav"}\n', "a line is"),
        ("[1, 2]\n", "a line is"),
        ("# nothing\n", "no segments; a line is"),
        ("SPEAKER call 1\n", "a line is"),
    ],
)
def test_another_line_is_told_with_its_place(tmp_path, content, told):
    path = tmp_path / "parts"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=told):
        given_cuts.read(path)


def test_what_is_no_text_file_is_told(tmp_path):
    path = tmp_path / "parts"
    with pytest.raises(InputError, match="No such file"):
        given_cuts.read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="byte 0 is not UTF-8"):
        given_cuts.read(path)
