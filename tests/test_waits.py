"""Waits end: whatever a run waits for, it heeds a signal, names what hangs, and keeps its steps in a checkpoint."""

import os
import re
import shutil
import signal

import pytest
from killing import Moment, Run, differences, last_checkpoint, metrics, parent
from waiting import wait_for

TONES = (
    "--device=cpu",
    "--data.dataset=tones",
    "--data.batch_size=2",
    "--data.num_workers=1",
    "--data.cache_features=false",
    "--spect.num_mels=16",
    "--model.hidden_size=8",
    "--model.hidden_layers=1",
    "--model.dropout=0.1",
    "--optim.schedule=constant",
    "--optim.learning_rate=0.01",
    "--apex.opt_level=O0",
    "--training.log_every=1",
    "--training.epochs=12",
    "--max_restarts=0",
    "--novisualization.progress",
    "--novisualization.tensorboard",
)


@pytest.fixture(scope="module")
def undisturbed(tone_corpus, tmp_path_factory):
    """Runs that nothing disturbs, by their number of ranks."""
    runs = {}

    def of(ranks):
        if ranks not in runs:
            folder = tmp_path_factory.mktemp("undisturbed")
            runs[ranks] = Run(folder / "run", [*TONES, f"--data_path={tone_corpus}", f"--nproc_per_node={ranks}"])
            assert runs[ranks].start().end() == 0, runs[ranks].said
        return runs[ranks].run_dir

    return of


@pytest.fixture
def launched(tmp_path):
    """Makes runs, and leaves nothing of them running."""
    runs = []

    def launch(data_path, *flags):
        runs.append(Run(tmp_path / "run", [*TONES, f"--data_path={data_path}", *flags]))
        return runs[-1].start()

    yield launch
    for run in runs:
        run.kill()


def under_way(run, steps=7):
    """Waits until a run is in its second epoch."""
    assert wait_for(lambda: run.iteration >= steps, limit=60), run.said
    return run


def loaders(run, rank=0, ranks=1):
    """The loader processes of a rank, in the order of their start: of training, then of validation."""
    owner = run.process.pid if ranks == 1 else run.ranks(0)[rank]
    return sorted(pid for pid in run.processes() if parent(pid) == owner)


def goes_on_as_undisturbed(run, expected):
    """A run that is continued ends with the bits of one that nothing has disturbed."""
    assert "Traceback" not in run.said, run.said
    assert run.start().end() == 0, run.said
    assert re.search(r"going on from checkpoint (\d+)", run.said), run.said
    assert differences(expected, run.run_dir) == []


@pytest.mark.parametrize(
    ("ranks", "victim", "number", "told"),
    [
        (1, 0, signal.SIGKILL, "killed by SIGKILL"),
        pytest.param(1, 0, signal.SIGSTOP, "is stopped", marks=pytest.mark.long),
        pytest.param(2, 0, signal.SIGSTOP, "is stopped", marks=pytest.mark.long),
        pytest.param(2, 1, signal.SIGKILL, "killed by SIGKILL", marks=pytest.mark.long),
        (2, 1, signal.SIGSTOP, "is stopped"),
    ],
)
def test_a_loader_that_dies_or_hangs_costs_no_step(tone_corpus, launched, undisturbed, ranks, victim, number, told):
    run = launched(tone_corpus, f"--nproc_per_node={ranks}", "--data.loader_timeout=2")
    under_way(run)
    pid = loaders(run, victim, ranks)[0]
    os.kill(pid, number)
    assert run.end(40) == 1, run.said
    last = run.said.strip().splitlines()[-1]
    assert f"loader process {pid} " in last, run.said
    assert told in last, run.said
    done = run.iteration
    assert last_checkpoint(run.run_dir)[1]["iteration"] == done
    assert f"checkpoint {done} keeps all its steps" in run.said
    goes_on_as_undisturbed(run, undisturbed(ranks))


