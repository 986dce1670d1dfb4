"""Tests of reading, checking and writing manifests."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.config import Config, DataConfig
from ds2f.data import manifests
from ds2f.data.manifests import Utterance
from ds2f.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """wav/ and txt/ with three utterances of 0.1, 0.2 and 0.3 seconds."""
    for kind in ("wav", "txt"):
        (tmp_path / kind).mkdir()
    for index, words in enumerate(["YES", "GO ON", "STOP"], start=1):
        soundfile.write(tmp_path / "wav" / f"{index}.wav", np.ones(1600 * index) / 2, 16000)
        (tmp_path / "txt" / f"{index}.txt").write_text(words + "\n")
    return tmp_path


def expected(folder: Path, *indices: int) -> list[Utterance]:
    words = {1: "YES", 2: "GO ON", 3: "STOP"}
    return [
        Utterance(place, folder / "wav" / f"{index}.wav", words[index], index / 10)
        for place, index in enumerate(indices)
    ]


def write(folder: Path, content: str | bytes, name: str = "m.csv") -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def test_paths_count_from_the_manifests_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir("/")
    path = write(folder, "wav/2.wav,txt/2.txt\nwav/1.wav,txt/1.txt\n")
    assert manifests.read(path) == expected(folder, 2, 1)
    assert manifests.read(str(path)) == expected(folder, 2, 1)


def test_absolute_paths_are_taken_as_they_are(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    path = write(tmp_path_factory.mktemp("elsewhere"), f"{folder}/wav/3.wav,{folder}/txt/3.txt\n")
    assert manifests.read(path) == expected(folder, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"wav/1.wav,txt/1.txt\r\nwav/2.wav,txt/2.txt\r\n",
        b"\xef\xbb\xbfwav/1.wav,txt/1.txt\nwav/2.wav,txt/2.txt",
        b"\nwav/1.wav, txt/1.txt \n\n\nwav/2.wav,txt/2.txt\n\n",
        b'"wav/1.wav","txt/1.txt"\nwav/2.wav,txt/2.txt\n',
    ],
    ids=["windows line ends", "byte-order mark", "blank lines and spaces", "quotes"],
)
def test_other_editors_ways_to_save_a_file_make_no_difference(folder: Path, content: bytes):
    assert manifests.read(write(folder, content)) == expected(folder, 1, 2)


def test_json_of_version_3_and_folders_read_like_csv(folder: Path):
    samples = [{"wav_path": f"wav/{index}.wav", "transcript_path": f"txt/{index}.txt"} for index in (1, 2, 3)]
    for root in (str(folder), ".", None):
        path = write(folder, json.dumps({"root_path": root, "samples": samples}), "m.json")
        assert manifests.read(path) == expected(folder, 1, 2, 3)
    assert manifests.read(folder) == expected(folder, 1, 2, 3)


def test_recordings_in_subfolders_have_their_transcripts_in_the_same(folder: Path, caplog: pytest.LogCaptureFixture):
    for kind, name in (("wav", "2.wav"), ("txt", "2.txt")):
        (folder / kind / "ann" / "b.c").mkdir(parents=True)
        (folder / kind / name).rename(folder / kind / "ann" / "b.c" / name)
    (folder / "txt" / "ann" / "1.txt").write_text("NOBODY SAYS THIS")
    found = manifests.read(folder)
    assert [utterance.audio.name for utterance in found] == ["1.wav", "3.wav", "2.wav"]
    assert [utterance.transcript for utterance in found] == [
        each.transcript for each in (*expected(folder, 1), *expected(folder, 3))
    ] + ["GO ON"]
    assert "1 transcript(s) without a recording" in caplog.text


def test_transcripts_lose_marks_and_line_ends_only(folder: Path):
    (folder / "txt" / "1.txt").write_bytes("\ufeffCAFÉ  AU\r\nLAIT \r\n".encode())
    assert manifests.read(write(folder, "wav/1.wav,txt/1.txt"))[0].transcript == "CAFÉ AU LAIT"


def test_repeated_rows_are_dropped_and_counted_once(folder: Path, caplog: pytest.LogCaptureFixture):
    path = write(folder, "wav/1.wav,txt/1.txt\n" * 3 + "wav/2.wav,txt/2.txt\n" + "wav/1.wav,txt/1.txt\n")
    with caplog.at_level(logging.WARNING):
        assert manifests.read(path) == expected(folder, 1, 2)
    assert [record.getMessage() for record in caplog.records] == [f"{path}: 3 repeated row(s) dropped"]


def test_empty_transcripts_and_unspoken_texts_are_counted(folder: Path, caplog: pytest.LogCaptureFixture):
    (folder / "txt" / "1.txt").write_text("\n")
    (folder / "txt" / "9.txt").write_text("NOBODY SAYS THIS")
    assert [utterance.transcript for utterance in manifests.read(folder)] == ["", "GO ON", "STOP"]
    assert "1 transcript(s) without a recording" in caplog.text
    assert "1 transcript(s) are empty" in caplog.text


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(InputError, match=r"an4_train_manifest\.csv: no such manifest.*launch\.prepare"):
        manifests.read(tmp_path / "an4_train_manifest.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"", r"m\.csv: the manifest names no recordings"),
        ("m.csv", b"\n\n", r"m\.csv: the manifest names no recordings"),
        ("m.csv", b"wav/1.wav,txt/1.txt\nwav/2.wav\n", r"m\.csv:2: 1 column\(s\).*a comma"),
        ("m.csv", b"wav/1.wav,txt/1.txt,1.5\n", r"m\.csv:1: 3 column\(s\)"),
        ("m.csv", b"wav/1.wav,\n", r"m\.csv:1: "),
        ("m.csv", b'wav/1.wav,txt/1.txt\n"wav/2.wav,txt/2.txt\n', r"m\.csv:\d: .*quotes"),
        ("m.csv", b"wav/\xff.wav,txt/1.txt\n", r"m\.csv:1: .*not UTF-8; save the manifest as UTF-8"),
        ("m.json", b'{"samples": [}', r"m\.json:1: not JSON"),
        ("m.json", b'[{"wav_path": "a"}]', r"m\.json: no field of transcripts .* among wav_path"),
        ("m.json", b'{"samples": {}}', r'm\.json: no list "samples"'),
        ("m.json", b'{"samples": [{"wav_path": "wav/1.wav"}]}', r"m\.json: no field of transcripts .* among wav_path"),
        ("m.json", b'{"root_path": ".", "samples": []}', "names no recordings"),
    ],
)
def test_a_malformed_manifest_is_an_error_that_names_the_line(folder: Path, name: str, content: bytes, message: str):
    with pytest.raises(InputError, match=message):
        manifests.read(write(folder, content, name))


def test_all_unusable_files_are_found_up_front_and_the_first_are_listed(folder: Path):
    (folder / "txt" / "2.txt").write_bytes(b"\xff\xfe")
    (folder / "wav" / "3.wav").write_bytes(b"")
    rows = ["wav/2.wav,txt/2.txt", "wav/3.wav,txt/3.txt", "wav/1.wav,txt/none.txt", "wav/1.wav,txt/1.txt"]
    rows += [f"wav/gone{index}.wav,txt/1.txt" for index in range(10)]
    path = write(folder, "\n".join(rows))
    with pytest.raises(InputError) as caught:
        manifests.read(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 13 of 14 rows cannot be used:"
    assert f"{path}:1: {folder}/txt/2.txt: byte 0 is not UTF-8" in lines[1]
    assert f"{path}:2: {folder}/wav/3.wav: the file is empty" in lines[2]
    assert f"{path}:3: {folder}/txt/none.txt: No such file" in lines[3]
    assert f"{path}:5: {folder}/wav/gone0.wav: No such file" in lines[4]
    assert lines[7] == "  ... and 7 more of this kind (10 in all)"
    assert lines[8] == "  to go on without these rows: --data.max_unusable=13"
    listed = Path(lines[9].removeprefix("  the whole list: ")).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 10
    assert len(listed) == 13
    assert all(f"gone{index}.wav" in listed[3 + index] for index in range(10))


def test_rows_that_cannot_be_used_are_left_out_up_to_the_limit(folder: Path, caplog: pytest.LogCaptureFixture):
    (folder / "wav" / "2.wav").write_bytes(b"")
    (folder / "txt" / "3.txt").write_bytes(b"\xff")
    path = write(folder, "wav/1.wav,txt/1.txt\nwav/2.wav,txt/2.txt\nwav/3.wav,txt/3.txt\n")
    assert manifests.read(path, cfg=DataConfig(max_unusable=2)) == expected(folder, 1)
    assert "2 utterance(s) left out" in caplog.text
    with pytest.raises(InputError, match="2 of 3 rows cannot be used"):
        manifests.read(path, cfg=DataConfig(max_unusable=1))


def test_a_quick_check_lists_what_is_wrong_with_the_rows_of_all_manifests(folder: Path):
    write(folder, "wav/1.wav,txt/1.txt\nwav/2.wav\n", "train.csv")
    write(folder, "{", "val.json")
    cfg = Config(data=DataConfig(train_manifest=f"{folder}/train.csv", val_manifest=f"{folder}/val.json"))
    with pytest.raises(InputError) as caught:
        manifests.require(cfg, ("train", "val", "test"))
    message = str(caught.value)
    assert "val.json:1: not JSON" in message
    assert "no test manifest lies beside it (tried test.csv, eval.csv" in message
    assert "1 of 2 rows cannot be used" in message
    write(folder, "wav/gone.wav,txt/1.txt\n", "train.csv")
    manifests.require(cfg, ("train",))  # files are looked at later


def test_a_folder_without_recordings_or_transcripts_is_an_error(folder: Path):
    with pytest.raises(InputError, match=r"must contain wav/ and txt/"):
        manifests.read(folder / "wav")
    (folder / "txt" / "2.txt").unlink()
    with pytest.raises(InputError, match=r"1 of 3 rows cannot be used"):
        manifests.read(folder)


def test_what_is_written_is_read_back_also_after_a_move(folder: Path):
    rows = [(folder / "wav" / f"{index}.wav", folder / "txt" / f"{index}.txt") for index in (3, 1)]
    manifests.write(folder / "m.csv", rows)
    assert (folder / "m.csv").read_text() == "wav/3.wav,txt/3.txt\nwav/1.wav,txt/1.txt\n"
    moved = folder.rename(folder.with_name("moved"))
    assert manifests.read(moved / "m.csv") == expected(moved, 3, 1)


@pytest.mark.parametrize(
    "name",
    [
        "a, b",
        'a "quote"',
        "line\u2028separator",
        "line\nbreak",
        "car\rriage",
        "form\x0cfeed",
        " spaces ",
        "~",
        "audio",
        "a.wav;b, c.wav",
    ]
    + ["~root", "\ufeffmark", "caf\udce9"],
    ids=ascii,
)
def test_what_is_written_is_read_back_as_written(folder: Path, name: str):
    (folder / "wav" / "1.wav").rename(folder / name)
    (folder / "txt" / "1.txt").rename(folder / f"{name}.t")
    manifests.write(folder / "m.csv", [(folder / name, folder / f"{name}.t")])
    assert manifests.read(folder / "m.csv") == [Utterance(0, folder / name, "YES", 0.1)]


def test_paths_with_commas_and_outside_the_folder_survive(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    (folder / "wav" / "1.wav").rename(folder / "wav" / "a, b.wav")
    path = tmp_path_factory.mktemp("elsewhere") / "m.csv"
    manifests.write(path, [(folder / "wav" / "a, b.wav", folder / "txt" / "1.txt")])
    assert [utterance.audio for utterance in manifests.read(path)] == [folder / "wav" / "a, b.wav"]


def test_an_interrupted_write_leaves_the_old_manifest(folder: Path):
    path = write(folder, "wav/1.wav,txt/1.txt\n")

    def interrupted():
        yield folder / "wav" / "2.wav", folder / "txt" / "2.txt"
        raise KeyboardInterrupt

    before = sorted(folder.iterdir())
    with pytest.raises(KeyboardInterrupt):
        manifests.write(path, interrupted())
    assert manifests.read(path) == expected(folder, 1)
    assert sorted(folder.iterdir()) == before
