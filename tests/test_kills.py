"""Whatever is killed, and whenever: the run goes on by the same command and ends with an undisturbed run's bits."""

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from killing import ROOT, Moment, Run, differences, last_checkpoint, metrics
from training import claim_run, open_trainer, run_training
from waiting import wait_for

from ds2f import checkpoint
from ds2f.config import (
    CheckpointingConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    SpectConfig,
    TrainingConfig,
    VisualizationConfig,
    resolve,
)
from ds2f.runner import split_evaluator
from ds2f.runner.distributed.signals import Stopped

ARCHIVE = ROOT.parent / "shared/data"
BOTH = (
    "--device=cpu",
    "--model.dropout=0.1",
    "--augmentation.speeds=0.9,1.0,1.1",
    "--augmentation.frequency_masks=2",
    "--augmentation.time_masks=2",
    "--optim.schedule=one_cycle",
    "--optim.learning_rate=3e-3",
    "--optim.warmup=0.2",
    "--apex.opt_level=O2",
    "--apex.growth_interval=5",  # so that the loss scale moves
    "--training.log_every=1",
    "--training.evaluate_test",
    "--novisualization.progress",
)
TONES = (
    *BOTH,
    "--data.dataset=tones",
    "--data.batch_size=2",
    "--spect.num_mels=16",
    "--model.hidden_size=8",
    "--model.hidden_layers=2",
    "--training.epochs=10",
    "--checkpointing.checkpoint_per_iteration=2",
)
AN4 = (
    *BOTH,
    "--data.dataset=an4",
    "--data.max_duration=2",  # 270 utterances: many epochs a minute
    "--model.hidden_size=32",
    "--model.hidden_layers=2",
    "--training.epochs=8",
    "--checkpointing.checkpoint_per_iteration=3",
)


