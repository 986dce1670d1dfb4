"""Tests of the error analysis: sets counted by hand, and sums that hold for any texts."""

import io
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich import cells
from rich.console import Console

from ds2f.metrics import ErrorCounts, count_errors
from launch.decoding import SPEAKER as PATTERN
from launch.decoding import Transcript
from launch.report import error_tables
from launch.report.error_analysis import analyse, word_class
from launch.report.error_tables import show

SPEAKER = re.compile(PATTERN)
SET = [
    Transcript("wav/an1-fash-b.wav", "B D ENTER", "D D ENTER"),
    Transcript("wav/an2-fash-b.wav", "F THREE", "THREE NINE"),
    Transcript("wav/cen3-mtje-b.wav", "B SIX", "E SIX"),
    Transcript("wav/an4-mtje-b.wav", "RUBOUT TWENTY ONE", "RUB"),
    Transcript("wav/an5-mtje-b.wav", "GO", ""),
]
WORDS = st.lists(st.sampled_from(["B", "D", "A", "ENTER", "TWO"]), max_size=6).map(" ".join)
NAMES = st.sampled_from(["an1-fash-b.wav", "an2-mtje-b.wav", "00003-lee.wav", "x.wav"])
SETS = st.lists(st.builds(Transcript, NAMES, WORDS, WORDS), max_size=6)


def by(rows, key):
    return {row[key]: row for row in rows}


def test_operations_are_counted_over_words_and_over_characters():
    counts = analyse(SET, speaker=SPEAKER)["counts"]
    assert counts["words"] == {
        **{"said": 11, "hits": 4, "substitutions": 3, "deletions": 4, "insertions": 1},
        **{"errors": 8, "rate": 72.7273},
    }
    assert counts["characters"]["said"] == 7 + 6 + 4 + 15 + 2


def test_each_word_lists_what_it_was_recognised_as_most_errors_first():
    words = analyse(SET, speaker=SPEAKER)["words"]
    assert words[0] == {
        **{"word": "B", "said": 2, "wrong": 2},
        "heard_as": [{"heard": "D", "count": 1}, {"heard": "E", "count": 1}],
    }
    rows = by(words, "word")
    assert rows["F"]["heard_as"] == rows["GO"]["heard_as"] == [{"heard": None, "count": 1}]
    assert rows[None] == {"word": None, "said": 0, "wrong": 1, "heard_as": [{"heard": "NINE", "count": 1}]}
    assert (rows["D"]["said"], rows["D"]["wrong"], rows["D"]["heard_as"]) == (1, 0, [])


def test_letters_and_words_and_confusions_within_the_e_set_are_counted_apart():
    assert [word_class(word) for word in ("B", "z", "A", "ENTER", "'")] == [
        *("E-set letters", "E-set letters", "other letters", "other words", "other words")
    ]
    found = analyse(SET, speaker=SPEAKER)
    rows = by(found["classes"], "class")
    assert rows["E-set letters"] == {
        **{"class": "E-set letters", "said": 3, "mistaken": 2, "mistaken_within": 2, "missed": 0, "inserted": 0},
        "share": 25.0,
    }
    assert (rows["other letters"]["missed"], rows["other words"]["inserted"]) == (1, 1)
    letters = by(found["e_set"], "letter")
    assert {letter: count for letter, count in letters["B"]["heard_as"].items() if count} == {"D": 1, "E": 1}
    assert letters["D"]["heard_as"]["D"] == 1
    given = Transcript("x", "G G G G", "A JAY")
    row = by(analyse([given], speaker=SPEAKER)["e_set"], "letter")["G"]
    assert (row["said"], row["other_letters"], row["other_words"], row["missed"]) == (4, 1, 1, 2)


def test_speakers_come_from_the_names_of_recordings_highest_rate_first():
    rows = analyse(SET, speaker=SPEAKER)["speakers"]
    assert [(row["speaker"], row["utterances"], row["said"], row["errors"], row["rate"]) for row in rows] == [
        ("mtje", 3, 6, 5, 83.3333),
        ("fash", 2, 5, 3, 60.0),
    ]


