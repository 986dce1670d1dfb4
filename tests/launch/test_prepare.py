"""Tests of launch.prepare."""

import importlib.util
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.data import manifests
from ds2f.data.corpora.readers import CORPORA
from ds2f.runner import output_lease

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed")
def test_the_synthetic_corpus_is_made_once_and_then_reused(launch, tmp_path: Path):
    for state in ("is ready", "was there already"):
        done = launch(
            "prepare",
            "--dataset=synthetic",
            f"--data_path={tmp_path}",
            "--utterances=4,2,3",
            "--num_workers=2",
            folder=tmp_path,
        )
        assert (done.status, done.err.strip()) == (0, "")
        assert f"synthetic {state}" in done.out
    splits = ("train", "val", "test")
    counts = [len(manifests.read(tmp_path / f"synthetic_{split}_manifest.csv")) for split in splits]
    assert counts == [4, 2, 3]


def test_a_second_preparation_of_a_corpus_at_once_is_told_of_the_first(launch, tmp_path: Path):
    with output_lease.hold(tmp_path, "synthetic", flag="--data_path", what="a preparation"):
        ended = launch("prepare", "--dataset=synthetic", "--utterances=6,3,3", "--data_path=.", folder=tmp_path)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"prepare: . is in use by process {os.getpid()} on ")
    assert "a preparation that has been running" in ended.err
    assert ended.err.endswith("Wait for its end, or give another --data_path.\n")
    assert not any("synthetic" in path.name for path in tmp_path.iterdir())


def test_an4_is_made_from_the_archive_and_reported(launch, tmp_path: Path):
    if not ARCHIVE.is_dir():
        pytest.skip(f"the AN4 archive is not at {ARCHIVE}")
    done = launch("prepare", "--dataset=an4", f"--archive={ARCHIVE}", f"--data_path={tmp_path}", folder=tmp_path)
    assert done.status == 0, done.err
    for fact in ("an4 is ready", "846", "102", "130", "773", "1,922", "genuine"):
        assert fact in done.out


def test_mistakes_end_with_one_message_and_status_1(launch, tmp_path: Path):
    for arguments, message in (
        (["--dataset=an4", f"--archive={tmp_path}/none"], f"prepare: --archive={tmp_path}/none: no such file"),
        (["--dataset=librispeech"], "dataset"),
    ):
        done = launch("prepare", f"--data_path={tmp_path}/data", *arguments, folder=tmp_path)
        assert done.status == 1
        assert message in done.err
        assert "Traceback" not in done.err
    assert not (tmp_path / "data").exists()


@pytest.fixture
def tables(tone_corpus, tmp_path: Path) -> Path:
    """``train.csv`` and ``dev.csv`` with texts in two cases, and marks."""
    for split, name in (("train", "train"), ("val", "dev")):
        rows = [f'{tone_corpus}/{split}{index}.wav,"{text}"\n' for index, text in enumerate(("Ab, ab", "BA\u2019s é"))]
        (tmp_path / f"{name}.csv").write_text("".join(rows), encoding="utf-8")
    return tmp_path


def test_a_file_of_labels_is_made_of_the_transcripts_of_all_named_sets(launch, tables: Path):
    arguments = ("prepare", "--labels=labels.json", "--data.train_manifest=train.csv")
    done = launch(*arguments, folder=tables)
    assert (done.status, done.err) == (0, "")
    assert (tables / "labels.json").read_text(encoding="utf-8") == '["_", " ", "\'", "a", "b", "s", "é"]\n'
    assert "from 4 transcripts of train.csv, dev.csv" in done.out
    assert "no labels: ',' 2" in done.out
    assert "seen fewer than 5 times: " in done.out
    done = launch(*arguments, folder=tables)
    assert done.status == 1
    assert "--labels=labels.json: give a new file" in done.err
    (tables / "labels.json").unlink()
    done = launch("prepare", "--labels=auto", "--data.train_manifest=train.csv", "--language=tr", folder=tables)
    assert "labels.json: 7 labels" in done.out
    assert (tables / "labels.json").exists()
    (tables / "dev.csv").write_text((tables / "dev.csv").read_text().replace("é", "7"))
    done = launch("prepare", "--labels=new.json", *arguments[2:], "--numerals=refuse", folder=tables)
    assert "1 of 4 transcripts have digits, such as 'BA\u2019s 7'" in done.err
    assert not (tables / "new.json").exists()
    done = launch("prepare", "--labels=other.json", folder=tables)
    assert "--labels: name the manifests" in done.err


def test_recordings_of_ones_own_are_divided_and_trained_on(launch, tone_corpus, tmp_path: Path, monkeypatch):
    rows = [f"{tone_corpus}/train{index}.wav\t{tone_corpus}/train{index}.txt\n" for index in range(10)]
    (tmp_path / "all.tsv").write_text("".join(rows))
    done = launch("prepare", "--source=all.tsv", "--output=my speech", folder=tmp_path)
    assert (done.status, done.err.strip()) == (0, "")
    flags = shlex.split(done.out.partition("\nNext:\n  python -m launch.train ")[2].replace("\\\n", ""))
    assert flags[1:] == [
        "--run_dir=runs/my speech",
        "--data_path=my speech",
        "--data.train_manifest=my speech/train.csv",
        "--data.labels_path=my speech/labels.json",
    ]
    flags[0] = f"--flagfile={ROOT}/configs/own.flags"
    small = ("--device=cpu", "--model.hidden_size=4", "--model.hidden_layers=1", "--training.epochs=1")
    done = launch("train", *flags, *small, folder=tmp_path)
    assert done.status == 0, done.err
    assert "manifests: train my speech/train.csv; val my speech/val.csv; test my speech/test.csv" in done.out