@pytest.fixture(scope="module")
def an4(tmp_path_factory):
    if not any(ARCHIVE.glob("an4*")):
        pytest.skip(f"AN4's archive is not in {ARCHIVE}")
    folder = tmp_path_factory.mktemp("an4")
    command = [sys.executable, "-m", "launch.prepare", "--dataset=an4", f"--data_path={folder}", f"--archive={ARCHIVE}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def launched():
    """Makes runs, and leaves nothing of them running."""
    runs = []

    def launch(run_dir, data_path, flags):
        runs.append(Run(run_dir, [*flags, f"--data_path={data_path}"]))
        return runs[-1]

    yield launch
    for run in runs:
        if run.process is not None:
            run.kill()


@pytest.fixture(scope="module")
def undisturbed_tones(tone_corpus, tmp_path_factory):
    """A run of the tones that nothing disturbs, under way: ``end`` waits for it."""
    run = Run(tmp_path_factory.mktemp("undisturbed") / "run", [*TONES, f"--data_path={tone_corpus}"]).start()
    yield run
    run.kill()


def tell(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def tally(kills):
    """How many kills met what."""
    counts = {"write": 0, "removal": 0}
    for kill in kills:
        counts |= {kind: counts[kind] + 1 for kind in kill.damage}
    tell(f"{len(kills)} kills; half done were left: {counts}; {sum(kill.steps <= 0 for kill in kills)} before a step")
    return counts


def is_quiet(run):
    """Whether a run has not finished a step for a while."""
    before = len(metrics(run.run_dir))
    time.sleep(1)
    return len(metrics(run.run_dir)) == before


def test_killed_again_and_again_a_run_ends_with_the_bits_of_an_undisturbed_one(
    tone_corpus, tmp_path, launched, undisturbed_tones
):
    run, generator = launched(tmp_path / "killed", tone_corpus, TONES), random.Random(1)
    moments = [
        Moment(generator.uniform(0, 0.03), "write"),
        Moment(generator.uniform(0, 0.2), "write", generator.randint(2, 4)),
        Moment(generator.uniform(0, 0.002), "removal"),
    ]
    for moment in moments:
        assert run.start().reaches(moment), run.said
        tell(f"killed {run.kill()}")
    assert run.end() == 0, run.said
    assert undisturbed_tones.end() == 0, undisturbed_tones.said
    assert "going on from checkpoint" in run.said
    assert "Traceback" not in run.said, run.said
    assert differences(undisturbed_tones.run_dir, run.run_dir) == []


def moment(generator, seconds):
    """Anywhere within so many seconds, or soon after the write or the removal of a checkpoint began."""
    kind = generator.choices(("start", "write", "removal"), (5, 4, 1))[0]
    latest = {"start": seconds, "write": 0.03, "removal": 0.002}[kind]
    return Moment(generator.uniform(0.2 if kind == "start" else 0, latest), kind, generator.randint(1, 4))


@pytest.mark.long
def test_fifty_kills_of_every_process_leave_no_trace(an4, tmp_path, launched):
    flags = (*AN4, "--data.batch_size=32")
    undisturbed = launched(tmp_path / "undisturbed", an4, flags).start()
    assert undisturbed.end() == 0, undisturbed.said
    tell(f"undisturbed: {undisturbed.iteration} steps in {undisturbed.age:.0f} s")
    generator, kills, within, number = random.Random(50), [], undisturbed.age / 4, 0
    while len(kills) < 50:  # when a run ends before the fiftieth kill, another one begins
        number, before = number + 1, len(kills)
        data = tmp_path / f"data{number}"  # without a cache of features: writing it is disturbed as well
        shutil.copytree(an4, data, copy_function=os.link, ignore=shutil.ignore_patterns("cache"))
        run = launched(tmp_path / f"killed{number}", data, flags)
        while len(kills) < 50 and run.start().reaches(moment(generator, within)):
            kills.append(run.kill())
            tell(f"run {number}, kill {len(kills)} {kills[-1]}")
        assert run.end() == 0, run.said
        assert "Traceback" not in run.said, run.said
        assert differences(undisturbed.run_dir, run.run_dir) == []
        tell(f"run {number} ended with the bits of the undisturbed one after {len(kills) - before} kills")
        shutil.rmtree(data)
    assert tally(kills)["write"] >= 5


@pytest.mark.long
def test_ten_kills_of_one_rank_of_four_leave_no_trace(an4, tmp_path, launched):
    flags = (*AN4, "--data.batch_size=8", "--nproc_per_node=4", "--max_restarts=100")
    undisturbed = launched(tmp_path / "undisturbed", an4, flags).start()
    assert undisturbed.end() == 0, undisturbed.said
    tell(f"undisturbed: {undisturbed.iteration} steps in {undisturbed.age:.0f} s")
    generator, kills, within, number = random.Random(10), [], undisturbed.age / 4, 0
    while len(kills) < 10:  # when a job ends before the tenth kill, another one begins
        number, before = number + 1, len(kills)
        job = launched(tmp_path / f"killed{number}", an4, flags).start()
        while len(kills) < 10:
            restarts = len(kills) - before
            assert wait_for(lambda job=job, restarts=restarts: len(job.ranks(restarts)) == 4 or job.ended), job.said
            rank = generator.randrange(4)
            kill = job.kill_rank(rank, restarts=restarts) if job.reaches(moment(generator, within)) else None
            if kill is None:
                break
            kills.append(kill)
            tell(f"job {number}, kill {len(kills)} of rank {rank} {kills[-1]}")
        assert job.end() == 0, job.said
        assert "Traceback" not in job.said, job.said
        told = re.findall(r"rank \d of 4 \(process \d+\) was killed by SIGKILL; starting all ranks again", job.said)
        assert len(told) == len(kills) - before, job.said
        assert job.processes() == []
        assert differences(undisturbed.run_dir, job.run_dir) == []
        tell(f"job {number} ended with the bits of the undisturbed one after {len(told)} kills")
    tally(kills)


def test_what_schedulers_send_costs_nothing(tone_corpus, tmp_path, launched, undisturbed_tones):
    run = launched(tmp_path / "stopped", tone_corpus, TONES)
    for number, status in ((signal.SIGTERM, 143), (signal.SIGUSR1, 138)):
        assert run.start().reaches(Moment(0.01, "write", 3)), run.said
        os.killpg(run.process.pid, number)  # schedulers signal every process: the loaders too
        assert run.end(10) == status, run.said
        assert last_checkpoint(run.run_dir)[1]["iteration"] == run.iteration
    assert run.said.count("everything is kept. Go on with: ") == 2
    assert run.start().end() == 0, run.said
    assert "Traceback" not in run.said, run.said
    assert undisturbed_tones.end() == 0, undisturbed_tones.said
    assert differences(undisturbed_tones.run_dir, run.run_dir) == []


def test_a_signal_to_every_process_of_a_job_is_one_request(tone_corpus, tmp_path, launched):
    job = launched(tmp_path / "job", tone_corpus, (*TONES, "--training.epochs=1000", "--nproc_per_node=2")).start()
    assert job.reaches(Moment(0.01, "write", 3)), job.said
    for pid in job.processes():  # agent, ranks and loaders, as Slurm does
        os.kill(pid, signal.SIGTERM)
    assert job.end(10) == 143, job.said
    assert job.said.count("everything is kept. Go on with: ") == 1, job.said
    assert last_checkpoint(job.run_dir)[1]["iteration"] == job.iteration


def test_a_second_ctrl_c_leaves_at_once(tone_corpus, tmp_path):
    cfg = resolve(
        Config(
            data_path=str(tone_corpus),
            device="cpu",
            data=DataConfig(dataset="tones", batch_size=4, num_workers=0, cache_features=False),
            model=ModelConfig(hidden_size=8, hidden_layers=1),
            visualization=VisualizationConfig(tensorboard=False, progress=False),
        )
    )
    claim_run(tmp_path / "run", cfg)
    opened, step = open_trainer(cfg, tmp_path / "run"), "import os, signal, sys, time; time.sleep({}); {}"
    again = "os.kill(int(sys.argv[1]), signal.SIGINT)"

    def endless(*_, **__):
        for seconds in (0.5, 1.5):
            subprocess.Popen([sys.executable, "-c", step.format(seconds, again), str(os.getpid())])
        time.sleep(60)

    opened._program = SimpleNamespace(step=endless)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match="stopped at once"):
        opened.run()
    assert time.monotonic() - began < 10
    for loader in opened._loaders.values():
        loader.close()


def test_a_request_during_any_evaluation_costs_nothing(tone_corpus, tmp_path, monkeypatch):
    cfg = resolve(
        Config(
            data_path=str(tone_corpus),
            device="cpu",
            data=DataConfig(dataset="tones", batch_size=4, num_workers=0, cache_features=False),
            spect=SpectConfig(num_mels=16),
            model=ModelConfig(hidden_size=8, hidden_layers=1),
            optim=OptimConfig(schedule="constant", learning_rate=1e-5),  # so low that the first epoch stays the best
            training=TrainingConfig(epochs=2, log_every=1, evaluate_test=True),
            checkpointing=CheckpointingConfig(load_auto_checkpoint=True),
            visualization=VisualizationConfig(tensorboard=False, progress=False),
        )
    )

    whole, evaluate = tmp_path / "undisturbed", split_evaluator.evaluate
    run_training(cfg, whole)
    best, last = (checkpoint.load_model(whole, which=which)[1] for which in ("best", "last"))
    assert not torch.equal(best["output"]["weight"], last["output"]["weight"])
    for interrupted in range(4):  # after the first epoch, after the second, and the best model on two sets
        evaluations, run_dir = itertools.count(), tmp_path / f"stopped{interrupted}"

        def interrupt(*args, evaluations=evaluations, interrupted=interrupted, **settings):
            if next(evaluations) == interrupted:
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(*args, **settings)

        monkeypatch.setattr(split_evaluator, "evaluate", interrupt)
        with pytest.raises(Stopped) as stopped:
            run_training(cfg, run_dir)
        assert stopped.value.status == 143
        run_training(cfg, run_dir)
        assert differences(whole, run_dir) == [], f"evaluation {interrupted}"
