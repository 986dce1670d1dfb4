"""The end of a run before its time, wherever it comes: no step is lost, taken twice or without its line."""

import errno
import itertools
import os
import signal
from types import SimpleNamespace

import attrs
import pytest
import torch
from killing import differences, last_checkpoint, metrics
from training import claim_run, open_trainer, run_training

from ds2f.checkpoint import Checkpoints, newest_iteration
from ds2f.config import (
    ApexConfig,
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
from ds2f.runner import health, trace
from ds2f.runner.distributed import consistency
from ds2f.runner.distributed.collectives import ALONE
from ds2f.runner.distributed.job_store import PeerLost
from ds2f.runner.distributed.signals import Stopped, stop_on_request
from ds2f.runner.stops import StopRequested, Stops

pytestmark = pytest.mark.filterwarnings("ignore:os.fork")

WAITED = StopRequested(agreed=False)
STEP = 2  # after which the run is ended, of 3 in an epoch


@pytest.fixture(scope="module")
def cfg(tone_corpus):
    return resolve(
        Config(
            data_path=str(tone_corpus),
            device="cpu",
            data=DataConfig(dataset="tones", batch_size=4, num_workers=0, cache_features=False),
            spect=SpectConfig(num_mels=16),
            model=ModelConfig(hidden_size=8, hidden_layers=1),
            optim=OptimConfig(schedule="constant", learning_rate=0.01),
            apex=ApexConfig(opt_level="O0"),
            training=TrainingConfig(epochs=2, log_every=1),
            visualization=VisualizationConfig(tensorboard=False, progress=False),
        )
    )


@pytest.fixture(scope="module")
def whole(cfg, tmp_path_factory):
    """A run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_training(cfg, folder)
    return folder


def opened(cfg, run_dir):
    return open_trainer(claim_run(run_dir, cfg), run_dir)


def raising(error, function, *, call):
    """The function, but for one call, which raises."""
    calls = itertools.count(1)

    def either(*arguments, **options):
        if next(calls) == call:
            raise error
        return function(*arguments, **options)

    return either


def goes_on_as_undisturbed(cfg, run_dir, whole):
    """A run that is continued ends as one that nothing has disturbed."""
    on = attrs.evolve(cfg.checkpointing, load_auto_checkpoint=True)
    run_training(attrs.evolve(cfg, checkpointing=on), run_dir)
    assert differences(whole, run_dir) == []


def test_a_step_has_its_line_when_the_wait_for_the_other_ranks_messages_ends_the_run(cfg, whole, tmp_path):
    trainer = opened(cfg, tmp_path / "ended")
    trainer._rank0_log.flush = raising(WAITED, trainer._rank0_log.flush, call=STEP)
    with pytest.raises(Stopped):
        trainer.run()
    assert metrics(tmp_path / "ended")[-1]["iteration"] == STEP
    goes_on_as_undisturbed(cfg, tmp_path / "ended", whole)


def test_a_step_is_counted_before_the_ranks_gather_its_trace(cfg, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "FIRST", STEP - 1)
    monkeypatch.setattr(trace, "COUNT", 1)
    monkeypatch.setattr(trace.StepTrace, "_write", raising(WAITED, lambda self: None, call=1))
    traced = attrs.evolve(cfg, visualization=attrs.evolve(cfg.visualization, trace=True))
    with pytest.raises(Stopped):
        opened(traced, tmp_path / "ended").run()
    assert last_checkpoint(tmp_path / "ended")[1]["iteration"] == STEP
    goes_on_as_undisturbed(cfg, tmp_path / "ended", whole)


def test_a_rank_that_is_lost_after_the_vote_to_stop_costs_no_step(cfg, whole, tmp_path, monkeypatch):
    trainer = opened(cfg, tmp_path / "ended")
    vote, steps = trainer._stops.vote, itertools.count(1)

    def ask(*counts):
        if next(steps) == STEP:
            os.kill(os.getpid(), signal.SIGTERM)
        return vote(*counts)

    trainer._stops.vote = ask
    with monkeypatch.context() as lost:
        lost.setattr(consistency, "require_same_params", raising(PeerLost("rank 1"), lambda *_: None, call=1))
        with pytest.raises(Stopped, match="everything is kept") as stopped:
            trainer.run()
    assert stopped.value.status == 143
    assert last_checkpoint(tmp_path / "ended")[1]["iteration"] == STEP
    goes_on_as_undisturbed(cfg, tmp_path / "ended", whole)


def test_a_device_that_waits_for_a_lost_rank_is_not_read_and_the_loss_is_said(cfg, tmp_path):
    trainer = opened(cfg, tmp_path / "ended")
    vote, steps = trainer._stops.vote, itertools.count(1)

    def lose(*counts):
        if next(steps) == STEP:
            trainer._backend = SimpleNamespace(device=torch.device("cuda"))
            trainer._meter.read = trainer._checkpoints.save = trainer._checkpoints.keep = None  # would wait without end
            os.kill(os.getpid(), signal.SIGTERM)
            raise PeerLost("rank 1")
        return vote(*counts)

    trainer._stops.vote = lose
    with pytest.raises(Stopped, match="the steps after the last checkpoint are lost") as stopped:
        trainer.run()
    assert stopped.value.status == 143
    assert newest_iteration(tmp_path / "ended") == -1


def test_the_last_epoch_is_the_best_without_a_validation_though_a_rank_is_lost_when_it_is_saved(
    cfg, tmp_path, monkeypatch
):
    cfg = attrs.evolve(cfg, data=attrs.evolve(cfg.data, train_on_val=True))
    monkeypatch.setattr(consistency, "require_same_params", raising(PeerLost("rank 1"), lambda *_: None, call=2))
    with pytest.raises(PeerLost):
        opened(cfg, tmp_path / "ended").run()
    checkpoints = Checkpoints(tmp_path / "ended", read_only=True)
    assert checkpoints.find("best") == checkpoints.find("last") == 2 * 4  # of 13 utterances, 4 a step
    checkpoints.close()


@pytest.mark.parametrize(("environment", "said"), [({}, 1), ({"DS2F_AGENT": "1"}, 0), ({"RANK": "1"}, 0)])
def test_a_request_is_acknowledged_at_once_and_only_once(monkeypatch, capfd, environment, said):
    for name in ("DS2F_AGENT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with stop_on_request() as requests:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert requests == [signal.SIGTERM]
    assert capfd.readouterr().err.count("stopping: ") == said


def test_a_request_after_the_last_vote_ends_no_wait_after_the_training():
    stops = Stops(ALONE, on_host=True)
    with stops.heeding():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopRequested):
            stops.look()
    stops.look()


@pytest.mark.parametrize("error", [WAITED, PeerLost("rank 1")])
def test_a_checkpoint_that_the_disk_refuses_is_not_called_kept(cfg, tmp_path, monkeypatch, error):
    def refuse(folder, size):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr("ds2f.checkpoint.storage.require_free", refuse)
    trainer = opened(cfg, tmp_path / "ended")
    trainer._stops.vote = raising(error, trainer._stops.vote, call=STEP)
    step = trainer._program.step

    def asked(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **options)

    trainer._program = SimpleNamespace(step=asked, schedule=trainer._program.schedule)
    trainer._stops.obey = lambda: None  # a request that waits for the vote
    with pytest.raises(Stopped, match="the steps after the last checkpoint are lost"):
        trainer.run()


@pytest.mark.parametrize("agreed", [pytest.param(True, marks=pytest.mark.long), False])
def test_a_request_at_the_last_of_max_steps_leaves_the_validation_to_the_run_that_goes_on(cfg, tmp_path, agreed):
    cfg = attrs.evolve(cfg, training=attrs.evolve(cfg.training, max_steps=4))
    run_training(cfg, tmp_path / "whole")
    trainer = opened(cfg, tmp_path / "ended")

    def obey():
        if trainer._progress.iteration == 4:
            raise StopRequested(agreed=agreed)

    trainer._stops.obey = obey
    with pytest.raises(Stopped):
        trainer.run()
    goes_on_as_undisturbed(cfg, tmp_path / "ended", tmp_path / "whole")


@pytest.mark.parametrize(
    ("every", "where"),
    [
        (1, "vote"),
        pytest.param(1, "restoring", marks=pytest.mark.long),
        pytest.param(0, "vote", marks=pytest.mark.long),
    ],
)
def test_a_state_whose_loss_has_spiked_is_kept_only_where_no_checkpoint_can_be_restored(
    cfg, tmp_path, monkeypatch, every, where
):
    def spiked(progress, loss, factor):
        return factor > 0 and progress.iteration == STEP

    monkeypatch.setattr(health, "spiked", spiked)
    cfg = attrs.evolve(
        cfg,
        training=attrs.evolve(cfg.training, rollback_spike=3.0),
        checkpointing=CheckpointingConfig(checkpoint_per_iteration=every),
    )
    run_training(cfg, tmp_path / "whole")
    trainer = opened(cfg, tmp_path / "ended")
    if where == "restoring":
        trainer._checkpoints.resume = raising(WAITED, trainer._checkpoints.resume, call=1)
    else:
        trainer._stops.vote = raising(WAITED, trainer._stops.vote, call=STEP)
    with pytest.raises(
        Stopped, match="the steps after the last checkpoint are lost" if every else "everything is kept"
    ):
        trainer.run()
    goes_on_as_undisturbed(cfg, tmp_path / "ended", tmp_path / "whole")
