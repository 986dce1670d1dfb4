"""The proof that checkpoints can be written: the first step does not wait for it, and a failure leaves nothing."""

import errno
import time

import attrs
import pytest

from ds2f.checkpoint import Checkpoints, manager, proof
from ds2f.checkpoint.orbax_io import ArrayStore
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
from ds2f.data import collate
from ds2f.errors import CheckpointError
from ds2f.runner.program import Program
from launch.train import train

pytestmark = pytest.mark.filterwarnings("ignore:os.fork")


def tiny(data_path, **sections):
    base = Config(
        data_path=str(data_path),
        device="cpu",
        data=DataConfig(dataset="tones", batch_size=4, num_workers=0, cache_features=False),
        spect=SpectConfig(num_mels=16),
        model=ModelConfig(hidden_size=4, hidden_layers=1, kernel="fused"),
        optim=OptimConfig(schedule="constant", learning_rate=0.01),
        training=TrainingConfig(epochs=100_000, log_every=1),
        visualization=VisualizationConfig(tensorboard=False, progress=False),
    )
    return resolve(attrs.evolve(base, **sections))


def refuse(*_):
    raise OSError(errno.EIO, "Input/output error")


@pytest.fixture(params=["save", "shapes", "restore"])
def refused(request, monkeypatch):
    """A file system that takes plain files, and refuses something that arrays need."""
    monkeypatch.setattr(ArrayStore, request.param, refuse)


def test_the_first_step_does_not_wait_for_orbax(tone_corpus, tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(proof, "_PATIENCE", 600)  # on a busy machine, the step may take longer than the patience
    step, store = Program.step, ArrayStore
    monkeypatch.setattr(Program, "step", lambda *args, **kwargs: order.append("step") or step(*args, **kwargs))
    monkeypatch.setattr(manager, "ArrayStore", lambda: order.append("orbax") or store())
    data = DataConfig(dataset="tones", batch_size=4, num_workers=1, cache_features=False)
    train(tiny(tone_corpus, data=data, training=TrainingConfig(epochs=2)), tmp_path / "run")
    assert order[0] == "step"
    assert "orbax" in order
    order.clear()
    goes_on = CheckpointingConfig(load_auto_checkpoint=True)
    train(tiny(tone_corpus, training=TrainingConfig(epochs=3), checkpointing=goes_on), tmp_path / "run")
    assert order[0] == "orbax", "the state of a run that goes on is read through orbax"


def test_a_long_first_step_does_not_delay_the_proof(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(proof, "_PATIENCE", 0.1)
    monkeypatch.setattr(manager, "ArrayStore", lambda: made.append(True) or ArrayStore())
    checkpoints = Checkpoints(tmp_path)
    checkpoints.prove(wait=False)
    deadline = time.monotonic() + 60
    while not made:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    checkpoints.close()


def test_a_refusal_ends_a_run_that_begins_and_leaves_nothing(refused, tone_corpus, tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoints cannot be written to .*/run/checkpoints: .*Repair it"):
        train(tiny(tone_corpus), tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_removes_only_what_the_start_has_written(refused, tone_corpus, tmp_path):
    folder, run = tmp_path / "kept", tmp_path / "run"
    (run / "notes").mkdir(parents=True)
    (run / "notes" / "a.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="kept"):
        train(tiny(tone_corpus, checkpointing=CheckpointingConfig(folder=str(folder))), run)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        *("run", "run/notes", "run/notes/a.txt")
    ]


def test_a_refusal_during_an_epoch_of_one_step_costs_no_second_epoch(refused, tone_corpus, tmp_path):
    data = DataConfig(dataset="tones", batch_size=100, num_workers=0, cache_features=False)
    with pytest.raises(CheckpointError):
        train(tiny(tone_corpus, data=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_refusal_ends_the_wait_for_the_first_batch(refused, tone_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "_PATIENCE", 0.1)
    monkeypatch.setattr(collate, "load", lambda *_: time.sleep(600))  # in the loader process
    data = DataConfig(dataset="tones", batch_size=4, num_workers=1, cache_features=False)
    began = time.monotonic()
    with pytest.raises(CheckpointError):
        train(tiny(tone_corpus, data=data), tmp_path / "run")
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()


def test_a_refused_continuation_keeps_the_run_as_it_was(tone_corpus, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(tiny(tone_corpus, training=TrainingConfig(epochs=1)), run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr(ArrayStore, "save", refuse)
    with pytest.raises(CheckpointError):
        train(tiny(tone_corpus, checkpointing=CheckpointingConfig(load_auto_checkpoint=True)), run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("method", ["wait", "close", "find_all"])
def test_no_method_passes_over_a_failed_proof(tmp_path, monkeypatch, method):
    monkeypatch.setattr(ArrayStore, "save", refuse)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.prove(wait=False)
    with pytest.raises(CheckpointError, match="Input/output error"):
        getattr(checkpoints, method)()
    checkpoints.close()
    assert list(tmp_path.iterdir()) == []
