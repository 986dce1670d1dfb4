"""Tests of manifests in JSON: a row per line, lists, parts of recordings."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.data import manifests
from ds2f.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in (1, 2):
        soundfile.write(tmp_path / f"{index}.wav", np.ones(16000 * index) / 2, 16000)
    return tmp_path


ROWS = [
    {"audio_filepath": "1.wav", "text": "Hello there", "duration": 1.0, "speaker": "ann", "lang": None},
    {"audio_filepath": "2.wav", "text": "Well, no", "duration": 1.99, "offset": 0},
]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.json", lines(ROWS)),
        ("m.jsonl", lines(ROWS)),
        ("m.manifest", lines(ROWS)),
        ("m.json", "\n" + lines(ROWS).replace("\n", "\r\n\r\n")),
        ("m.json", json.dumps(ROWS, indent=2)),
        ("m.json", json.dumps({"samples": ROWS})),
    ],
)
def test_nemos_fields_are_read_by_line_and_in_a_list(folder: Path, name: str, content: str):
    (folder / name).write_text(content)
    assert [(each.audio.name, each.transcript) for each in manifests.read(folder / name)] == [
        ("1.wav", "Hello there"),
        ("2.wav", "Well, no"),
    ]


def test_speakers_and_languages_are_kept(folder: Path):
    rows = [ROWS[0] | {"lang": "de"}, ROWS[1] | {"client_id": 7, "locale": "en"}]
    (folder / "m.jsonl").write_text(lines(rows))
    assert [(each.speaker, each.lang) for each in manifests.read(folder / "m.jsonl")] == [("ann", "de"), ("7", "en")]


def test_a_single_line_is_a_manifest(folder: Path):
    (folder / "m.json").write_text(lines(ROWS[:1]))
    assert len(manifests.read(folder / "m.json")) == 1


def test_a_broken_line_is_a_problem_of_its_own(folder: Path):
    (folder / "m.jsonl").write_text(lines(ROWS[:1]) + '{"audio_filepath": \n' + '{"text": "no recording"}\n' + "7\n")
    with pytest.raises(InputError) as caught:
        manifests.read(folder / "m.jsonl")
    message = str(caught.value)
    assert "3 of 4 rows cannot be used" in message
    assert "m.jsonl:2: not JSON" in message
    assert "m.jsonl:3: needs a recording" in message
    assert "m.jsonl:4: needs a recording" in message


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"plik": "1.wav", "tekst": "tak"}, {"Plik": "2.wav", "mówca": "a"}],
            "no field of recordings (call it 'audio_filepath') and no field of transcripts (call it 'text') among "
            "plik, tekst, mówca",
        ),
        ([{"wav": "1.wav", "κείμενο": "ζω"}], "no field of transcripts (call it 'text') among wav, κείμενο"),
        ([{"ses": "1.wav", "Text": "evet"}], "no field of recordings (call it 'audio_filepath') among ses, text"),
    ],
)
@pytest.mark.parametrize("name", ["m.jsonl", "m.json"])
def test_fields_in_other_words_are_told_of_once_with_their_names(folder: Path, rows: list[dict], message: str, name):
    (folder / name).write_text(lines(rows) if name == "m.jsonl" else json.dumps(rows), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        manifests.read(folder / name)
    advice = "; launch.prepare takes other names, as in --columns=audio=path,text=sentence"
    assert str(caught.value) == f"{folder}/{name}: {message}{advice}"


@pytest.mark.parametrize(
    ("part", "start", "duration"),
    [
        ({"offset": 0.5, "duration": 0.5}, 0.5, 0.5),
        ({"offset": 1.0}, 1.0, 1.0),
        ({"duration": 0.4}, 0.0, 0.4),
        ({"start": 1, "end": 2}, 1.0, 1.0),
        ({"offset": 0, "duration": 1.9}, None, 2.0),  # programs round durations
    ],
)
def test_a_part_of_a_recording_is_never_read_as_the_whole(
    folder: Path, part: dict, start: float | None, duration: float
):
    (folder / "m.json").write_text(lines([{"audio_filepath": "2.wav", "text": "x"} | part]))
    (utterance,) = manifests.read(folder / "m.json")
    assert (utterance.start, utterance.duration) == (start, duration)


def test_an_empty_part_is_a_problem(folder: Path):
    (folder / "m.json").write_text(lines([{"audio_filepath": "2.wav", "text": "x", "offset": 0.5, "duration": 0}]))
    with pytest.raises(InputError, match=r"names an empty part, at 0\.5 s; correct or remove the row"):
        manifests.read(folder / "m.json")


def test_a_recording_that_is_shorter_than_its_row_says_is_a_problem(folder: Path):
    (folder / "m.json").write_text(lines([ROWS[0] | {"duration": 9.5}]))
    with pytest.raises(InputError, match=r"1\.0 s long, the row says 9\.5 s"):
        manifests.read(folder / "m.json")


@pytest.mark.parametrize("value", ["9" * 400, '"x"', "-1", "[1]", '{"a": 1}', "1e999", "true5"])
@pytest.mark.parametrize("field", ["duration", "offset"])
def test_times_that_are_no_numbers_of_seconds_are_problems(folder: Path, field: str, value: str):
    (folder / "m.jsonl").write_text(
        lines(ROWS[:1]) + f'{{"audio_filepath": "1.wav", "text": "x", "{field}": {value}}}\n'
    )
    found: list = []
    assert len(manifests.read(folder / "m.jsonl", found=found)) == 1
    assert [problem.where for problem in found] == [f"{folder}/m.jsonl:2"]
