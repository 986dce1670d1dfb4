"""The commands as users type them: train, evaluate, transcribe, and Ctrl-C."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from commands import commands, variables

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


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(launch, tone_corpus, tmp_path):
    flags = (*TINY, f"--data_path={tone_corpus}", "--run_dir=run", "--notraining.evaluate_test")
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = commands().start("launch.train", *flags, "--training.epochs=2000", folder=tmp_path, out=out, err=err)
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count('"epoch"') >= 2):
        assert time.monotonic() < deadline, (tmp_path / "err").read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the loader's processes get it too
    assert process.wait(60) == 130, (tmp_path / "err").read_text()
    assert "Traceback" not in (tmp_path / "err").read_text()
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
        assert launch(module, *flags, folder=tmp_path).err == err, "the failed start must not stand in the way"


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


def test_closing_the_terminal_stops_cleanly_too(tone_corpus, tmp_path):
    flags = (*TINY, f"--data_path={tone_corpus}", "--run_dir=run", "--training.epochs=1000", "--training.log_every=1")
    command = [sys.executable, "-m", "launch.train", *flags, "--training.validate_every=1000"]
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup a training would go on
        os.execve(sys.executable, command, variables())
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        os.read(terminal, 65536)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert "load_auto_checkpoint" in (tmp_path / "run" / "log.txt").read_text().splitlines()[-1]


def test_neither_orbax_nor_torchs_compiler_is_imported_before_the_first_step_is_done(tone_corpus, tmp_path):
    code = (
        "import os, sys\n"
        "from ds2f.runner import telemetry\n"
        "slow = ('jax', 'orbax', 'tensorstore', 'torch._dynamo', 'torch._inductor')\n"
        "def scalars(self, kind, iteration, values):\n"
        "    print(kind, iteration, [name for name in slow if name in sys.modules], flush=True)\n"
        "    os._exit(0)\n"
        "telemetry.Telemetry.scalars = scalars\n"
        "import runpy\n"
        "runpy.run_module('launch.train', run_name='__main__', alter_sys=True)\n"
    )
    flags = (*TINY, f"--data_path={tone_corpus}", "--training.max_steps=1", "--run_dir=run")
    result = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=tmp_path, env=variables(), capture_output=True, text=True, check=False
    )
    assert result.stdout.splitlines()[-1:] == ["train 1 []"], result.stderr