@pytest.mark.parametrize(
    ("audio", "speaker"),
    [
        ("data/an4_dataset/val/wav/an251-fash-b.wav", "fash"),
        ("an4_dataset/test/wav/cen8-mmkw-b.wav", "mmkw"),
        ("data/synthetic_dataset/val/wav/00001-alicia.wav", "alicia"),
        ("00000-m4.wav", "m4"),
        ("/some-where/recording.wav", None),
    ],
)
def test_the_default_pattern_finds_speakers_of_an4_and_the_synthetic_corpus(audio, speaker):
    (row,) = analyse([Transcript(audio, "A", "A")], speaker=SPEAKER)["speakers"]
    assert row["speaker"] == speaker


def test_another_pattern_finds_other_speakers():
    given = [Transcript(f"LibriSpeech/test/{name}.flac", "A", "A") for name in ("84/121/84-121-0", "84/122/84-122-0")]
    (row,) = analyse(given, speaker=re.compile(r"/(\d+)-\d+-\d+\.flac"))["speakers"]
    assert (row["speaker"], row["utterances"]) == ("84", 2)


def test_lengths_are_quarters_of_the_set_and_equal_lengths_stay_together():
    given = [Transcript("x", " ".join("A" * size), " ".join("A" * (size - 1))) for size in (1, 2, 3, 4, 5, 6, 7, 8)]
    rows = analyse(given, speaker=SPEAKER)["lengths"]
    assert [(row["fewest"], row["most"], row["utterances"], row["errors"]) for row in rows] == [
        *((1, 2, 2, 2), (3, 4, 2, 2), (5, 6, 2, 2), (7, 8, 2, 2))
    ]
    rows = analyse(given[:1] + given[4:5] * 7, speaker=SPEAKER)["lengths"]
    assert [(row["fewest"], row["most"], row["utterances"]) for row in rows] == [(1, 5, 8)]


def test_empty_and_truncated_transcripts_are_listed():
    found = analyse([*SET, Transcript("silence.wav", "", "")], speaker=SPEAKER)
    assert found["empty"] == ["wav/an5-mtje-b.wav"]
    assert found["truncated"] == ["wav/an4-mtje-b.wav"]
    half = [Transcript("half.wav", "AB CD", "A B"), Transcript("less.wav", "AB CD E", "A B")]
    assert analyse(half, speaker=SPEAKER)["truncated"] == ["less.wav"]


def test_the_worst_utterances_come_first_with_their_alignments():
    wrong = analyse(SET, speaker=SPEAKER)["wrong"]
    assert [row["audio"].split("-")[0] for row in wrong] == ["wav/an4", "wav/an2", "wav/an5", "wav/an1", "wav/cen3"]
    assert wrong[1]["alignment"] == [("F", None), ("THREE", "THREE"), (None, "NINE")]
    assert analyse([Transcript("x", "A  B", "A B")], speaker=SPEAKER)["wrong"] == []


@settings(deadline=None)
@given(SETS)
def test_every_table_adds_up_to_the_errors_that_evaluation_counts(transcripts):
    total = sum((count_errors(each.reference, each.transcript) for each in transcripts), ErrorCounts())
    found = json.loads(json.dumps(analyse(transcripts, speaker=SPEAKER), allow_nan=False))
    counts = found["counts"]
    assert (counts["words"]["said"], counts["words"]["errors"]) == (total.words, total.word_errors)
    assert (counts["characters"]["said"], counts["characters"]["errors"]) == (total.chars, total.char_errors)
    for key, column in (("words", "wrong"), ("confusions", "count"), ("wrong", "errors")):
        assert sum(row[column] for row in found[key]) == total.word_errors, key
    for key in ("speakers", "lengths"):
        assert sum(row["errors"] for row in found[key]) == total.word_errors, key
        assert sum(row["utterances"] for row in found[key]) == len(transcripts) == found["utterances"], key
    for key in ("words", "speakers", "lengths", "classes"):
        assert sum(row["said"] for row in found[key]) == total.words, key
    for row in found["e_set"]:
        heard = sum(row["heard_as"].values()) + row["other_letters"] + row["other_words"] + row["missed"]
        assert heard == row["said"]
    assert sum(row["count"] for row in found["character_confusions"]) == total.char_errors
    if total.words:
        assert counts["words"]["rate"] == round(total.wer, 4)


