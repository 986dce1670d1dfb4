"""The list of commands, and what a wheel holds."""

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from launch.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]


def run(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "launch", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_module_that_is_a_command_is_listed():
    modules = {path.stem for path in (ROOT / "launch").glob("*.py") if "flags.run(" in path.read_text()}
    packages = {path.parent.name for path in (ROOT / "launch").glob("*/__main__.py")}
    assert set(COMMANDS) == (modules - {"flags"}) | packages


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_commands_are_listed_with_what_they_do(tmp_path, arguments):
    ended = run(*arguments, folder=tmp_path)
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(COMMANDS)
    assert not [line for line in lines if line.endswith(".")]
    assert all(len(line.split()) > 2 for line in lines)


def test_a_command_is_run_by_its_name_and_an_unknown_one_is_answered_with_the_list(tmp_path):
    assert run("train", "--version", folder=tmp_path).stdout == run("--version", folder=tmp_path).stdout
    assert "Trains a model" in run("train", "--help", folder=tmp_path).stdout
    ended = run("no\x1bsuch", folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("launch: there is no command 'no\\x1bsuch'\n")
    assert "  train " in ended.stderr


def test_a_wheel_has_the_flagfiles_the_results_the_servers_page_and_the_marks_of_types(tmp_path):
    wheels = tmp_path / "wheels"
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", wheels)
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, source], check=True)
    built = subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], capture_output=True, text=True)
    if "No module named 'setuptools" in built.stderr or "No module named pip" in built.stderr:
        pytest.skip("needs pip and setuptools")
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("*.whl")
    place = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    for path in (ROOT / "configs").rglob("*"):
        if path.is_file():
            assert (place / "launch" / "configs" / path.relative_to(ROOT / "configs")).read_bytes() == path.read_bytes()
    page = Path("ds2f/serving/page")
    assert {file.name for file in (ROOT / page).iterdir()} == {file.name for file in (place / page).iterdir()}
    assert (place / "ds2f" / "py.typed").exists()
    assert (place / "launch" / "py.typed").exists()
    scripts = configparser.ConfigParser()
    scripts.read(next(place.glob("*.dist-info")) / "entry_points.txt")
    assert dict(scripts["console_scripts"]) == {"ds2f": "launch.__main__:main"}
    environment = {"PYTHONPATH": str(place), "PATH": ""}
    for arguments, expected in (
        (["-m", "launch", "report"], "# Results"),
        (["-c", "import ds2f, launch; print(ds2f.__file__)"], str(place)),
        (["-m", "launch.train", "--flagfile=configs/an4_8p.flags", "--nproc_per_node=1"], "an4_train_manifest.csv"),
    ):
        ended = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert expected in ended.stdout + ended.stderr
