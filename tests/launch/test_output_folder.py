"""Folders that appear when they are full."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ds2f.errors import InputError
from launch import output_folder


def fill(output: Path) -> None:
    output_folder.require_new(output)
    with output_folder.filled(output) as folder:
        (folder / "a").write_text("1")
        assert not output.exists() or not any(output.iterdir())


def test_a_folder_appears_when_it_is_full(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for output in (tmp_path / "new", tmp_path / "below" / "new", tmp_path / "empty"):
        fill(output)
        assert [path.name for path in output.parent.iterdir() if path.name.startswith(".")] == []
        assert (output / "a").read_text() == "1"
        assert output.stat().st_mode & 0o777 == 0o755


def test_nothing_stays_of_a_failure(tmp_path: Path) -> None:
    def fail(problem: type[BaseException]) -> None:
        with output_folder.filled(tmp_path / "new") as folder:
            (folder / "a").write_text("1")
            raise problem

    for problem in (KeyboardInterrupt, ValueError):
        with pytest.raises(problem):
            fail(problem)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["full", "file", "file/new", "dangling", "link", "..", "full/..", "n" * 250])
def test_other_things_in_its_place_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"--output={re.escape(name)}\W"):
        fill(Path(name))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_system_without_such_folders_is_refused() -> None:
    with pytest.raises(InputError, match=r"--output=/proc/new: .*; give another folder"):
        fill(Path("/proc/new"))


def test_errors_of_other_files_are_not_the_outputs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"), output_folder.filled(tmp_path / "new"):
        (tmp_path / "missing.wav").read_bytes()
    with pytest.raises(InputError, match="--output"), output_folder.filled(tmp_path / "new") as folder:
        (folder / "missing").read_bytes()


def test_the_later_of_two_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "new"
    with pytest.raises(InputError, match="not empty"), output_folder.filled(output):
        fill(output)  # leaves the locked folder of the first alone
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (output / "a").read_text() == "1"


_KILLED = """
import os, signal, sys
from pathlib import Path
from launch import output_folder
with output_folder.filled(Path(sys.argv[1])) as folder:
    (folder / "a").write_text("1")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "new")], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.new\..+\.partial", left.name)
    fill(tmp_path / "other")
    assert left.exists()
    fill(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "other"]