def printed(transcripts, *, width, rows=15, worst=10):
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False, soft_wrap=True)
    show(analyse(transcripts, speaker=SPEAKER), console, rows=rows, worst=worst)
    return text.getvalue()


def test_an_alignment_stands_word_under_word_with_its_errors_marked():
    lines = printed([Transcript("an1-fash-b.wav", "F THREE ONE", "THREE NINE ONES")], width=80).splitlines()
    start = lines.index("an1-fash-b.wav: 3 errors, 3 words")
    assert lines[start + 1 : start + 4] == [
        "  REF   F THREE      ONE",
        "  HYP     THREE NINE ONES",
        "        D       I    S",
    ]


def test_a_long_alignment_is_wrapped_between_words():
    words = [f"WORD{index}" for index in range(30)]
    lines = printed([Transcript("x", " ".join(words), " ".join(words[1:]))], width=60).splitlines()
    parts = [line.removeprefix("  REF   ") for line in lines if line.startswith("  REF   ")]
    assert len(parts) > 3
    assert " ".join(parts).split() == words


@settings(max_examples=20, deadline=None)  # rich is slow
@given(SETS, st.sampled_from([80, 120]))
def test_every_set_can_be_printed_and_no_line_is_wider_than_the_terminal(transcripts, width):
    assert max(map(len, printed(transcripts, width=width).splitlines())) <= width


def test_rows_and_worst_limit_the_tables():
    assert "Words with most errors: 2 of 7" in printed(SET, width=80, rows=2)
    assert printed(SET, width=80, worst=2).count(" errors, ") == 2


def test_tables_fit_80_columns_and_keep_their_numbers_whole():
    name, word = "f" * 70, "W" * 60
    said = [Transcript(f"wav/an{index}-{name}{index}-b.wav", f"B {word}{index} TWO", f"{word} D") for index in range(9)]
    found = analyse(said, speaker=SPEAKER)
    million = {"said": 1_234_567, "hits": 1_134_567, "substitutions": 99_999, "deletions": 99_999, "insertions": 99_999}
    found["counts"] = {kind: million | {"errors": 234_567, "rate": 123.456} for kind in ("words", "characters")}
    found["classes"] = [row | {"said": 1_234_567, "mistaken": 99_999} for row in found["classes"]]
    found["e_set"] = [row | {"said": 123_456} for row in found["e_set"]]
    found["speakers"] = [row | {"said": 1_234_567, "utterances": 123_456} for row in found["speakers"]]
    console = Console(file=io.StringIO(), width=80, soft_wrap=True)
    for table in error_tables.tables(found, rows=15):
        console.print(table, soft_wrap=False)
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= 80, printed
    for number in ("1,234,567", "1,134,567", "99,999", "234,567", "123.456", "123456", "123,456"):
        assert re.search(rf"(?<!\S){number}(?!\S)", printed), (number, printed)


def test_errors_of_chinese_are_counted_and_aligned_by_characters():
    found = analyse([Transcript("a/x.wav", "打开客厅的灯", "打开卧室的灯")], speaker=re.compile("(a)"))
    assert found["counts"]["words"] == found["counts"]["characters"]
    assert (found["counts"]["words"]["said"], found["counts"]["words"]["errors"]) == (6, 2)
    assert [row["said"] for row in found["classes"]] == [0, 0, 6]  # no letters among them
    printed = io.StringIO()
    error_tables.show(found, Console(file=printed, width=80), rows=5, worst=1)
    reference, transcript, marks = printed.getvalue().rstrip().splitlines()[-3:]
    assert "打 开 客 厅 的 灯" in reference
    assert "打 开 卧 室 的 灯" in transcript
    assert cells.cell_len(reference[: reference.index("客")]) == len(marks) - len(marks.lstrip())
