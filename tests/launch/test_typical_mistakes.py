"""What new users type by mistake, and the message that they get: the cause, what to do, and no traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.config import Config, DataConfig, ModelConfig, to_dict

ROOT = Path(__file__).parents[2]
OLD_PYTHONS = sorted(Path.home().glob(".pyenv/versions/3.[89].*/bin/python"))
MANIFEST = "data/mine_train_manifest.csv"
SAFE = ("--device=cpu", "--data.num_workers=0", "--run_dir=runs/new")

# The command, and what its message says.
MISTAKES = [
    # Paths.
    (("train", "--data_path=dta"), "There is no folder dta. Did you mean data?"),
    (("train", "--data.train_manifest=data/mine_trian_manifest.csv"), f"Did you mean {MANIFEST}"),
    (("train", "--data.dataset=mind"), "no such manifests. data holds another corpus: --data.dataset=mine."),
    (("train",), "data holds another corpus: --data.dataset=gone, --data.dataset=m4a, --data.dataset=mine."),
    (("train", "--flagfile=configs/an4_8q.flags"), "no such file. Did you mean configs/an4_8p.flags"),
    (("train", "configs/an4_1p.flags"), "Did you mean --flagfile=configs/an4_1p.flags ?"),
    # Flags.
    (("train", "--data.batch_szie=4"), "Did you mean: --data.batch_size ?"),
    (("train", "--batch_size=4"), "Did you mean: --data.batch_size ?"),
    (("train", "--flagfile=typo.flags"), "'data.batch_szie'. Did you mean: --data.batch_size ?"),
    (("train", "--optim.name=adam"), "Did you mean adamw?"),
    (("train", "--device=gpu"), "Did you mean cuda?"),
    (("train", "--data.batch_size", "4", "8"), "unexpected argument '8'; a flag reads --name=value"),
    (("train", "--training.epochs=many"), "expected an integer >= 1"),
    # Recordings and transcripts.
    (("train", "--data.dataset=gone", *SAFE), "gone.wav: No such file or directory; check the path"),
    (("train", "--data.dataset=m4a", *SAFE), "convert it (ffmpeg -i IN OUT.wav)"),
    (("train", "--data.dataset=mine", "--data.labels_path=few.json", *SAFE), "python -m launch.prepare --labels"),
    (("train", "--data.dataset=mine", "--data.labels_path=text.json", *SAFE), 'a JSON list such as ["_", "A", " "]'),
    # Runs.
    (("train", "--data.dataset=mine", "--device=cpu", "--run_dir=runs/one"), "--checkpointing.load_auto_checkpoint"),
    (
        (
            *("train", "--data.dataset=mine", "--device=cpu", "--run_dir=runs/one"),
            *("--model.hidden_size=9", "--checkpointing.load_auto_checkpoint"),
        ),
        "model.hidden_size was 8 and is 9 here). Use --flagfile=runs/one/flags.txt, or another --run_dir.",
    ),
    (("transcribe", "said.wav"), "give the folder of a trained run, such as --run_dir=runs/one"),
    (("transcribe", "runs/one", "said.wav"), "such as --run_dir=runs/one"),
    (("transcribe", "--run_dir=runs/onne", "said.wav"), "holds no run: runs/onne/config.json is missing. Did you mean"),
    (("transcribe", "--run_dir=runs/one", "siad.wav"), "siad.wav: No such file or directory. Did you mean said.wav?"),
    (("evaluate", "model.onnx"), "'model.onnx', an exported model. Did you mean --run_dir=model.onnx ?"),
    (("evaluate", "runs/one"), "'runs/one', a run. Did you mean --run_dir=runs/one ?"),
    (("evaluate", "--run_dir=runs/one", "--lm.path=lm.arpa"), "No such file; python -m launch.build_lm makes a"),
    # Machines.
    (("train", "--data.dataset=mine", "--nproc_per_node=8", "--device=cuda"), "CUDA device"),
    # Archives.
    (("prepare", "--dataset=an4", "--archive=an4_raw.tar.gz"), "not a readable archive, but a web page (HTML)"),
    (("prepare", "--dataset=an5"), "Did you mean an4?"),
    (("prepare", "--dataset=librispeech"), "--dataset=librispeech needs --source=FOLDER"),
    (("manifest", "verfy", MANIFEST), "there is no action 'verfy'. Did you mean verify?"),
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a corpus called ``mine``, two broken ones, a run without weights, and files of other kinds."""
    folder = tmp_path_factory.mktemp("workplace")
    data = folder / "data"
    data.mkdir()
    soundfile.write(data / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000, subtype="PCM_16")
    (data / "b.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(2000))
    shutil.copy(data / "a.wav", folder / "said.wav")
    for corpus, rows in (("mine", "a.wav,CAB\n"), ("gone", "gone.wav,CAB\n"), ("m4a", "b.m4a,CAB\n")):
        for split in ("train", "val"):
            (data / f"{corpus}_{split}_manifest.csv").write_text(f"audio,text\n{rows}")
    for corpus in ("gone", "m4a"):
        (folder / f"{corpus}.txt").touch()
    cfg = Config(model=ModelConfig(hidden_size=8), data=DataConfig(dataset="mine"), run_dir="runs/one")
    (folder / "runs/one").mkdir(parents=True)
    (folder / "runs/one/config.json").write_text(json.dumps(to_dict(cfg)))
    (folder / "runs/one/metrics.jsonl").write_text('{"kind": "train", "iteration": 1}\n')
    (folder / "few.json").write_text('["_", "A", " "]')
    (folder / "text.json").write_text("ABC")
    (folder / "typo.flags").write_text("--data.batch_szie=4\n")
    (folder / "an4_raw.tar.gz").write_text("<!DOCTYPE html><html>Sign in</html>")
    return folder


@pytest.mark.parametrize(("typed", "answer"), MISTAKES, ids=[" ".join(typed) for typed, _ in MISTAKES])
def test_a_typical_mistake_is_answered_with_cause_and_remedy(launch, workplace, typed, answer):
    ended = launch(*typed, folder=workplace)
    assert ended.status == 1
    assert answer in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert len(ended.err.splitlines()) <= 12
    assert not (workplace / "runs/new").exists()


def started(*command, folder, **more):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (("-m", "launch.tarin"), "launch: there is no command 'launch.tarin'. Did you mean python -m launch.train?\n"),
        (("-m", "launch", "trian"), "launch: there is no command 'trian'. Did you mean train?\n"),
        ((f"{ROOT}/launch/train.py",), f"in the folder {ROOT}: python -m launch.train\n"),
        ((f"{ROOT}/launch/prepare.py",), f"in the folder {ROOT}: python -m launch.prepare\n"),
        ((f"{ROOT}/launch",), f"in the folder {ROOT}: python -m launch\n"),
    ],
)
def test_a_wrong_start_is_answered_with_the_right_one(tmp_path, typed, answer):
    ended = started(sys.executable, *typed, folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.endswith(answer)
    assert len(ended.stderr.splitlines()) == 1


def test_an_old_python_is_refused(tmp_path):
    code = "import sys; sys.version_info = (3, 9, 18); import launch"
    for ended in (
        started(sys.executable, "-c", code, folder=tmp_path),
        *(started(python, "-m", "launch.train", folder=tmp_path) for python in OLD_PYTHONS[:1]),
    ):
        assert ended.returncode == 1
        assert ended.stderr.startswith("launch: Python 3.11 or newer is needed, and this is 3.")


def test_a_python_without_the_packages_is_told_to_activate_the_environment(tmp_path):
    ended = started(sys.executable, "-S", "-m", "launch.train", folder=tmp_path)
    assert ended.returncode == 1
    assert "has no absl, attrs, numpy, torch. Activate the environment" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "typed",
    [
        ("train", "--data_path=dta"),
        ("train", "--data.batch_szie=4"),
        ("transcribe", "said.wav"),
        ("transcribe", "--run_dir=runs/one", "siad.wav"),
        ("evaluate", "--run_dir=runs/onne"),
        ("evaluate", "--run_dir=runs/one", "--lm.path=lm.arpa"),
    ],
)
def test_a_mistake_that_needs_no_model_is_told_before_torch_is_imported(workplace, typed):
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('TORCH', 'torch' in sys.modules))\n"
        f"sys.argv = {['x', *typed[1:]]!r}\n"
        f"runpy.run_module('launch.{typed[0]}', run_name='__main__', alter_sys=True)\n"
    )
    ended = started(sys.executable, "-c", code, folder=workplace)
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[-1] == "TORCH False", ended.stderr
