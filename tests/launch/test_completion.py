"""Completion in a real bash and a real zsh: what the TAB key makes of a line."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest
from pages import ROOT

from launch import completion
from launch.__main__ import COMMANDS

STARTS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "PS1='> '; source script.bash"),
    "zsh": (["zsh", "-f", "-i"], "PS1='> '; autoload -Uz compinit; compinit -u -D; source script.zsh"),
}
# A line as far as it is typed, and what TAB, pressed twice, shows.
LINES = [
    ("ds2f trans", "ds2f transcribe"),
    ("ds2f evaluate --spl", "--split="),
    ("ds2f evaluate --split=te", "--split=test"),
    ("ds2f train --optim.name=mu", "--optim.name=muon"),
    ("ds2f train --notraining.ev", "--notraining.evaluate_test"),
    ("ds2f train --flagfile=configs/an4_b", "configs/an4_best.flags"),
    ("ds2f train --flagfile=mi", "--flagfile=mine.flags"),
    ("ds2f train --data_path=fol", "--data_path=folder/"),
    ("ds2f transcribe --run_dir=folder rec", "recording.wav"),
    ("ds2f manifest ver", "manifest verify"),
    ("ds2f train --help=chec", "--help=checkpointing"),
    ("python -m launch.eval", "python -m launch.evaluate"),
    ("python -m launch.train --model.rnn_type=l", "--model.rnn_type=lstm"),
]


@pytest.fixture(scope="module")
def scripts():
    return {
        shell: subprocess.run(
            [sys.executable, "-m", "launch", f"--completion={shell}"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for shell in completion.SHELLS
    }


@pytest.mark.parametrize("shell", STARTS)
def test_the_tab_key_completes_commands_flags_values_and_paths(scripts, tmp_path, shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed: apt-get install {shell}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine.flags").touch()
    (tmp_path / "mist.txt").touch()
    (tmp_path / "recording.wav").touch()
    (tmp_path / f"script.{shell}").write_text(scripts[shell])
    start, setup = STARTS[shell]
    controlling, own = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(tmp_path), "HISTFILE": ""}
    program = subprocess.Popen(
        start, cwd=tmp_path, env=environment, stdin=own, stdout=own, stderr=own, start_new_session=True
    )
    os.close(own)
    try:
        os.write(controlling, f"{setup}; echo re''ady\n".encode())
        assert "ready" in heard(controlling, "ready")
        for line, shown in LINES:
            os.write(controlling, f"{line}\t\t".encode())
            assert shown in heard(controlling, shown), line
            os.write(controlling, b"\x15")  # the line is dropped
    finally:
        program.kill()
        program.wait()
        os.close(controlling)


def heard(terminal, expected, seconds=15):
    """What the terminal shows until the text is there."""
    said, end = "", time.monotonic() + seconds
    while expected not in said and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            said += os.read(terminal, 1 << 16).decode(errors="replace").replace("\r", "").replace("\b", "")
    return said


def test_the_scripts_are_static_and_have_every_command(scripts):
    for text in scripts.values():
        assert "$(python" not in text
        assert all(f"    {name}) echo --flagfile=" in text for name in COMMANDS)
        assert " --visualization.wandb --novisualization.wandb " in text


def test_the_script_is_printed_without_torch_and_another_shell_is_refused(tmp_path):
    code = (
        "import atexit, sys; sys.argv = ['launch', '--completion=bash']\n"
        "atexit.register(lambda: print('\\nTORCH', 'torch' in sys.modules))\n"
        "from launch.__main__ import main; main()"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([sys.executable, "-c", code], **run)
    assert done.stdout.startswith("# Written by python -m launch --completion=bash.\n"), done.stderr
    assert done.stdout.endswith("\nTORCH False\n")
    done = subprocess.run([sys.executable, "-m", "launch", "--completion=fish"], **run)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--completion=fish: give bash or zsh" in done.stderr
