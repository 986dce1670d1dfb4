"""Tests of launch.tune_lm, and of a language model in launch.evaluate and launch.transcribe."""

import json
import shlex
import shutil

import arpa
import pytest

pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")

TRAINING = (
    *("--device=cpu", "--data.dataset=tones", "--data.batch_size=4", "--data.num_workers=0", "--run_dir=run"),
    *("--model.hidden_size=8", "--model.hidden_layers=1", "--optim.schedule=constant", "--optim.learning_rate=0.01"),
    *("--apex.opt_level=O0", "--training.epochs=1", "--novisualization.tensorboard"),
)


@pytest.fixture(scope="module")
def workplace(launch, tone_corpus, tmp_path_factory):
    """A folder with a corpus without a test set, a run, and a language model of one word."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(tone_corpus, folder / "data", ignore=shutil.ignore_patterns("test*", "*test*"))
    result = launch("train", *TRAINING, "--data_path=data", folder=folder)
    assert result.status == 0, result.err
    ngrams = {("<unk>",): (-5, 0), ("<s>",): (-9, 0), ("</s>",): (-0.2, 0), ("CAB",): (-0.4, 0), ("é",): (-2, 0)}
    shutil.copytree(folder / "run", folder / "trained_on_val")
    stored = json.loads((folder / "trained_on_val" / "config.json").read_text())
    stored["data"]["train_on_val"] = True
    (folder / "trained_on_val" / "config.json").write_text(json.dumps(stored))
    arpa.write(folder / "lm.arpa", ngrams | {("CAB", "CAB"): (-0.1, 0)})
    return folder


@pytest.mark.parametrize("given", [(), ("--lm.hot_words=cab,a b",)])
def test_tuning_reads_only_the_validation_set_and_its_flags_reproduce_its_errors(launch, workplace, given):
    grid = ("--weights=0,1", "--word_scores=0,2", "--refinements=1", *given)
    result = launch("tune_lm", "--run_dir=run", "--lm.path=lm.arpa", *grid, "--output=tuned.json", folder=workplace)
    assert result.status == 0, result.err
    tuned = json.loads((workplace / "tuned.json").read_text())
    assert 4 < len(tuned["trials"]) <= 4 + 8
    assert tuned["flags"] in result.out
    assert "1 words have characters outside the model's labels" in result.err
    errors = [trial["word_errors"] for trial in tuned["trials"]]
    assert errors == sorted(errors)
    for flags, expected in ((shlex.split(tuned["flags"]), tuned["trials"][0]), ([], tuned["greedy"])):
        result = launch("evaluate", "--run_dir=run", "--split=val", "--save_output=out.json", *flags, folder=workplace)
        assert result.status == 0, result.err
        assert f"{expected['wer']:.3f}" in result.out
        assert f"{expected['cer']:.3f}" in result.out


def test_evaluate_and_transcribe_use_the_words_of_the_language_model(launch, workplace):
    flags = ("--run_dir=run", "--lm.path=lm.arpa", "--lm.word_score=30", "--lm.beam_size_token=0")
    result = launch("evaluate", *flags, "--split=val", "--save_output=out.json", folder=workplace)
    assert result.status == 0, result.err
    rows = json.loads((workplace / "out.json").read_text())
    assert len(rows) == 3
    assert {word for row in rows for word in row["transcript"].split()} == {"CAB"}
    result = launch("transcribe", *flags, rows[0]["audio"], folder=workplace)
    assert result.out == f"{rows[0]['audio']}\t{rows[0]['transcript']}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--run_dir"),
        (["--run_dir=run"], "--lm.path"),
        (["--run_dir=run", "--lm.path=nowhere.arpa"], "nowhere.arpa"),
        (
            ["--run_dir=trained_on_val", "--lm.path=lm.arpa", "--nodata.train_on_val"],
            "was trained on its validation set",
        ),
        (["--run_dir=run", "--lm.path=lm.arpa", "--weights=0,x"], "--weights=0,x"),
        (["--run_dir=run", "--lm.path=lm.arpa", "--weights=-1"], "--weights=-1"),
        (["--run_dir=run", "--lm.path=lm.arpa", "--output=no/where.json"], "folder that exists"),
    ],
)
def test_mistakes_end_in_one_message(launch, workplace, flags, message):
    result = launch("tune_lm", *flags, folder=workplace)
    assert result.status == 1
    assert message in result.err
    assert "Traceback" not in result.err
