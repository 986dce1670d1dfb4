"""A model in a file of the format safetensors takes the place of its run in every command that reads weights."""

import json
import shutil
from pathlib import Path

import arpa
import pytest
import soundfile
import speaking_model
import torch
from serving_process import write_run
from test_splice import TRAINING, write_utterance

from ds2f import checkpoint, config
from ds2f.checkpoint import safetensors_file
from ds2f.checkpoint.exported import About, portable, weights_digest
from ds2f.config import Config, ModelConfig
from ds2f.convert import from_reference
from ds2f.export import torch_program
from ds2f.model import deepspeech2

FORMS = ("run", "export", "export/model.safetensors")


@pytest.fixture(scope="module")
def workplace(launch, tmp_path_factory):
    """A run that knows its two words, and its export, in a folder that the run's configuration does not name."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "data").mkdir()
    for split, speakers, utterances in (("train", ("ann", "bob"), 8), ("val", ("cid", "dee"), 2)):
        rows = [
            write_utterance(folder / "data", f"{split}{index}-{who}", "A B")
            for who in speakers
            for index in range(utterances)
        ]
        (folder / "data" / f"tones_{split}_manifest.csv").write_text("".join(rows), encoding="utf-8")
    training = [flag for flag in TRAINING if flag != "--data.train_on_val"]
    trained = launch("train", *training, "--run_dir=run", "--training.epochs=10", folder=folder)
    assert trained.status == 0, trained.err
    cfg, params, stats = checkpoint.load_model(folder / "run")
    (folder / "export").mkdir()
    about = About(portable(cfg), weights_digest(params, stats), "run", "best", {})
    safetensors_file.write(folder / "export/model.safetensors", about, params, stats)
    return folder


@pytest.fixture
def done(launch, workplace):
    """Runs a command, which succeeds."""

    def done(command, *arguments):
        ended = launch(command, *arguments, folder=workplace, limit=100)
        assert ended.status == 0, (command, arguments, ended.err)
        return ended

    return done


def test_it_is_calibrated_and_the_calibration_lies_beside_it(done, workplace):
    found = []
    for form, folder in zip(FORMS, ("run", "export", "export"), strict=True):
        done("calibrate", f"--run_dir={form}", "--device=cpu")
        path = workplace / folder / "calibration.json"
        found.append(json.loads(path.read_text()))
        path.unlink()
    assert found[0] == found[1] == found[2]
    assert found[0]["calibrations"][0]["words"] == 8


def test_it_is_evaluated_and_its_errors_analysed(done, workplace):
    found = []
    for form in FORMS:
        done("report", "--errors", form, "--split=val", "--output=errors.json")
        found.append(json.loads((workplace / "errors.json").read_text()))
        assert found[-1].pop("source")["run"] == form
    assert found[0] == found[1] == found[2]


def test_it_judges_long_recordings(done):
    flags = ("--device=cpu", "--split=val", "--minutes=1")
    lines = [done("longform", f"--run_dir={form}", *flags).out.splitlines()[0] for form in FORMS]
    assert lines[0].startswith("4 utterances one by one: ")
    assert len(set(lines)) == 1


def test_it_makes_new_utterances(done, workplace):
    made = []
    for number, form in enumerate(FORMS):
        ended = done("splice", f"--run_dir={form}", "--device=cpu", "--copies=1", f"--output=data/new{number}")
        advice = ended.out.partition("\n")[2]
        assert ("--flagfile=run/flags.txt" in advice) == (form == "run")
        assert f"--run_dir={'run' if form == 'run' else 'export'}-new{number}" in advice
        sounds = sorted((workplace / f"data/new{number}").rglob("*.wav"))
        made.append([(path.name, soundfile.read(path)[0].tobytes()) for path in sounds])
    assert len(made[0]) > 16
    assert made[0] == made[1] == made[2]


def test_it_becomes_a_file_of_deepspeech_pytorch(launch, tmp_path):
    cfg = config.resolve(Config(model=ModelConfig(hidden_size=8, hidden_layers=2)))
    params, stats = deepspeech2.init(cfg.model, key=0)
    path = tmp_path / "model.safetensors"
    safetensors_file.write(path, About(portable(cfg), weights_digest(params, stats), "a", "best", {}), params, stats)
    ended = launch("convert", str(path), "--to=deepspeech.pytorch", "--output=a.pth", folder=tmp_path)
    assert ended.status == 0, ended.err
    model, *found = from_reference(torch.load(tmp_path / "a.pth", weights_only=True))
    assert model == cfg.model
    assert weights_digest(*found) == weights_digest(params, stats)


def test_a_training_starts_from_it(done, workplace):
    training = [flag for flag in TRAINING if flag != "--data.train_on_val"] + ["--training.epochs=1"]
    ends = []
    for form in FORMS:
        done("train", *training, f"--checkpointing.continue_from={form}", "--run_dir=next")
        rows = (workplace / "next/metrics.jsonl").read_text().splitlines()
        ends.append(json.loads((workplace / "next/results.json").read_text())["val"])
        assert rows
        shutil.rmtree(workplace / "next")
    assert ends[0] == ends[1] == ends[2]


def test_weights_of_a_language_model_are_tuned_for_it(done, workplace):
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")
    ngrams = {("<unk>",): (-5, 0), ("<s>",): (-9, 0), ("</s>",): (-0.2, 0), ("A",): (-1, 0), ("B",): (-1, 0)}
    arpa.write(workplace / "lm.arpa", ngrams | {("A", "B"): (-0.1, 0)})
    grid = ("--lm.path=lm.arpa", "--weights=0,1", "--word_scores=0", "--refinements=0", "--device=cpu")
    trials = []
    for form in FORMS:
        done("tune_lm", f"--run_dir={form}", *grid, "--output=tuned.json")
        trials.append(json.loads((workplace / "tuned.json").read_text())["trials"])
    assert trials[0] == trials[1] == trials[2]


def test_its_configuration_is_the_runs_as_a_load_test_asks_for_it(workplace):
    for form in FORMS:
        cfg = checkpoint.load_config(workplace / form)
        assert cfg.spect.sample_rate == 16000
        assert cfg.model.bidirectional


@pytest.mark.parametrize("command", ["calibrate", "longform", "splice"])
def test_another_checkpoint_of_it_is_refused(launch, workplace, command):
    more = {"splice": ("--output=data/none",), "longform": ("--split=val",)}
    ended = launch(
        command, "--run_dir=export", "--which=last", "--device=cpu", *more.get(command, ()), folder=workplace
    )
    assert ended.status == 1
    assert "of the checkpoint 'best'; leave out --which=last" in ended.err


def test_damage_is_told_in_one_message(launch, workplace, tmp_path):
    path = Path(tmp_path / "model.safetensors")
    path.write_bytes((workplace / "export/model.safetensors").read_bytes()[:-1])
    ended = launch("calibrate", f"--run_dir={tmp_path}", "--device=cpu", folder=workplace)
    assert ended.status == 1
    assert "is damaged" in ended.err
    assert "Traceback" not in ended.err


def test_a_program_of_torch_has_the_words_of_its_run(launch, tmp_path):
    write_run(tmp_path / "run")
    params, stats = speaking_model.model()
    about = About(portable(speaking_model.CFG), weights_digest(params, stats), "run", "best", {})
    for name, shape in (("a", None), ("b", (2, 301))):
        (tmp_path / name).mkdir()
        torch_program.write(tmp_path / name / "model.pt2", about, params, stats, shape=shape)
    soundfile.write(tmp_path / "a.wav", speaking_model.sound(2, 1), speaking_model.RATE)
    soundfile.write(tmp_path / "b.wav", speaking_model.sound(3, 2), speaking_model.RATE)

    def texts(run, *flags):
        ended = launch("transcribe", f"--run_dir={run}", "--format=jsonl", *flags, "a.wav", "b.wav", folder=tmp_path)
        assert (ended.status, ended.err) == (0, "")
        return [json.loads(line)["text"] for line in ended.out.splitlines()]

    expected = texts("run", "--device=cpu", "--apex.opt_level=O0")
    assert all(expected)
    assert texts("a") == texts("a/model.pt2") == texts("b") == expected
    refused = launch("calibrate", "--run_dir=a", folder=tmp_path)
    assert refused.status == 1
    assert "--format=safetensors" in refused.err
