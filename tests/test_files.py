"""Atomic writes: whole or not at all, whatever goes wrong, and whoever writes at the same time."""

import json
import os
import threading
from pathlib import Path

import pytest

from ds2f import files
from ds2f.errors import InputError


@pytest.mark.parametrize("content", ["ä\r\nb\n", b"\x00\xff", memoryview(b"\x00\xff")])
def test_what_is_written_is_read_back_to_the_byte(tmp_path, content):
    files.write_atomically(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path, monkeypatch, step):
    path = tmp_path / "results.json"
    files.write_atomically(path, "old")

    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), step, full)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_one_whole_content_while_several_write(tmp_path):
    path = tmp_path / "shared"
    contents = [letter * 100_000 for letter in "abcd"]
    files.write_atomically(path, contents[0])
    writers = [
        threading.Thread(target=lambda text=text: [files.write_atomically(path, text) for _ in range(20)])
        for text in contents
    ]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_text())
    for writer in writers:
        writer.join()
    assert seen <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


def test_the_disk_is_awaited_before_and_after_the_file_takes_its_name_when_asked_for(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync

    def spy(descriptor):
        flushed.append((Path(f"/proc/self/fd/{descriptor}").readlink(), (tmp_path / "a").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    files.write_atomically(tmp_path / "a", "text", fsync=True)
    (temporary, named), (folder, whole) = flushed
    assert (temporary.parent, named, folder, whole) == (tmp_path, False, tmp_path, True)
    flushed.clear()
    files.write_atomically(tmp_path / "a", "text")
    assert flushed == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": float("inf"), "b": [float("nan"), (1.5, -float("inf"))]}, '{"a": null, "b": [null, [1.5, null]]}'),
        ({"name": "caf\udce9"}, '{"name": "caf\\udce9"}'),
        ([True, None, 3, "é"], '[true, null, 3, "é"]'),
    ],
)
def test_json_holds_numbers_and_texts_that_every_program_reads(value, text):
    assert files.json_text(value, ascii_only=False) == text
    text.encode()
    assert json.loads(files.json_text(value)) == json.loads(text, parse_constant=pytest.fail)


def test_a_bounded_read_takes_a_file_up_to_its_limit_through_links_too(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert files.read_bounded(tmp_path / "link", 5, remedy="") == b"12345"
    with pytest.raises(InputError, match=r"a: 5 bytes or more; the limit is 4 bytes\. Raise it"):
        files.read_bounded(tmp_path / "a", 4, remedy="Raise it.")
    with pytest.raises(InputError, match="a folder, not a file"):
        files.read_bounded(tmp_path, 5, remedy="")
    with pytest.raises(FileNotFoundError):
        files.read_bounded(tmp_path / "b", 5, remedy="")


def below(folder):
    return [path.relative_to(folder).as_posix() for path in files.files_below(folder)]


@pytest.mark.parametrize(
    ("links", "found"),
    [
        ({}, ["a/1", "b/c/2", "b/c/3"]),
        ({"top": "{other}"}, ["a/1", "b/c/2", "b/c/3", "top/x/4"]),
        ({"b/deep": "{other}/x"}, ["a/1", "b/c/2", "b/c/3", "b/deep/4"]),
        ({"t": "{other}", "u": "{other}"}, ["a/1", "b/c/2", "b/c/3", "t/x/4"]),  # once
        ({"circle": ".", "b/c/up": "../.."}, ["a/1", "b/c/2", "b/c/3"]),
        ({"A": "b"}, ["a/1", "b/c/2", "b/c/3"]),  # by its own name, though the link sorts first
        ({"gone": "nowhere", "self": "self"}, ["a/1", "b/c/2", "b/c/3", "gone", "self"]),
        ({"one": "b/c/2"}, ["a/1", "b/c/2", "b/c/3", "one"]),
    ],
)
def test_the_files_below_a_folder_include_linked_folders_once_and_links_to_nothing(tmp_path, links, found):
    folder, other = tmp_path / "folder", tmp_path / "other"
    for path in (folder / "a/1", folder / "b/c/2", folder / "b/c/3", other / "x/4"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, target in links.items():
        (folder / name).symlink_to(target.format(other=other))
    assert below(folder) == found
    (tmp_path / "link").symlink_to(folder)
    assert below(tmp_path / "link") == found
    assert files.files_below(tmp_path / "missing") == []


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match="closed: Permission denied"):
        files.files_below(tmp_path)
