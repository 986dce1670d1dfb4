"""A folder's digests tell every change of every file, and name the file."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import ClassVar

import pytest
from etils import epath
from etils.epath.backend import fsspec_backend
from fsspec.implementations.memory import MemoryFileSystem

from ds2f.checkpoint import integrity


def fill(folder):
    (folder / "state" / "d").mkdir(parents=True)
    (folder / "state" / "d" / "large").write_bytes(bytes(range(256)) * 40)
    (folder / "state" / "small").write_bytes(b"x")
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "_PART", 1000)  # so that the large file is digested in several parts
    folder = fill(epath.Path(tmp_path) / "12")
    integrity.write(folder)
    return folder


def files(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def test_a_folder_as_it_was_written_has_no_fault(written):
    assert integrity.finished(written)
    assert integrity.fault(written) is None


def test_the_digests_are_sha_256_of_the_parts(written):
    listed = json.loads((written / integrity.FILE).read_text())["files"]
    assert set(listed) == {"state/d/large", "state/small", "empty"}
    content = bytes(range(256)) * 40
    parts = [hashlib.sha256(content[start : start + 1000]).hexdigest() for start in range(0, len(content), 1000)]
    assert listed["state/d/large"] == [len(content), parts]
    assert listed["state/small"] == [1, [hashlib.sha256(b"x").hexdigest()]]
    assert listed["empty"] == [0, []]


def test_flipping_any_bit_of_any_file_is_found_and_named(written):
    for path in files(written):
        content = path.read_bytes()
        places = range(len(content)) if path.name == integrity.FILE else range(0, len(content), 997)
        for place in places:
            flipped = bytearray(content)
            flipped[place] ^= 1 << place % 8
            path.write_bytes(bytes(flipped))
            fault = integrity.fault(written)
            assert fault is not None, f"{path}, byte {place}"
            assert str(path) in fault
        path.write_bytes(content)
    assert integrity.fault(written) is None


@pytest.mark.parametrize("length", [0, 0.5, 1.5])
def test_a_file_of_another_length_is_found_and_named(written, length):
    for path in files(written):
        content = path.read_bytes()
        changed = (content * 2)[: int(len(content) * length)] if content else b"\0"
        path.write_bytes(changed)
        if changed != content:
            assert str(path) in integrity.fault(written)
        path.write_bytes(content)


def test_a_missing_and_a_foreign_file_are_found_and_named(written):
    for path in files(written):
        content = path.read_bytes()
        path.unlink()
        assert str(path) in integrity.fault(written)
        path.write_bytes(content)
    foreign = written / "state" / "d" / "foreign"
    foreign.write_bytes(b"")
    assert str(foreign) in integrity.fault(written)


def test_a_folder_that_is_not_there_is_a_fault_and_no_error(tmp_path):
    assert integrity.FILE in integrity.fault(epath.Path(tmp_path) / "nothing")
    assert not integrity.finished(epath.Path(tmp_path) / "nothing")


def test_only_the_named_files_are_looked_at_when_some_are_named(written):
    (written / "state" / "small").write_bytes(b"y")
    assert integrity.fault(written, only=["state/d/large"]) is None
    assert "small" in integrity.fault(written, only=["state/small"])


def test_a_file_that_cannot_be_read_is_an_error_and_no_fault(written, monkeypatch):
    def fails(path, *, start):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(integrity, "_sha256", fails)
    with pytest.raises(OSError, match="Input/output error"):
        integrity.fault(written)


def test_digests_are_written_after_the_files_are_on_the_disk(tmp_path, monkeypatch):
    order = []
    fsync = os.fsync

    def spy(descriptor):
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    folder = fill(epath.Path(tmp_path) / "12")
    names = {Path(path) for path in files(folder)}
    monkeypatch.setattr(os, "fsync", spy)
    integrity.write(folder)
    assert set(order[: len(names)]) == names
    temporary, *after = order[len(names) :]
    assert (temporary.parent, integrity.FILE in temporary.name) == (Path(folder), True)
    assert after == [Path(folder), Path(folder.parent)]
    assert not temporary.exists()


class Bucket(MemoryFileSystem):
    """A bucket in memory: what lies under gs://."""

    protocol = ("gs",)
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]


def test_a_folder_in_a_bucket_is_treated_alike(monkeypatch):
    monkeypatch.setattr(type(fsspec_backend), "fs", lambda *_: Bucket())
    folder = epath.Path("gs://bucket/run/12")
    fill(folder)
    integrity.write(folder)
    assert integrity.fault(folder) is None
    (folder / "state" / "small").write_bytes(b"y")
    assert "gs://bucket/run/12/state/small: its bytes" in integrity.fault(folder)
    (folder / "state" / "small").unlink()
    assert "gs://bucket/run/12/state/small: missing" in integrity.fault(folder)
