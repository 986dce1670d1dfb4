"""Tests of Praat's text grids beside recordings."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds2f.config import DataConfig
from ds2f.data import manifests, text_grids
from ds2f.errors import InputError
from ds2f.inference import formats
from ds2f.inference.transcript import Segment, Transcript, Word

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "{first}"
        xmin = 0
        xmax = 3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 1.75
            text = "he said ""1 2"" to us"
        intervals [3]:
            xmin = 1.75
            xmax = 3
            text = "{last}"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 3
        points: size = 1
        points [1]:
            number = 1.25
            mark = "click"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
3
<exists>
1
"IntervalTier"
"text"
0
3
3
0
0.5
""
0.5
1.75
"he said ""1 2"" to us"
1.75
3
"gut, ja"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("grids")
    soundfile.write(found / "talk.wav", np.ones(3 * 8000) / 2, 8000)
    return found


def parts(folder: Path, content: str, encoding: str = "utf-8") -> list[tuple[float | None, float, str]]:
    # Praat leaves a space at the ends of its lines.
    (folder / "talk.TextGrid").write_text(content.replace("\n", " \n"), encoding=encoding)
    return [(each.start, each.duration, each.transcript) for each in manifests.read(folder)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("content", [LONG.format(first="speech", last="gut, ja"), SHORT])
def test_intervals_with_texts_are_parts(folder: Path, content: str, encoding: str):
    expected = [(0.5, 1.25, 'he said "1 2" to us'), (1.75, 1.25, "gut, ja")]
    assert parts(folder, content, encoding) == expected
    assert parts(folder, content.replace("gut", "schön"), encoding)[1] == (1.75, 1.25, "schön, ja")


def test_one_of_several_tiers_is_chosen_by_its_name(folder: Path):
    second = LONG.partition("item [1]:")[2].partition("    item [2]:")[0].format(first="words", last="x")
    both = LONG.replace("size = 2", "size = 3", 1).format(first="Text", last="gut, ja") + f"    item [3]:{second}"
    assert parts(folder, both)[1][2] == "gut, ja"
    with pytest.raises(InputError, match="several tiers have texts: 'speech', 'words'"):
        parts(folder, both.replace('"Text"', '"speech"'))


def test_what_transcribe_writes_can_be_corrected_and_read(folder: Path):
    said = Transcript((Segment(0.25, 1.5, (Word("YES", 0.3, 0.8, 0.9), Word("SO", 1.0, 1.4, 0.5))),), duration=3.0)
    assert parts(folder, formats.textgrid("talk.wav", said)) == [(0.25, 1.25, "YES SO")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (SHORT[:150], "cut short"),
        (SHORT.replace("TextGrid", "Pitch"), "no text grid of Praat's"),
        ("", "cut short"),
        (SHORT.replace("1.75\n3\n", '"1.75"\n3\n'), "is where a number should be"),
        (SHORT.replace("1.75\n3\n", "3\n1.75\n"), "has no text or no length"),
        (SHORT.replace("1.75\n3\n", "nan\n3\n"), "no text grid"),
        (SHORT.replace('"IntervalTier"', "9e99"), "no text grid|cut short"),
        (SHORT.replace("0\n3\n3\n", "0\n3\n1e400\n"), "no text grid"),
        (SHORT.replace("0\n3\n3\n", "0\n3\n1e18\n"), "cut short"),
        (SHORT.replace("<exists>\n1\n", "<exists>\n1e9\n"), "tiers"),
        (SHORT.replace('"gut, ja"', '""').replace('"he said ""1 2"" to us"', '""'), "no tier of intervals has a text"),
    ],
)
def test_another_file_is_a_problem_with_its_reason(folder: Path, content: str, reason: str):
    with pytest.raises(InputError, match=reason):
        parts(folder, content)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, len(SHORT) - 1),
    text=st.text(st.sampled_from('"<>.0e9- \n\0x'), max_size=4),
    cut=st.integers(0, 30),
)
def test_damaged_grids_give_rows_or_a_reason(folder: Path, at: int, text: str, cut: int):
    (folder / "damaged").write_text(SHORT[:at] + text + SHORT[at + cut :])
    try:
        found = text_grids.rows_of_grid(folder / "damaged", folder / "talk.wav", 1 << 20)
    except InputError:
        return
    assert all(row.transcript and row.start >= 0 and row.seconds >= 0 for row in found)


def test_a_grid_has_a_largest_size(folder: Path):
    (folder / "talk.TextGrid").write_text(SHORT)
    with pytest.raises(InputError, match="max_manifest_bytes"):
        manifests.read(folder, cfg=DataConfig(max_manifest_bytes=100))


def test_a_transcript_goes_before_a_grid_and_kinds_may_lie_below_speakers(tmp_path: Path):
    for speaker in ("ann", "bob"):
        for kind in ("wav", "txt", "TextGrid"):
            (tmp_path / speaker / kind).mkdir(parents=True)
        soundfile.write(tmp_path / speaker / "wav" / "1.wav", np.ones(3 * 8000) / 2, 8000)
        (tmp_path / speaker / "TextGrid" / "1.TextGrid").write_text(SHORT)
    (tmp_path / "ann/txt/1.txt").write_text("WHOLE")
    found = [(each.audio.parts[-3], each.transcript, each.start) for each in manifests.read(tmp_path)]
    assert found == [("ann", "WHOLE", None), ("bob", 'he said "1 2" to us', 0.5), ("bob", "gut, ja", 1.75)]
