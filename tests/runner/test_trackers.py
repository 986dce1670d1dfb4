"""Tests of TensorBoard's pictures and results, and of clients of Weights & Biases and MLflow, real and stood in for."""

import importlib.util
import json
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import event_accumulator

from ds2f.config import Config, TrainingConfig
from ds2f.runner import trackers
from ds2f.runner.tracker_client import TrackerClient

# One black pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763606060000000040001f61738"
    "550000000049454e44ae426082"
)
RATES = {"val/wer": 12.5, "val/cer": 3.5}

# A module ``wandb`` that writes its calls to calls.txt.
STAND_IN = """
import json, time
from pathlib import Path

def note(*call):
    with Path("calls.txt").open("a") as file:
        file.write(json.dumps(call, default=str) + "\\n")

Settings, Table = dict, dict
Image = lambda picture: f"{picture.size}"

class Run:
    url, dir = "https://example.org/run", "here"
    class summary:
        update = lambda values: note("summary", values)
    def log(self, values, step):
        note("log", values, step)
    def finish(self, exit_code):
        note("finish")
        AT_END

def init(**arguments):
    note("init", arguments)
    AT_START
    return Run()
"""


def stand_in(folder, monkeypatch, *, at_start="", at_end="", whole=STAND_IN):
    (folder / "modules").mkdir()
    text = whole.replace("AT_START", at_start or "pass").replace("AT_END", at_end or "pass")
    (folder / "modules/wandb.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder / "modules"))
    monkeypatch.chdir(folder)


def use(tracker):
    tracker.add("train", 10, {"loss": 1.5, "name": "text"})
    tracker.add_samples("val", 10, [("a.wav", "GO", "NO")])
    tracker.add_picture("spectrogram", lambda: PNG)
    tracker.add_results({}, RATES)
    tracker.close()


def test_tensorboard_has_the_picture_and_the_final_rates(tmp_path):
    said = []
    cfg = Config(training=TrainingConfig(epochs=3))
    (board,) = trackers.open_trackers(tmp_path, cfg, said.append)
    board.add_picture("spectrogram", lambda: PNG)
    board.add_picture("unreadable", bytes)
    assert not (tmp_path / "tensorboard").exists()  # until there is something of a step
    board.add_results(trackers.flat_settings(cfg), RATES)
    board.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Images("spectrogram")[0].encoded_image_string == PNG
    assert events.Images("spectrogram")[0].width == 1
    assert events.Scalars("val/wer")[0].value == 12.5
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert said == []


def test_settings_are_flat_numbers_and_texts():
    flat = trackers.flat_settings(Config())
    assert flat["data.batch_size"] == 240
    assert flat["augmentation.codecs"] == "ulaw,alaw"
    assert {type(value) for value in flat.values()} <= {str, int, float, bool}


def test_a_client_gets_everything_in_its_order(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch)
    said = []
    use(TrackerClient("wandb", Path("runs/one"), {"device": "cpu"}, said.append))
    calls = [json.loads(line) for line in (tmp_path / "calls.txt").read_text().splitlines()]
    assert [call[0] for call in calls] == ["init", "log", "log", "log", "summary", "finish"]
    assert (calls[0][1]["name"], calls[0][1]["config"], calls[0][1]["project"]) == ("one", {"device": "cpu"}, "ds2f")
    assert calls[1] == ["log", {"train/loss": 1.5}, 10]
    assert calls[2][1]["samples/val"]["data"] == [["a.wav", "GO", "NO"]]
    assert calls[4] == ["summary", RATES]
    assert said == ["wandb: https://example.org/run"]


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ({"whole": "raise ImportError('no lib.so')"}, "ImportError: no lib.so"),
        ({"whole": "import nothing_of_this_name"}, "pip install 'ds2f[wandb]'"),
        ({"whole": "import os; os._exit(3)"}, "its process ended with status 3"),
        ({"at_start": "raise ValueError('wrong key')"}, "ValueError: wrong key"),
        ({"at_end": "raise OSError('no network')"}, "OSError: no network"),
    ],
)
def test_a_client_that_fails_gives_one_message(tmp_path, monkeypatch, how, cause):
    stand_in(tmp_path, monkeypatch, **how)
    said = []
    use(TrackerClient("wandb", tmp_path, {}, said.append))
    assert len([each for each in said if "gets nothing more" in each]) == 1
    assert cause in said[-1]
    assert "WANDB_MODE=offline" in said[-1] or "pip install" in said[-1]


@pytest.mark.parametrize("how", ["at_start", "at_end"])
def test_a_client_that_hangs_holds_nothing_up(tmp_path, monkeypatch, how):
    stand_in(tmp_path, monkeypatch, **{how: "time.sleep(100)"})
    said = []
    tracker = TrackerClient("wandb", tmp_path, {}, said.append, patience=3)
    began = time.monotonic()
    for step in range(3000):  # more than a pipe takes
        tracker.add("train", step, {"loss": 1.5, "learning_rate": 1e-3, "utterances_per_second": 12.5})
    assert time.monotonic() - began < 3
    tracker.close()
    assert time.monotonic() - began < 10
    assert sum("no answer within 3 s" in each for each in said) == 1


def test_the_real_wandb_runs_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    said = []
    use(TrackerClient("wandb", tmp_path, {"device": "cpu"}, said.append, patience=60))
    assert [each.split(",")[0] for each in said] == ["wandb: offline"], said
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_the_real_mlflow_writes_to_a_file(tmp_path, monkeypatch):
    if not (importlib.util.find_spec("mlflow") and importlib.util.find_spec("sqlalchemy")):
        pytest.skip("mlflow is not installed")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    said = []
    use(TrackerClient("mlflow", tmp_path, {"device": "cpu"}, said.append, patience=120))
    assert said == [f"mlflow: {store}"]
    import mlflow

    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("ds2f").experiment_id])
    assert run.data.params == {"device": "cpu"}
    assert run.data.metrics == {"train/loss": 1.5, **RATES}
    assert run.info.status == "FINISHED"


def test_a_picture_is_kept_where_a_training_ends_before_its_first_step(tmp_path):
    board = trackers.TensorBoard(tmp_path, [].append)
    board.add_picture("spectrogram", lambda: PNG)
    board.close()
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert events.Images("spectrogram")[0].encoded_image_string == PNG
