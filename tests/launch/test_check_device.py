"""launch/check_device.sh: its options, parts that fail, and the files and tables that it leaves."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ds2f.errors import InputError
from launch.report import device_check, results_page

ROOT = Path(__file__).parents[2]
STORED = ROOT / "configs/results"
CASE = {"preset": "5x1024", "batch_size": 10, "utterances_per_second": 94.3, "ours_over": {"usual": 2.5, "best": 1.04}}
RESULT = {
    "device": "cuda: NVIDIA H200",
    "facts": {"torch": "2.13.0+cu130, CUDA 13.0", "driver": "580.95"},
    "parts": {"doctor": {"seconds": 41, "problem": ""}, "bench": {"seconds": 150, "problem": "not done after 150 s"}},
    "doctor": {
        "summary": "48 ok",
        "passed": True,
        "lines": [
            {"group": "cards", "name": "card 0", "verdict": "ok", "found": "opens"},
            {
                "group": "recurrent kernels",
                "name": "batch 10, bf16",
                "verdict": "ok",
                "found": "fused 9 ms, paired 5 ms",
            },
        ],
    },
    "hardware_tests": "3 passed, 3 skipped",
    "bench": [CASE],
    "shares": {"recurrent layers": 0.61, "convolutions": 0.39},
    "corpus": "an4",
    "training": {"epochs": 3, "utterances_per_second": 81.0, "wall_seconds": 60.0, "amp": "O2"},
}

# Notes its arguments, and leaves what the part would have left; FAIL names the part that fails.
PYTHON = """#!/bin/bash
echo "$@" >>"$NOTES"
[[ $2 != launch.report.device_check ]] || exec "$REAL" "$@"
for argument in "$@"; do
  case $argument in
    --json=*doctor.json) echo '{"device": "cpu: stand-in", "summary": "1 ok", "passed": true}' >"${argument#--json=}" ;;
  esac
