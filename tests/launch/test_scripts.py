"""The shell scripts from other folders, in other shells, and asked for help."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.fixture
def project(tmp_path):
    """A copy of the scripts, with a Python that prints its arguments."""
    (tmp_path / "project" / "launch").mkdir(parents=True)
    for script in LAUNCH.glob("*.sh"):
        shutil.copy(script, tmp_path / "project" / "launch")
    source = tmp_path / "project" / "ds2f" / "model" / "lstm_cell.c"
    source.parent.mkdir(parents=True)
    source.write_text("// the extension\n")
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    return tmp_path / "project"


def run(project, *command, folder):
    path = f"{project.parent / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "--run_dir={project}/runs/an4_1p"),
        (["--run_dir=mine"], "--run_dir={folder}/mine"),
        (["--run_dir", "/mine"], "/mine"),
        (["--run_dir=~/mine"], "--run_dir=~/mine"),
        (["--run_dir", "~/mine"], "~/mine"),
        (["--flagfile=own.flags"], "--flagfile={folder}/own.flags"),
    ],
)
def test_a_training_script_from_elsewhere_names_the_runs_folder_by_its_whole_path(project, tmp_path, given, expected):
    ended = run(project, "bash", project / "launch" / "train_full_1p.sh", "--device=cpu", *given, folder=tmp_path)
    arguments = ended.stdout.splitlines()
    assert arguments[-1] == expected.format(project=project, folder=tmp_path)
    assert sum(argument.startswith("--run_dir") for argument in arguments) == (given != ["--flagfile=own.flags"])


def test_a_training_script_in_its_own_folder_keeps_relative_paths(project):
    ended = run(project, "bash", "launch/train_full_1p.sh", "--device=cpu", folder=project)
    assert ended.stdout.splitlines() == ["-m", "launch.train", "--flagfile=configs/an4_1p.flags", "--device=cpu"]


def test_a_training_script_tells_of_an_installation_that_was_interrupted(project):
    shutil.copy(LAUNCH.parent / "setup.cfg", project)
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without installed packages
    python.chmod(0o755)
    ended = run(project, "bash", "launch/train_full_1p.sh", "--device=cpu", folder=project)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"{python} lacks packages: torch, ")
    assert ended.stderr.endswith("Install them by running again: bash launch/quickstart.sh\n")
    assert ended.stderr.count("\n") == 1
    shutil.copy(project / "setup.cfg", project / ".venv" / "installed-quickstart")
    ended = run(project, "bash", "launch/train_full_1p.sh", "--device=cpu", folder=project)
    assert "lacks packages" not in ended.stderr


def test_an_environment_without_pip_gets_it_before_the_installation(project):
    shutil.copy(LAUNCH.parent / "setup.cfg", project)
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >>calls\n[ "$*" != "-m pip --version" ]\n')
    python.chmod(0o755)
    run(project, "bash", "-euc", "source launch/venv.sh; use_venv test", folder=project)
    calls = (project / "calls").read_text().splitlines()
    assert calls[:2] == ["-m pip --version", "-m ensurepip"]
    assert calls[2].startswith("-m pip install ")
    assert (project / ".venv" / "installed-test").exists()


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize(
    "script", [path.name for path in sorted(LAUNCH.glob("*.sh")) if "\nuse_venv " in path.read_text()]
)
def test_a_script_that_installs_tells_what_it_does_before_it_does_it(project, tmp_path, script, flag):
    before = sorted(project.rglob("*"))
    ended = run(project, "bash", project / "launch" / script, "--training.epochs=1", flag, folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"Usage: bash launch/{script}")
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("shell", ["sh", "dash"])
@pytest.mark.parametrize("options", ["", "set -eu; "])
def test_the_npu_environment_needs_bash_and_says_so(project, shell, options):
    if shutil.which(shell) is None or "bash" in os.path.realpath(shutil.which(shell)):
        pytest.skip(f"{shell} is not there, or is bash")
    ended = run(project, shell, "-c", f"{options}. launch/env_npu.sh && echo found", folder=project)
    assert ended.returncode != 0
    assert "needs bash" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""
