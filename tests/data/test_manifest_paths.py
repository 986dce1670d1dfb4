"""Tests of where manifests are looked for: named ones never mix with another corpus."""

from pathlib import Path

import pytest

from ds2f.config import Config, DataConfig
from ds2f.data.manifest_paths import manifest_path
from ds2f.errors import InputError


def config(**data: str) -> Config:
    return Config(data_path="data", data=DataConfig(**data))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose ``data`` holds AN4."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val", "test"):
        touch(f"data/an4_{split}_manifest.csv")
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def test_manifests_default_to_those_of_the_corpus() -> None:
    assert [str(manifest_path(config(), split)) for split in ("train", "val")] == [
        "data/an4_train_manifest.csv",
        "data/an4_val_manifest.csv",
    ]
    assert str(manifest_path(config(dataset="synthetic"), "test")) == "data/synthetic_test_manifest.csv"


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("data/mine/train.csv", "data/mine/val.csv", "data/mine/test.csv"),
        ("mine/train.tsv", "mine/dev.tsv", "mine/test.tsv"),
        ("mine/en_Train_v2.json", "mine/en_Valid_v2.json", "mine/en_Test_v2.json"),
        ("train/manifest.json", "validation/manifest.json", "test/manifest.json"),
        ("data/my_train_manifest.csv", "data/my_val_manifest.csv", "data/my_test_manifest.csv"),
        ("kaldi/data/tr05_real/x", "kaldi/data/dt05_real/x", "kaldi/data/et05_real/x"),
        ("mine/TRAIN/wav.scp", "mine/DEV/wav.scp", "mine/TEST/wav.scp"),
    ],
)
def test_the_others_come_from_beside_the_named_one(train: str, val: str, test: str) -> None:
    touch(train, val, test)
    for named, path in (("train", train), ("test", test)):
        cfg = config(**{f"{named}_manifest": path})
        found = [str(manifest_path(cfg, split)) for split in ("train", "val", "test")]
        assert found == [train, val, test]


@pytest.mark.parametrize("train", ["data/train.csv", "data/mine.csv", "data/mine/train.csv", "/elsewhere/all.json"])
def test_another_corpus_in_the_folder_is_never_mixed_in(train: str) -> None:
    cfg = config(train_manifest=train)
    for split, remedy in (("val", "--data.val_manifest"), ("test", "--notraining.evaluate_test")):
        with pytest.raises(InputError) as caught:
            manifest_path(cfg, split)
        message = str(caught.value)
        assert message.startswith(f"--data.train_manifest={train} is named, and no {split} manifest lies beside it")
        assert f"name it with --data.{split}_manifest" in message
        assert remedy in message


def test_a_corpus_that_is_named_as_well_completes_a_manifest_beside_it() -> None:
    cfg = config(dataset="an4", train_manifest="data/an4_spliced")
    assert str(manifest_path(cfg, "val")) == "data/an4_val_manifest.csv"
    with pytest.raises(InputError, match=r"tried an4_val_manifest\.csv"):
        manifest_path(config(dataset="an4", train_manifest="elsewhere/spliced"), "val")


def test_words_within_words_are_no_splits() -> None:
    touch("strain.csv", "sval.csv", "data/constraints/all.csv")
    with pytest.raises(InputError, match="no val manifest"):
        manifest_path(config(train_manifest="strain.csv"), "val")
