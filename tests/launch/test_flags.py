"""Tests of launch.flags, through small programs in processes of their own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ds2f import config
from ds2f.config import AugmentationConfig, Config, DataConfig, OptimConfig, TrainingConfig
from launch import flagfiles, flags

ROOT = Path(flags.__file__).parents[1]

# A launcher that prints its configuration, or runs BODY.
PROGRAM = '''"""Trains nothing."""
import json, os, sys
from ds2f import config
from ds2f.config import Config, DataConfig, ModelConfig
from ds2f.errors import InputError
from launch import flagfiles, flags

flags.define(only={only})

def main(argv):
    {body}

if __name__ == "__main__":
    flags.run(main, positional={positional})
'''
PRINT_CONFIG = "print(json.dumps(config.to_dict(flags.config_from_flags())))"


def start(
    folder: Path,
    *arguments: str,
    body: str = PRINT_CONFIG,
    only: object = None,
    positional: bool = False,
    output: int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    program = folder / "toy.py"
    program.write_text(PROGRAM.format(body=body, only=only, positional=positional))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("TORCH_DEVICE_BACKEND_AUTOLOAD", None)
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=output, stderr=subprocess.PIPE, text=True, check=False
    )


def configured(folder: Path, *arguments: str) -> Config:
    result = start(folder, *arguments)
    assert result.returncode == 0, result.stderr
    return config.from_dict(json.loads(result.stdout))


def test_without_flags_the_defaults_come_out(tmp_path: Path) -> None:
    assert configured(tmp_path) == Config()


def test_flags_of_every_kind_reach_the_configuration(tmp_path: Path) -> None:
    cfg = configured(
        tmp_path,
        "--data_path=there",
        "--device=cpu",
        "--data.batch_size=3",
        "--optim.name=sgd",
        "--optim.schedule=constant",
        "--optim.learning_rate=3e-4",
        "--training.evaluate_test",
        "--nomodel.bidirectional",
        "--optim.nesterov=false",
        "--augmentation.speeds=0.9,1.0,1.1",
    )
    assert (cfg.data_path, cfg.device, cfg.data.batch_size) == ("there", "cpu", 3)
    assert (cfg.optim.name, cfg.optim.learning_rate, cfg.optim.nesterov) == ("sgd", 3e-4, False)
    assert (cfg.training.evaluate_test, cfg.model.bidirectional) == (True, False)
    assert cfg.augmentation.speeds == (0.9, 1.0, 1.1)


def test_a_tilde_is_the_home_folder_in_every_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    (tmp_path / "own.flags").write_text("--checkpointing.folder=~/kept\n--augmentation.noise_dir=~\n")
    cfg = configured(
        tmp_path, "--flagfile=own.flags", "--data_path=~/data", "--run_dir", "~/run", "--nnodes=1", "--rdzv_id=a~b"
    )
    assert (cfg.checkpointing.folder, cfg.augmentation.noise_dir) == ("/home/ann/kept", "/home/ann")
    assert (cfg.data_path, cfg.run_dir, cfg.rdzv_id) == ("/home/ann/data", "/home/ann/run", "a~b")
    assert configured(tmp_path, "--data.train_manifest=~nobody-here/x").data.train_manifest == "~nobody-here/x"
    given = ["augment", "~/a.wav", "a~", "--", "~/--b", "~nobody-here"]
    assert flags.parse(given, positional=True) == ["augment", "/home/ann/a.wav", "a~", "/home/ann/--b", "~nobody-here"]


def test_flagfile_text_repeats_the_run(tmp_path: Path) -> None:
    cfg = Config(
        device="cpu",
        data=DataConfig(batch_size=7, train_manifest="a folder/m=1.csv", cache_features=False),
        augmentation=AugmentationConfig(speeds=(0.9, 1.1), gain_min=-6.0),
        optim=OptimConfig(schedule="constant", learning_rate=1.4e-4 / 3, eps=1e-30),
        training=TrainingConfig(evaluate_test=True),
    )
    path = tmp_path / "run.flags"
    path.write_text(flags.flagfile_text(cfg))
    assert configured(tmp_path, f"--flagfile={path}") == cfg


def test_flagfiles_compose_and_later_flags_win(tmp_path: Path) -> None:
    (tmp_path / "base.flags").write_text("# a comment\n--data.batch_size=4\n--training.epochs=9\n")
    (tmp_path / "top.flags").write_text("--flagfile=base.flags\n\n--training.epochs=3\n")
    cfg = configured(tmp_path, "--flagfile=top.flags", "--data.batch_size=5")
    assert (cfg.data.batch_size, cfg.training.epochs) == (5, 3)


def test_the_command_line_changes_a_stored_configuration(tmp_path: Path) -> None:
    body = (
        "base = Config(data=DataConfig(batch_size=6, num_workers=0, labels_path='gone.json'), "
        "model=ModelConfig(labels=('_', 'A'))); "
        "print(json.dumps(config.to_dict(flags.config_from_flags(base))))"
    )
    result = start(tmp_path, "--data.batch_size=2", body=body)
    cfg = config.from_dict(json.loads(result.stdout))
    assert (cfg.data.batch_size, cfg.data.num_workers) == (2, 0)
    assert cfg.model.labels == ("_", "A")


def test_a_launcher_takes_only_the_flags_that_it_registers(tmp_path: Path) -> None:
    only = ("data", "training.seed", "device")
    assert start(tmp_path, "--data.batch_size=2", "--training.seed=3", "--device=cpu", only=only).returncode == 0
    result = start(tmp_path, "--training.epochs=3", only=only)
    assert result.returncode == 1
    assert "Unknown command line flag 'training.epochs'" in result.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--data.batch_size=0", "flag --data.batch_size=0: 0 is out of range, it must be >= 1"),
        ("--data.batch_size=x", "flag --data.batch_size=x: expected an integer >= 1"),
        ("--data.batch_size=2.5", "expected an integer >= 1"),
        ("--optim.learning_rate=nan", "nan is out of range, it must be > 0"),
        ("--augmentation.speeds=1,,2", "expected a comma-separated list, each a number >= 0.25 and <= 4"),
        ("--augmentation.speeds=1,9", "9.0 is out of range"),
        ("--optim.name=adm", "value should be one of <adamw|sgd|lamb|muon|novograd>"),
        ("--optim.nam=sgd", "Unknown command line flag 'optim.nam'. Did you mean: --optim.name ?"),
        ("--model.labels=ABC", "Unknown command line flag 'model.labels'"),
        ("--data.batch_size", "Missing value for flag --data.batch_size"),
        ("--flagfile=nowhere.flags", "cannot read the flagfile nowhere.flags: no such file. Check the path"),
        ("--flagfile=.", "a folder, not a file"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_a_wrong_command_line_ends_with_one_message(tmp_path: Path, argument: str, message: str) -> None:
    result = start(tmp_path, argument)
    assert result.returncode == 1
    assert result.stderr.startswith("FATAL Flags parsing error: ")
    assert message in result.stderr.splitlines()[0]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_flagfile_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.flags").write_bytes(b"\x7f\xff\x00")
    result = start(tmp_path, "--flagfile=binary.flags")
    assert result.returncode == 1
    assert "cannot read the flagfile binary.flags, it is not text" in result.stderr
    assert "Traceback" not in result.stderr


def test_positional_arguments_reach_a_launcher_that_wants_them(tmp_path: Path) -> None:
    result = start(tmp_path, "a.wav", "--device=cpu", "b.wav", body="print(argv[1:])", positional=True)
    assert result.stdout.strip() == "['a.wav', 'b.wav']"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("raise InputError('m.csv, line 3: mend it')", 1, "toy: m.csv, line 3: mend it\n"),
        ("flags.config_from_flags(); return 7", 7, ""),
        ("raise KeyboardInterrupt", 130, "toy: interrupted\n"),
    ],
)
def test_a_launcher_ends_with_a_status_and_no_traceback(tmp_path: Path, body: str, status: int, message: str) -> None:
    result = start(tmp_path, body=body)
    assert (result.returncode, result.stderr) == (status, message)


def test_a_contradiction_between_sections_ends_with_the_remedy(tmp_path: Path) -> None:
    result = start(tmp_path, "--optim.learning_rate=1e-4")
    assert result.returncode == 1
    assert result.stderr.startswith("toy: optim.learning_rate=0.0001 with optim.schedule=noam")
    assert len(result.stderr.splitlines()) == 1


def test_on_a_full_disk_the_message_names_the_path_and_how_to_continue(tmp_path: Path) -> None:
    result = start(tmp_path, body="raise OSError(28, 'No space left on device', 'runs/x/log.txt')")
    assert result.returncode == 1
    assert result.stderr.startswith("toy: no space left for runs/x/log.txt;")
    assert "--checkpointing.load_auto_checkpoint" in result.stderr
    unnamed = start(tmp_path, "--run_dir=runs/y", body="raise OSError(28, 'No space left on device')")
    assert unnamed.stderr.startswith("toy: no space left for runs/y;")
    files = start(tmp_path, "a.wav", body="raise OSError(28, 'No space left on device', 'a.png')", positional=True)
    assert files.stderr == "toy: no space left for a.png; free some and start again.\n"
    bare = start(tmp_path, body="raise OSError(28, 'No space left on device')", only=())
    assert str(tmp_path) in bare.stderr
    assert "checkpoint" not in bare.stderr


def test_a_file_system_that_refuses_is_told_without_a_traceback(tmp_path: Path) -> None:
    result = start(tmp_path, body="raise OSError(30, 'Read-only file system', 'x/\\x1b[31m')", only=())
    assert (result.returncode, result.stderr) == (1, "toy: x/\\x1b[31m: Read-only file system.\n")


@pytest.mark.parametrize("printed", ["'a line'", "'many lines\\n' * 100_000"])
@pytest.mark.parametrize(
    "show", ["print", "__import__('rich').print", "__import__('rich.console').console.Console().print"]
)
def test_a_closed_pipe_ends_a_launcher_quietly(tmp_path: Path, show: str, printed: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = start(tmp_path, body=f"{show}({printed})", output=writing)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_that_nobody_reads_to_its_end_leaves_no_traceback(tmp_path: Path, flag: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = start(tmp_path, flag, output=writing)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_broken_pipe_other_than_the_output_keeps_its_traceback(tmp_path: Path) -> None:
    ended = start(tmp_path, body="raise BrokenPipeError('of a worker')")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    for body in ("raise OSError(5, 'Input/output error')", "raise ValueError('a defect')"):
        result = start(tmp_path, body=body)
        assert result.returncode == 1
        assert "Traceback" in result.stderr


def test_help_lists_help_range_and_default_and_succeeds(tmp_path: Path) -> None:
    result = start(tmp_path, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Trains nothing.")
    text = " ".join(result.stdout.split())
    assert "--data.batch_size=240 (an integer >= 1) Utterances per device and step." in text
    assert "--optim.name=adamw (adamw, sgd, lamb, muon, novograd) Optimizer." in text
    assert "--[no]training.evaluate_test (default: off)" in text
    assert text.index("data: Recordings and batches") < text.index("--data.batch_size") < text.index("spect: Features")
    assert "configs/an4_8p.flags: AN4 on eight devices" in text
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_of_a_section_has_its_flags_only(tmp_path: Path) -> None:
    shown = start(tmp_path, "--help=optim").stdout
    assert {
        line.split("=")[0].split(".")[0] for line in shown.splitlines() if line.startswith("  --") and "=" in line
    } == {"  --optim"}
    refused = start(tmp_path, "--help=optin")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no section of flags. Did you mean optim?" in refused.stderr


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--data.batch_szie=3", "Did you mean: --data.batch_size ?"),
        ("--batch_szie=3", "Did you mean: --data.batch_size ?"),
        ("--training.epoch=3", "Did you mean: --training.epochs ?"),
        ("--optim.name=adam", "Did you mean adamw?"),
        ("--device=gpu", "Did you mean cuda?"),
        ("--model.rnn_type=lstn", "Did you mean lstm?"),
        ("--augmentation.codecs=ulaw,gsn", "Did you mean gsm?"),
        ("--flagfile=configs/an4_8q.flags", "Did you mean configs/an4_8p.flags"),
        ("--flagfile=mine.flag", "Did you mean mine.flags?"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(tmp_path: Path, argument: str, hint: str) -> None:
    (tmp_path / "mine.flags").touch()
    result = start(tmp_path, argument)
    assert result.returncode == 1
    assert hint in result.stderr.splitlines()[0]


LAUNCHERS = sorted(
    path.parent.name if path.stem == "__main__" else path.stem
    for path in [*(ROOT / "launch").glob("*.py"), *(ROOT / "launch").glob("*/__main__.py")]
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8") and path != ROOT / "launch" / "__main__.py"
)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help_of_a_launcher_is_quick_and_imports_no_framework(launcher: str) -> None:
    # runpy imports the launcher as `python -m` does. At exit the process prints the third-party packages it imported.
    code = (
        "import atexit, runpy, sys\n"
        "before = {*sys.modules}\n"
        "light = {*sys.stdlib_module_names, 'absl', 'attr', 'attrs', 'ds2f', 'launch'}\n"
        "packages = lambda: {name.partition('.')[0] for name in {*sys.modules} - before}\n"
        "atexit.register(lambda: print('HEAVY', sorted(packages() - light)))\n"
        f"sys.argv = ['{launcher}', '--help']\n"
        f"runpy.run_module('launch.{launcher}', run_name='__main__', alter_sys=True)\n"
    )
    began = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "HEAVY []"
    assert "Each flag stands with its default" in result.stdout
    assert time.monotonic() - began < 5  # about 0.3 s on an idle machine; torch alone takes longer than 1 s


def test_torch_loads_no_device_back_ends_by_itself(tmp_path: Path) -> None:
    result = start(tmp_path, body="print(os.environ['TORCH_DEVICE_BACKEND_AUTOLOAD'], 'torch' in sys.modules)")
    assert result.stdout.split() == ["0", "False"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_spin_only_briefly_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], expected: str
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    result = start(tmp_path, body="print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)")
    assert result.stdout.split() == [expected, "False"]


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ([], None),
        (["--device=cpu"], None),
        (["--flagfile=configs/an4_8p.flags"], "an4_8p"),
        (["-flagfile=a.flags", "--device=cpu", "--flagfile", "b/quick.start.flags"], "quick.start"),
        (["--flagfile=a.flags", "--", "--flagfile=b.flags"], "a"),
        (["--flagfile="], None),
        (["--flagfile"], None),
    ],
)
def test_a_run_is_named_after_its_last_flagfile(argv: list[str], name: str | None) -> None:
    assert flagfiles.last_name(argv) == name