def test_a_source_without_a_place_for_its_tables_is_refused(launch, tone_corpus):
    done = launch("prepare", f"--source={tone_corpus}", folder=tone_corpus)
    assert done.status == 1
    assert "--source needs --output=FOLDER" in done.err


def test_a_published_corpus_is_read_where_it_lies_and_trained_on(launch, tone_corpus, tmp_path: Path):
    for part in ("train-clean-100", "dev-clean", "test-clean"):
        chapter = tmp_path / "LibriSpeech" / part / "7" / "1"
        chapter.mkdir(parents=True)
        for index in range(3):
            samples, rate = soundfile.read(tone_corpus / f"train{index}.wav")
            soundfile.write(chapter / f"7-1-000{index}.flac", samples, rate)
        rows = [f"7-1-000{index} {(tone_corpus / f'train{index}.txt').read_text().strip()}\n" for index in range(3)]
        (chapter / "7-1.trans.txt").write_text("".join([*rows, "7-1-0009 LOST\n"]))
    done = launch("prepare", "--dataset=librispeech", "--source=LibriSpeech", folder=tmp_path)
    assert (done.status, done.err.strip()) == (0, "")
    assert "left out: 3 whose recording is missing, such as LibriSpeech/" in " ".join(done.out.split())
    flags = shlex.split(done.out.partition("\nNext:\n  python -m launch.train ")[2].replace("\\\n", ""))
    flags[0] = f"--flagfile={ROOT}/configs/own.flags"
    small = ("--device=cpu", "--model.hidden_size=4", "--model.hidden_layers=1", "--training.epochs=1")
    done = launch("train", *flags, *small, folder=tmp_path)
    assert done.status == 0, done.err
    assert "3 training utterances" in done.out


def test_a_published_corpus_needs_its_folder(launch, tmp_path: Path):
    done = launch("prepare", "--dataset=aishell1", folder=tmp_path)
    assert done.status == 1
    assert "--dataset=aishell1 needs --source=FOLDER" in done.err


def test_the_command_names_every_corpus_that_can_be_read(launch, tmp_path: Path):
    refused = launch("prepare", "--dataset=none", folder=tmp_path).err
    assert f"<{'|'.join(('synthetic', 'an4', *CORPORA, 'folder', 'table'))}>" in "".join(refused.split())


def test_a_table_with_named_columns_becomes_manifests_of_its_dataset(launch, tone_corpus, tmp_path: Path):
    rows = [f"{tone_corpus}/train{index}.wav;TEXT {index};s{index % 4};1" for index in range(10)]
    (tmp_path / "all.csv").write_text("\n".join(["Pfad;Satz;Person;Alter", *rows]))
    columns = "--columns=audio=pfad,text=satz,speaker=person"
    done = launch("prepare", "--dataset=table", "--source=all.csv", columns, folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert "--data.dataset=table" in done.out
    found = [
        each
        for split in ("train", "val", "test")
        for each in manifests.read(tmp_path / f"data/table_{split}_manifest.jsonl")
    ]
    assert {(each.transcript, each.speaker) for each in found} == {(f"TEXT {n}", f"s{n % 4}") for n in range(10)}
    for arguments, message in (
        (["--dataset=folder", "--source=.", columns], "--columns: has no effect on --dataset=folder"),
        (["--dataset=table", "--source=all.csv", "--columns=audio"], "--columns=audio: give MEANING=NAME"),
        (["--dataset=an4", "--source=all.csv"], "--source: has no effect on --dataset=an4"),
        (["--dataset=synthetic", "--max_duration=3"], "--max_duration: has no effect on --dataset=synthetic"),
    ):
        done = launch("prepare", *arguments, folder=tmp_path)
        assert done.status == 1
        assert message in done.err


def test_a_download_names_what_it_needs(launch, tmp_path: Path):
    for dataset, message in (
        ("librispeech", "--download: name parts of librispeech with --subset: dev-clean"),
        ("voxforge", "--download: no address of voxforge is known. Fetch sessions from voxforge.org"),
    ):
        done = launch("prepare", f"--dataset={dataset}", "--download", folder=tmp_path)
        assert (done.status, done.out) == (1, "")
        assert message in done.err
    assert not (tmp_path / "data").exists()


def test_the_table_of_a_corpus_of_an_hour_or_more_has_hours(launch, tmp_path: Path):
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(1_500_000, np.int16), 1000)
    (tmp_path / "all.csv").write_text("".join(f"{number}.wav,TEXT {number}\n" for number in range(3)))
    done = launch("prepare", "--source=all.csv", "--output=mine", folder=tmp_path)
    assert done.status == 0, done.err
    assert "h:mm" in done.out
    assert "minutes" not in done.out
    assert done.out.count("0:25") == 3


def test_invisible_characters_are_no_labels(launch, tables: Path):
    text = (tables / "train.csv").read_text(encoding="utf-8").replace("Ab, ab", "A\u00adb, \u200fab\ufeff\u202e")
    (tables / "train.csv").write_text(text, encoding="utf-8")
    done = launch("prepare", "--labels=labels.json", "--data.train_manifest=train.csv", folder=tables)
    assert (done.status, done.err) == (0, "")
    assert (tables / "labels.json").read_text(encoding="utf-8") == '["_", " ", "\'", "a", "b", "s", "é"]\n'
    assert "'\\u202e' 1" in done.out


def test_pieces_are_listed_apart_from_letters(launch, tables: Path):
    pytest.importorskip("sentencepiece")
    arguments = ("--labels=p.json", "--pieces=8", "--data.train_manifest=train.csv")
    done = launch("prepare", *arguments, folder=tables)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0].endswith("8 labels, the blank _ included: \"_ 'absé\", and 'ab'")
