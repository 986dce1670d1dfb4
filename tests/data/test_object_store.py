"""Manifests and tar shards in a bucket: the same utterances and batches as on the disk."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ds2f.config import Config, DataConfig, ModelConfig, resolve
from ds2f.data import audio, manifests, object_store, shard_writing, shards, split_index
from ds2f.errors import InputError
from ds2f.runner import data_record
from ds2f.runner.splits import Split

RATE = 16000
COUNT = 6


@pytest.fixture
def local(tmp_path) -> Path:
    """The manifest of shards on the disk."""
    noise = np.random.default_rng(0)
    rows = []
    for row in range(COUNT):
        soundfile.write(tmp_path / f"{row}.flac", 0.2 * noise.standard_normal(4000 + 900 * row), RATE)
        rows.append(json.dumps({"audio_filepath": f"{row}.flac", "text": "A CAB "[: 1 + row % 5]}) + "\n")
    (tmp_path / "all.jsonl").write_text("".join(rows))
    return shard_writing.write(manifests.read(tmp_path / "all.jsonl"), tmp_path / "shards", most_bytes=20_000).manifest


@pytest.fixture
def bucket(local) -> str:
    """The address of a copy in memory."""
    fsspec = pytest.importorskip("fsspec")
    address = f"memory://{uuid.uuid4().hex}/corpus"
    files = fsspec.filesystem("memory")
    for path in local.parent.iterdir():
        files.pipe_file(f"{address}/{path.name}", path.read_bytes())
    return address


def config(manifest: Path | str, folder: Path, **how) -> Config:
    data = DataConfig(**{"train_manifest": str(manifest), "batch_size": 2, "num_workers": 0} | how)
    return resolve(Config(data_path=str(folder), data=data, model=ModelConfig(labels=tuple("_ABC "))))


def batches(manifest: Path | str, folder: Path, **how) -> list:
    cfg = config(manifest, folder, **how)
    loader = Split.read("train", cfg, train=True).load(cfg, start_method="fork")
    found = list(loader.epoch(1, start=1))
    loader.close()
    return found


def require_same(address: str, local: Path, folder: Path, **how) -> None:
    """Compares rows, batches and record from a bucket with those from the disk."""
    ours, theirs = manifests.read(f"{address}/train.jsonl"), manifests.read(local)
    assert [each._replace(audio="") for each in ours] == [each._replace(audio="") for each in theirs]
    plain = batches(local, folder / "one", cache_features=False)
    for cached in (False, True, True):
        found = batches(f"{address}/train.jsonl", folder / "two", cache_features=cached, **how)
        for one, other in zip(found, plain, strict=True):
            assert all(map(torch.equal, one, other))
    records = []
    for manifest in (f"{address}/train.jsonl", local):
        cfg = config(manifest, folder)
        records.append(data_record.take({"train": Split.read("train", cfg)}, cfg).digests())
    assert records[0] == records[1], "a run may go on with a copy in a bucket"


def test_a_bucket_has_the_batches_of_the_disk(bucket, local, tmp_path):
    require_same(bucket, local, tmp_path)


def test_an_index_of_a_manifest_in_a_bucket_follows_its_version(bucket, local, tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(split_index, "_SMALLEST", 0)
    cfg = config(f"{bucket}/train.jsonl", tmp_path)
    plain = list(Split.read("train", cfg).utterances)
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "require_rows", lambda *_: pytest.fail("the manifest was read"))
        assert list(Split.read("train", cfg).utterances) == plain
    lines = local.read_text().splitlines(keepends=True)
    fsspec.filesystem("memory").pipe_file(f"{bucket}/train.jsonl", "".join(lines[1:]).encode())
    assert [each.transcript for each in Split.read("train", cfg).utterances] == [each.transcript for each in plain[1:]]


def test_a_shard_in_a_bucket_is_a_manifest_too(bucket, local):
    found = manifests.read(f"{bucket}/train-000000.tar")
    assert [each.transcript for each in found] == [each.transcript for each in manifests.read(local)][: len(found)]


def test_one_request_reads_a_recording(bucket, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = type(fsspec.filesystem("memory"))
    path = manifests.read(f"{bucket}/train.jsonl")[1].audio
    asked, cat_file = [], memory.cat_file
    monkeypatch.setattr(memory, "cat_file", lambda self, *a, **k: asked.append(k) or cat_file(self, *a, **k))
    audio.load(path)
    member = shards.member(path)
    assert asked == [{"start": member.offset - 512, "end": member.offset + member.size}]


def test_what_is_not_there_is_told_with_its_address(bucket, tmp_path):
    for name in ("none.jsonl", "none.tar"):
        with pytest.raises(InputError, match=rf"{bucket}/{name}: no such file"):
            manifests.read(f"{bucket}/{name}")
    with pytest.raises(InputError, match=r"none\.tar: no such file"):
        audio.load(Path(f"{bucket}/none.tar/512+9+a.flac"))


def test_the_limit_of_a_manifest_holds_in_a_bucket(bucket):
    with pytest.raises(InputError, match=r"more than 100 bytes.*max_manifest_bytes"):
        manifests.read(f"{bucket}/train.jsonl", cfg=DataConfig(max_manifest_bytes=100))


def test_a_manifest_on_the_disk_reaches_no_bucket(bucket, tmp_path):
    row = {"audio_filepath": f"{bucket}/train-000000.tar/512+9+a.flac", "text": "A", "duration": 1.0}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="No such file"):
        audio.load(manifests.read(tmp_path / "m.jsonl")[0].audio)


def test_a_package_that_is_missing_is_named(monkeypatch):
    fsspec = pytest.importorskip("fsspec")

    def missing(*_):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(InputError, match=r"s3://b/m\.jsonl: the package s3fs is not installed; pip install"):
        object_store.opened(Path("s3://b/m.jsonl"))


@pytest.mark.long
def test_an_object_store_over_http_has_the_batches_of_the_disk(local, tmp_path, monkeypatch):
    for package in ("moto", "s3fs"):
        pytest.importorskip(package)
    port = 5000 + os.getpid() % 20000
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }.items():
            monkeypatch.setenv(name, value)
        import s3fs

        files = s3fs.S3FileSystem()
        for _ in range(100):
            try:
                files.mkdir("corpus")
                break
            except OSError:  # s3fs: no endpoint yet
                time.sleep(0.3)
        for path in local.parent.iterdir():
            files.pipe_file(f"s3://corpus/a/{path.name}", path.read_bytes())
        require_same("s3://corpus/a", local, tmp_path, num_workers=1)
        with pytest.raises(InputError, match="no such file"):
            manifests.read("s3://corpus/a/none.jsonl")
    finally:
        server.kill()
        server.wait()