done
[[ $2 != pytest ]] || echo "2 passed, 4 skipped in 3.21s"
[[ $2 != "$FAIL" ]] || { echo "a last word from /home/ann/ds2f"; exit 7; }
"""


@pytest.fixture
def check(tmp_path):
    """Runs the script in a copy of the project whose Python is a stand-in; returns its end and what was asked of it."""
    project = tmp_path / "project"
    (project / "launch").mkdir(parents=True)
    shutil.copy(ROOT / "launch/check_device.sh", project / "launch")
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(PYTHON)
    python.chmod(0o755)
    notes = tmp_path / "notes"

    def run(*arguments, fail=""):
        notes.write_text("")
        own = {"PATH": f"{python.parent}:{os.environ['PATH']}", "NOTES": str(notes), "FAIL": fail}
        own |= {"REAL": sys.executable, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        ended = subprocess.run(
            ["bash", project / "launch/check_device.sh", *arguments],
            cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert not list(tmp_path.glob("ds2f-check-*")), "its folder is removed"
        return ended, notes.read_text().splitlines()

    return run


def test_the_parts_run_in_their_order_with_the_flags_given(check, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/an4_train_manifest.csv").write_text("")
    ended, asked = check("--device=cpu", "--data_path=data", "--output=out", "--presets=2x16", "--training.max_steps=3")
    assert ended.returncode == 0, ended.stderr
    assert [line.split()[1] for line in asked] == [
        *("launch.doctor", "pytest", "launch.bench", "launch.train", "launch.report.device_check"),
    ]
    doctor, tests, bench, training, _ = asked
    assert "--device=cpu" in doctor
    assert "--model.hidden_layers=2 --model.hidden_size=16" in doctor
    assert "-m hardware" in tests
    assert "--presets=2x16 --batch_sizes=10,32,64,128 --contestants=ours,usual,best" in bench
    assert f"--flagfile=configs/an4_performance_1p.flags --device=cpu --data_path={tmp_path}/data" in training
    assert training.endswith("--training.max_steps=3")
    assert "--data.dataset=an4" in training
    result = json.loads((tmp_path / "out/cpu_stand_in.json").read_text())
    assert (result["corpus"], result["hardware_tests"]) == ("an4", "2 passed, 4 skipped")
    assert "doctor: 1 ok" in (tmp_path / "out/cpu_stand_in.md").read_text()


@pytest.mark.parametrize("part", ["launch.doctor", "pytest", "launch.bench", "launch.prepare", "launch.train"])
def test_a_part_that_fails_is_noted_and_the_rest_goes_on(check, tmp_path, part):
    ended, asked = check("--device=cpu", "--data_path=nowhere", "--output=out", fail=part)
    assert ended.returncode == 1
    assert "failed with status 7" in ended.stdout
    assert len(asked) == 6, "with the synthetic corpus, since there is no AN4"
    assert "corpus: synthetic" in ended.stdout
    (path,) = (tmp_path / "out").glob("*.json")
    problems = [each["problem"] for each in json.loads(path.read_text())["parts"].values() if each["problem"]]
    assert problems == ["status 7: a last word from PATH"]


@pytest.mark.parametrize("argument", ["--device=tpu", "--presets=five", "--nproc_per_node=8", "data", "--batch_sizes="])
def test_an_option_that_it_does_not_take_is_refused_before_anything_runs(check, argument):
    ended, asked = check(argument)
    assert (ended.returncode, asked) == (2, [])
    assert f"cannot take {argument}" in ended.stderr


def test_help_says_what_it_does(check):
    ended, asked = check("--device=cpu", "--help")
    assert (ended.returncode, ended.stderr, asked) == (0, "", [])
    assert ended.stdout.startswith("Usage: bash launch/check_device.sh")


def test_the_limits_of_the_parts_come_to_eight_minutes():
    text = (ROOT / "launch/check_device.sh").read_text()
    limits = [int(line.split()[2]) for line in text.splitlines() if line.strip().startswith("part ")]
    (kill_after,) = map(int, re.findall(r"timeout --kill-after=(\d+) \"\$limit\"", text))
    ((kill, last),) = re.findall(r"timeout --kill-after=(\d+) (\d+) ", text)
    assert len(limits) == 5
    assert sum(limits) + len(limits) * kill_after + int(kill) + int(last) <= 480


def test_a_part_that_ignores_its_end_is_killed_and_the_rest_goes_on(tmp_path):
    text = (ROOT / "launch/check_device.sh").read_text()
    function = text[text.index("part() {") : text.index("\n}\n", text.index("part() {")) + 3]
    stubborn = "part stubborn 1 bash -c 'trap \"\" TERM; while :; do sleep 0.2; done'"
    program = f"work={tmp_path}\n{function}\n{stubborn}\necho went on"
    began = time.monotonic()
    ended = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "its time is over" in ended.stdout
    assert ended.stdout.endswith("went on\n")
    assert time.monotonic() - began < 20
    assert json.loads((tmp_path / "stubborn.status.json").read_text())["status"] == 137


@pytest.mark.long
def test_a_cpu_is_checked_whole_with_a_tiny_model(tmp_path, tone_corpus):
    for file in tone_corpus.iterdir():
        (tmp_path / file.name.replace("tones_", "an4_")).symlink_to(file)
    tiny = ("--presets=1x16", "--batch_sizes=2", "--training.epochs=1", "--data.batch_size=2", "--data.num_workers=0")
    command = ["bash", ROOT / "launch/check_device.sh", "--device=cpu", f"--data_path={tmp_path}", *tiny]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, f"--output={tmp_path}/out"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (path,) = (tmp_path / "out").glob("*.json")
    result = json.loads(path.read_text())
    assert result["doctor"]["passed"]
    assert [case["batch_size"] for case in result["bench"]] == [2]
    assert sum(result["shares"].values()) == pytest.approx(1)
    assert (result["corpus"], result["training"]["epochs"]) == ("an4", 1)
    assert "utt/s" in path.with_suffix(".md").read_text()


def test_the_tables_name_the_speeds_the_corpus_and_what_failed():
    heading, _, row, _, remark = device_check.rows([RESULT])
    assert heading == "| device | batch | ours, utt/s | usual way | best imperative way |"
    assert row == "| cuda: NVIDIA H200, 5 x 1024 | 10 | 94.3 | 2.50 | 1.04 |"
    for said in (
        *("torch 2.13.0+cu130, CUDA 13.0", "doctor: 48 ok", "3 passed, 3 skipped", "recurrent layers 61 %"),
        *("3 epochs on AN4: 81 utt/s", "bench failed: not done after 150 s"),
        "batch 10, bf16: fused 9 ms, paired 5 ms;",
    ):
        assert said in remark
    assert "card 0" not in remark
    (*_, other) = device_check.rows([RESULT | {"corpus": "synthetic", "device": "a|b"}])
    assert "3 epochs on the synthetic corpus" in other
    assert "**a\\|b**" in other


def test_the_page_has_a_section_of_devices_if_there_are_files(tmp_path):
    shutil.copytree(STORED, tmp_path / "results")
    for file in (tmp_path / "results/devices").glob("*.json"):
        file.unlink()
    without = results_page.page(tmp_path / "results", name=Path("configs/results"))
    assert "## Devices" not in without
    (tmp_path / "results/devices").mkdir(exist_ok=True)
    (tmp_path / "results/devices/h200.json").write_text(json.dumps(RESULT))
    page = results_page.page(tmp_path / "results", name=Path("configs/results"))
    assert page.startswith(without)
    assert "| cuda: NVIDIA H200, 5 x 1024 | 10 | 94.3 | 2.50 | 1.04 |" in page.partition("## Devices")[2]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"device": "x"}'])
def test_a_damaged_file_of_a_device_is_named(tmp_path, content):
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices/x.json").write_text(content)
    with pytest.raises(InputError, match=r"x\.json: no result of launch/check_device"):
        device_check.stored(tmp_path)
