"""Every format, read by a reader that others wrote."""

import itertools
import json
import re
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.inference.formats import FORMATS
from ds2f.inference.transcript import Segment, Transcript, Word

HELLO = Transcript(
    (
        Segment(0.0, 2.5, (Word("HELLO", 0.32, 0.81, 0.93), Word("<YOU>", 0.9, 1.4, 0.5)), ("HELLO <YOU>", "HELLO U")),
        Segment(3.0, 4.0, ()),
        Segment(3661.0, 3663.25, (Word("GOOD", 3661.1, 3661.5, 0.9999), Word("BYE", 3661.75, 3662.0, 0.25))),
    ),
    duration=3663.25,
    notes=("silent: every sample is zero",),
)
EMPTY = Transcript((Segment(0.0, 1.0, ()),), duration=1.0)


def written(form: str, transcript: Transcript = HELLO, name: str = "calls/a b.wav") -> str:
    return FORMATS[form].header + FORMATS[form].write(name, transcript)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Segments in order, with words in order."""
    segments, now = [], 0.0
    step = st.floats(0.01, 3)
    for _ in range(draw(st.integers(0, 4))):
        begin, words = now, []
        for text in draw(st.lists(st.text("AB'ÄЖ语", min_size=1, max_size=60), max_size=30)):
            start = now + draw(step)
            now = start + draw(st.one_of(st.just(0.0), step))  # a word at the very end may have no room
            words.append(Word(text, start, now, draw(st.floats(0, 1))))
        now += draw(step)
        segments.append(Segment(begin, now, tuple(words)))
    return Transcript(tuple(segments), duration=now)


@settings(deadline=None, max_examples=50)
@given(transcripts())
def test_all_formats_keep_the_words(transcript: Transcript) -> None:
    pysubs2 = pytest.importorskip("pysubs2")
    spoken = [word.text for word in transcript.words]
    for form in ("srt", "vtt"):
        cues = pysubs2.SSAFile.from_string(written(form, transcript), format_=form)
        assert [word for cue in cues for word in cue.plaintext.split()] == spoken
        assert all(len(line) <= max(42, *map(len, spoken)) for cue in cues for line in cue.plaintext.splitlines())
        assert all(first.end <= second.start for first, second in itertools.pairwise(cues))
    rows = [line.split(" ") for line in written("ctm", transcript).splitlines()]
    assert [row[4] for row in rows] == spoken
    assert all(float(row[3]) >= 0 and 0 <= float(row[5]) <= 1 for row in rows)
    assert [row.split("\t")[3] for row in written("tsv", transcript).splitlines()[1:]] == spoken
    for form in ("json", "jsonl"):
        read = json.loads(written(form, transcript))
        assert [word["word"] for segment in read["segments"] for word in segment["words"]] == spoken
        assert read["text"].split() == spoken
    assert written("text", transcript).split() == spoken
    tier = written("textgrid", transcript).partition('name = "words"')[2]
    assert [found for found in re.findall(r'text = "(.*)"', tier) if found] == spoken
    assert written("trn", transcript).split()[:-1] == spoken


def test_subtitles_have_the_times() -> None:
    pysubs2 = pytest.importorskip("pysubs2")
    for form in ("srt", "vtt"):
        cues = pysubs2.SSAFile.from_string(written(form), format_=form)
        assert [(cue.start, cue.end) for cue in cues] == [(320, 1400), (3661100, 3662000)]
        assert "HELLO" in cues[0].text
        assert not pysubs2.SSAFile.from_string(written(form, EMPTY), format_=form).events


def test_webvtt_escapes_markup() -> None:
    assert "HELLO &lt;YOU&gt;" in written("vtt")


def test_json_has_everything() -> None:
    read = json.loads(written("json"))
    assert read["audio"] == "calls/a b.wav"
    assert read["duration"] == 3663.25
    assert read["segments"][0]["alternatives"] == ["HELLO <YOU>", "HELLO U"]
    assert read["segments"][0]["words"][0] == {"word": "HELLO", "start": 0.32, "end": 0.81, "confidence": 0.93}
    assert read["notes"] == ["silent: every sample is zero"]
    assert len(written("jsonl").splitlines()) == 1


def test_a_textgrid_has_tiers_without_gaps() -> None:
    lines = written("textgrid").splitlines()
    assert lines[0] == 'File type = "ooTextFile"'
    texts = [line.split('"')[1] for line in lines if line.strip().startswith("text =")]
    assert texts == ["HELLO <YOU>", "", "", "", "GOOD BYE", "", "HELLO", "", "<YOU>", "", "GOOD", "", "BYE", ""]
    bounds = [float(line.split("=")[1]) for line in lines if line.strip().startswith(("xmin", "xmax"))]
    intervals = list(zip(bounds[::2], bounds[1::2], strict=True))
    assert all(begin < end for begin, end in intervals)


def test_sclite_reads_ctm_and_trn(tmp_path) -> None:
    sclite = shutil.which("sclite") or shutil.which("sctk")
    if sclite is None:
        pytest.skip("NIST's sclite is not installed (apt-get install sctk)")
    command = [sclite] if sclite.endswith("sclite") else [sclite, "sclite"]
    said = Transcript((Segment(0, 4, (Word("HELLO", 0.3, 0.8, 0.9), Word("YOU", 1.0, 1.4, 0.5))),), duration=4.0)
    heard = Transcript((Segment(0, 4, (Word("HELLO", 0.3, 0.8, 0.9), Word("TWO", 1.0, 1.4, 0.5))),), duration=4.0)
    (tmp_path / "ref.trn").write_text(written("trn", said, "a-1.wav"))
    (tmp_path / "hyp.trn").write_text(written("trn", heard, "a-1.wav"))
    (tmp_path / "hyp.ctm").write_text(written("ctm", heard, "a-1.wav"))
    (tmp_path / "ref.stm").write_text("a-1 1 a 0.0 4.0 HELLO YOU\n")
    for reference, hypothesis in (("ref.trn trn", "hyp.trn trn"), ("ref.stm stm", "hyp.ctm ctm")):
        arguments = ["-r", *reference.split(), "-h", *hypothesis.split(), "-i", "rm", "-o", "sum", "stdout"]
        result = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert "50.0" in result.stdout, result.stdout + result.stderr


def test_chinese_subtitles_have_no_spaces_and_lines_of_21_characters() -> None:
    said = "今天下午三点二十分提醒我开会" * 4
    words = tuple(Word(each, index / 10, (index + 1) / 10, 0.9, glued=True) for index, each in enumerate(said))
    transcript = Transcript((Segment(0.0, 3.0, words[:28]), Segment(3.0, 6.0, words[28:])), duration=6.0)
    assert transcript.text == said
    cues = written("srt", transcript).strip().split("\n\n")
    lines = [line for cue in cues for line in cue.splitlines()[2:]]
    assert "".join(lines) == said
    assert max(map(len, lines)) == 21  # two columns each, of 42
    mixed = (Word("打", 0, 1, 0.9, glued=True), Word("开", 1, 2, 0.9, glued=True), Word("WIFI", 2, 3, 0.9))
    assert written("text", Transcript((Segment(0.0, 3.0, mixed),), duration=3.0)) == "打开 WIFI\n"