@pytest.mark.parametrize(
    ("ranks", "number"),
    [
        (1, signal.SIGTERM),
        (1, signal.SIGINT),
        pytest.param(1, signal.SIGHUP, marks=pytest.mark.long),
        pytest.param(1, signal.SIGUSR1, marks=pytest.mark.long),
        pytest.param(2, signal.SIGTERM, marks=pytest.mark.long),  # two ranks: the next test
    ],
)
def test_a_signal_is_heeded_while_a_batch_is_waited_for(tone_corpus, launched, undisturbed, ranks, number):
    run = under_way(launched(tone_corpus, f"--nproc_per_node={ranks}"))
    for pid in loaders(run, ranks - 1, ranks):
        os.kill(pid, signal.SIGSTOP)
    assert wait_for(lambda: quiet(run)), run.said
    run.process.send_signal(number)
    assert run.end(20) == 128 + number, run.said
    assert last_checkpoint(run.run_dir)[1]["iteration"] == run.iteration
    assert "everything is kept. Go on with: " in run.said
    if number == signal.SIGTERM:
        goes_on_as_undisturbed(run, undisturbed(ranks))


def test_a_signal_is_heeded_while_a_stopped_rank_is_waited_for(tone_corpus, launched):
    run = stopped_and_signalled(launched(tone_corpus, "--nproc_per_node=2"), rank=1)
    assert last_checkpoint(run.run_dir)[1]["iteration"] == run.iteration
    assert "everything is kept" in run.said


@pytest.mark.long
def test_a_signal_is_heeded_while_rank_0_is_stopped_and_the_loss_is_said(tone_corpus, launched):
    run = stopped_and_signalled(launched(tone_corpus, "--nproc_per_node=2"), rank=0)
    assert "the steps since the last checkpoint are lost" in run.said
    assert "everything is kept" not in run.said


def stopped_and_signalled(run, rank):
    """Stops a rank without its knowledge, then asks the run to end, and waits until nothing of it is left."""
    os.kill(under_way(run).ranks(0)[rank], signal.SIGSTOP)
    assert wait_for(lambda: quiet(run)), run.said
    run.process.send_signal(signal.SIGTERM)
    assert run.end(40) == 143, run.said
    assert wait_for(lambda: run.processes() == []), "processes are left over"
    return run


def quiet(run):
    """Whether a run has not finished a step for a moment."""
    before = len(metrics(run.run_dir))
    run.reaches(Moment(1))
    return len(metrics(run.run_dir)) == before


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_validation_whose_recordings_vanish_costs_no_step(tone_corpus, tmp_path, launched, ranks):
    data = tmp_path / "data"
    shutil.copytree(tone_corpus, data)
    run = under_way(launched(data, f"--nproc_per_node={ranks}", "--data.max_unreadable=1"))
    (data / "val0.wav").rename(data / "away")
    assert wait_for(lambda: "(1 unreadable, left out)" in run.said), run.said
    counted = [line["val_unreadable"] for line in metrics(run.run_dir) if line["kind"] == "epoch"]
    assert counted[0] == 0
    assert counted[-1] == 1
    for name in ("val1.wav", "val2.wav"):
        (data / name).unlink()
    assert run.end(40) == 1, run.said
    assert "val" in run.said.strip().splitlines()[-1], run.said
    assert last_checkpoint(run.run_dir)[1]["iteration"] == run.iteration
    assert "Traceback" not in run.said, run.said


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.long), 2])
def test_training_data_that_vanish_cost_no_step(tone_corpus, tmp_path, launched, ranks):
    data = tmp_path / "data"
    shutil.copytree(tone_corpus, data)
    run = under_way(launched(data, f"--nproc_per_node={ranks}", "--data.max_unreadable=2"))
    for path in data.glob("train*.wav"):
        path.unlink()
    assert run.end(40) == 1, run.said
    assert "more than data.max_unreadable=2" in run.said
    assert last_checkpoint(run.run_dir)[1]["iteration"] == run.iteration
    assert "Traceback" not in run.said, run.said
