"""The commands as users type them: train, evaluate, transcribe, and Ctrl-C."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import attrs
import pytest
import torch
from commands import ROOT, commands, variables

from ds2f.config import Config, DataConfig, ModelConfig, SpectConfig, TrainingConfig, VisualizationConfig, resolve
from ds2f.errors import InputError
from ds2f.runner import first_state, program, rank0_checkpoints, run_dir, splits, trainer
from ds2f.runner.device import autotune, backend
from ds2f.runner.distributed import collectives
from launch.train import train

TINY = (
    "--device=cpu",
    "--data.dataset=tones",
    "--data.batch_size=4",
    "--data.num_workers=1",
    "--model.hidden_size=8",
    "--model.hidden_layers=1",
    "--optim.schedule=constant",
    "--optim.learning_rate=0.01",
    "--apex.opt_level=O0",
)


def test_train_then_evaluate_then_transcribe(launch, tone_corpus, tmp_path):
    flags = (*TINY, f"--data_path={tone_corpus}", "--training.epochs=2", "--training.evaluate_test")
    flagfile = tmp_path / "tones.flags"
    flagfile.write_text("\n".join(flags))
    code, out, err, _ = launch("train", f"--flagfile={flagfile}", folder=tmp_path)
    assert code == 0, err
    assert "epoch 2/2" in out
    run = tmp_path / "runs/tones"
    results = json.loads((run / "results.json").read_text())
    assert results["name"] == "tones"
    assert any((run / "tensorboard").iterdir())

    saved = tmp_path / "out.json"
    counted = tmp_path / "counted.json"
    code, out, err, _ = launch(
        "evaluate", f"--run_dir={run}", f"--save_output={saved}", f"--save_results={counted}", folder=tmp_path
    )
    assert code == 0, err
    counted = json.loads(counted.read_text())
    assert counted["test"] == results["test"]
    assert (counted["name"], counted["seed"], counted["lm"]["path"]) == ("tones", results["seed"], "")
    assert f"{results['test']['wer']:.3f}" in out
    assert len(json.loads(saved.read_text())) == 3

    manifest = f"--data.test_manifest={tone_corpus}/tones_val_manifest.csv"
    code, out, err, _ = launch("evaluate", f"--run_dir={run}", manifest, folder=tmp_path)
    assert code == 0, err
    assert f"{results['val']['wer']:.3f}" in out

    code, _, err, _ = launch("evaluate", f"--run_dir={run}", "--which=9999", folder=tmp_path)
    assert code == 1
    assert f"holds no checkpoint '9999': there are {results['steps']}, {results['steps'] // 2}." in err

    files = (tone_corpus / "test0.wav", tone_corpus / "missing.wav", tone_corpus / "test1.wav")
    code, out, err, _ = launch("transcribe", f"--run_dir={run}", *files, folder=tmp_path)
    assert code == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(files[0]), str(files[2])]
    assert "missing.wav" in err
    assert "Traceback" not in err
    assert {row["audio"]: row["transcript"] for row in json.loads(saved.read_text())}[str(files[0])] == (
        out.splitlines()[0].split("\t")[1]
    )

    code, _, err, _ = launch("train", f"--flagfile={run}/flags.txt", folder=tmp_path)
    assert code == 1
    assert "already holds a run" in err


def test_ctrl_c_stops_cleanly_and_prints_how_to_continue(launch, tone_corpus, tmp_path):
    flags = (*TINY, f"--data_path={tone_corpus}", "--run_dir=run", "--notraining.evaluate_test")
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = commands().start("launch.train", *flags, "--training.epochs=2000", folder=tmp_path, out=out, err=err)
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count('"epoch"') >= 2):
        assert time.monotonic() < deadline, (tmp_path / "err").read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # like a terminal, which also signals loader processes
    assert process.wait(60) == 130, (tmp_path / "err").read_text()
    assert (tmp_path / "err").read_text().endswith("wrote run/report.html\n")
    assert "Traceback" not in (tmp_path / "err").read_text()
    page = (tmp_path / "run/report.html").read_text()
    assert "It stopped in epoch" in page
    assert "Go on with it" in page
    advice = next(
        line for line in (tmp_path / "out").read_text().splitlines() if "Go on with: python -m launch.train" in line
    )
    resume = advice.split("python -m launch.train ")[1].split()
    code, out, err, _ = launch("train", *resume, "--training.epochs=4", folder=tmp_path)
    assert code == 0, err
    assert "going on from checkpoint" in out
    changed = "run goes on with other flags than before: --training.epochs=4 (was 2000)\n"
    assert changed in (tmp_path / "run/log.txt").read_text()


@pytest.mark.parametrize(
    ("module", "flags", "expected"),
    [
        ("train", ["--data.batch_size=0"], "data.batch_size"),
        ("train", ["--data.batchsize=3"], "data.batchsize"),
        ("train", ["--data_path=nowhere"], "launch.prepare"),
        ("train", ["--optim.learning_rate=1e-4"], "optim.schedule"),
        ("evaluate", ["--run_dir=nowhere"], "holds no run"),
        ("evaluate", [], "--run_dir"),
        ("transcribe", ["--run_dir=nowhere", "a.wav"], "holds no run"),
    ],
)
def test_mistakes_end_in_one_message_and_status_1(launch, tmp_path, module, flags, expected):
    code, _, err, _ = launch(module, *flags, folder=tmp_path)
    assert code == 1
    assert expected in err
    assert "Traceback" not in err
    if module == "train":
        assert {path.name for path in tmp_path.iterdir()} <= {".out", ".err"}, "a mistake leaves nothing behind"
    if module == "train" and "nowhere" in flags[0]:
        assert launch(module, *flags, folder=tmp_path).err == err, "a failed start must not block the next"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"RANK": "0"}, "rank 0: RANK is set, but of WORLD_SIZE, MASTER_ADDR and MASTER_PORT one cannot be used"),
        ({"RANK": "0", "LOCAL_RANK": "x"}, "rank 0: the environment says LOCAL_RANK=x, which is no number"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"},
            "rank 1 did not connect to the job's store",
        ),
    ],
)
def test_a_launchers_rank_without_a_job_ends_with_one_message(launch, tone_corpus, tmp_path, more, expected):
    status, _, err, _ = launch(
        "train", *TINY, f"--data_path={tone_corpus}", "--rdzv_timeout=0.5", folder=tmp_path, environment=more
    )
    assert status > 0
    assert expected in err
    assert err.count("\n") == 1


def test_closing_the_terminal_stops_cleanly(tone_corpus, tmp_path):
    flags = (*TINY, f"--data_path={tone_corpus}", "--run_dir=run", "--training.epochs=1000", "--training.log_every=1")
    command = [sys.executable, "-m", "launch.train", *flags, "--training.validate_every=1000"]
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup a training ignores SIGHUP
        os.execve(sys.executable, command, variables())
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        os.read(terminal, 65536)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert "load_auto_checkpoint" in (tmp_path / "run" / "log.txt").read_text().splitlines()[-1]


@pytest.mark.parametrize("more", [(), ("--model.kernel=hoisted", "--apex.opt_level=O2", "--apex.dtype=bf16")])
def test_a_quickstart_imports_nothing_slow_and_compiles_nothing_before_its_first_step_is_done(
    tone_corpus, tmp_path, more
):
    code = (
        "import os, subprocess, sys\n"
        "from ds2f.runner import program\n"
        "slow = ('torch._dynamo', 'torch._inductor', 'sympy', 'jax', 'orbax', 'scipy', 'tensorboard')\n"
        "original = program.Program.step\n"
        "def step(self, *args, **kwargs):\n"
        "    original(self, *args, **kwargs)\n"
        "    found = [name for name in slow if name in sys.modules]\n"
        "    compiled = os.path.exists('compiled')\n"
        "    subprocess.run(['cc'])\n"
        "    print('STEP', found, compiled, os.path.exists('compiled'), flush=True)\n"
        "    os._exit(0)\n"
        "program.Program.step = step\n"
        "import runpy\n"
        "runpy.run_module('launch.train', run_name='__main__', alter_sys=True)\n"
    )
    (tmp_path / "bin").mkdir()
    for compiler in ("cc", "c++", "gcc", "g++", "clang", "clang++", "ninja", "nvcc"):
        file = tmp_path / "bin" / compiler
        file.write_text(f"#!/bin/sh\necho $0 >> {tmp_path / 'compiled'}\nexit 1\n")
        file.chmod(0o755)
    env = variables({"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CC": None, "CXX": None})
    # The flags of the quickstart, on the tones and with a smaller model.
    flags = (f"--flagfile={ROOT / 'configs/quickstart.flags'}", "--data.dataset=tones", "--data.batch_size=2")
    flags += (
        "--model.hidden_size=8",
        f"--data_path={tone_corpus}",
        "--notraining.evaluate_test",
        "--training.max_steps=1",
    )
    flags += ("--training.log_every=1", "--run_dir=run", "--device=cpu", *more)
    result = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert result.stdout.splitlines()[-1:] == ["STEP [] False True"], result.stderr


@pytest.fixture
def calls(monkeypatch):
    """The calls of a start, in order. The processor has fast bf16, and no training and no timing takes place."""
    found = []

    def record(module, name):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: found.append(name) or original(*args, **kwargs))

    monkeypatch.setattr(backend, "_cpu_dtype", lambda: torch.bfloat16)
    monkeypatch.setattr(autotune, "_read_cache", lambda _: None)
    monkeypatch.setattr(autotune, "_measure", lambda candidates, *_, **__: dict.fromkeys(candidates, 1.0))
    monkeypatch.setattr(trainer.Trainer, "run", lambda _: None)
    for module, name in (
        (splits, "read_all"),
        (backend, "open_backend"),
        (collectives, "open_group"),
        (run_dir, "settle_on_rank0"),
        (splits, "load_all"),
        (autotune, "_measure"),
        (program, "build"),
        (first_state, "first_state"),
        (rank0_checkpoints.RankZeroCheckpoints, "prove"),
        (run_dir, "claim"),
        (trainer.Trainer, "begin"),
        (trainer.Trainer, "run"),
    ):
        record(module, name)
    return found


def fast_config(data_path, **training):
    """A configuration whose kernel would be timed where bf16 is fast; the corpus has 3 steps per epoch."""
    return resolve(
        Config(
            data_path=str(data_path),
            device="cpu",
            data=DataConfig(dataset="tones", batch_size=4, num_workers=0, cache_features=False),
            spect=SpectConfig(num_mels=16),
            model=ModelConfig(hidden_size=512, hidden_layers=1),
            training=TrainingConfig(**training),
            visualization=VisualizationConfig(tensorboard=False, progress=False),
        )
    )


def test_a_start_goes_from_data_to_devices_to_the_slow_parts_and_then_writes(calls, tone_corpus, tmp_path):
    assert train(fast_config(tone_corpus, epochs=70), tmp_path / "run") == 0
    assert calls == [
        *("read_all", "open_backend", "open_group", "settle_on_rank0", "load_all"),
        *("_measure", "build", "first_state", "prove", "claim", "begin", "run"),
    ]


@pytest.mark.parametrize("manifest", [None, "missing.wav,missing.txt\n", ""])
def test_a_wrong_manifest_ends_a_start_before_devices_and_leaves_no_folder(calls, tmp_path, manifest):
    if manifest is not None:
        for split in ("train", "val", "test"):
            (tmp_path / f"tones_{split}_manifest.csv").write_text(manifest)
    with pytest.raises(InputError, match=r"tones_train_manifest|missing"):
        train(fast_config(tmp_path, epochs=70), tmp_path / "run")
    assert calls == ["read_all"]
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_run_ends_a_start_before_loaders_and_kernels(calls, tone_corpus, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="already holds a run"):
        train(fast_config(tone_corpus, epochs=70), tmp_path)
    assert calls[-1] == "settle_on_rank0"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("epochs", "max_steps", "timed"),
    [(33, 0, False), (34, 0, True), (34, 99, False), (34, 100, True), (33, 100, False)],
)
def test_kernels_are_timed_only_in_a_run_of_100_steps_or_more(calls, tone_corpus, tmp_path, epochs, max_steps, timed):
    train(fast_config(tone_corpus, epochs=epochs, max_steps=max_steps), tmp_path / "run")
    assert ("_measure" in calls) == timed
    assert calls[-1] == "run"


def test_a_named_kernel_is_never_timed(calls, tone_corpus, tmp_path):
    cfg = fast_config(tone_corpus, epochs=70)
    train(attrs.evolve(cfg, model=attrs.evolve(cfg.model, kernel="fused")), tmp_path / "run")
    assert "_measure" not in calls
