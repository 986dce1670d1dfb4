"""Tests of launch.prepare."""

import importlib.util
from pathlib import Path

import pytest

from ds2f.data import manifests

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
