"""The commands of the quickstart; they take minutes and run only with ``-m long``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_quickstart_model_recognises_unseen_voices_and_sentences(tmp_path):
    data, run = f"--data_path={tmp_path / 'data'}", f"--run_dir={tmp_path / 'run'}"
    for command in (
        ("prepare", "--dataset=synthetic", data),
        ("train", "--flagfile=configs/quickstart.flags", data, run),
    ):
        subprocess.run([sys.executable, "-m", f"launch.{command[0]}", *command[1:]], cwd=ROOT, check=True)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["test"]["wer"] <= 15
    assert results["skipped_steps"] == 0
