"""A language model used from the command line: tuned on the validation set, then to evaluate and to transcribe."""

import json
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
    """A folder with a corpus that has no test set, a run, and a model of the one word that the run shall hear."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(tone_corpus, folder / "data", ignore=shutil.ignore_patterns("test*", "*test*"))
    result = launch("train", *TRAINING, "--data_path=data", folder=folder)
    assert result.status == 0, result.err
    ngrams = {("<unk>",): (-5, 0), ("<s>",): (-9, 0), ("</s>",): (-0.2, 0), ("CAB",): (-0.4, 0), ("é",): (-2, 0)}
    shutil.copytree(folder / "run", folder / "learnt")
    stored = json.loads((folder / "learnt" / "config.json").read_text())
    stored["data"]["train_on_val"] = True
    (folder / "learnt" / "config.json").write_text(json.dumps(stored))
    arpa.write(folder / "lm.arpa", ngrams | {("CAB", "CAB"): (-0.1, 0)})
    return folder


def test_tuning_reads_the_validation_set_alone_and_its_flags_give_its_errors_again(launch, workplace):
    grid = ("--weights=0,1", "--word_scores=0,2", "--refinements=1")
    result = launch("tune_lm", "--run_dir=run", "--lm.path=lm.arpa", *grid, "--output=tuned.json", folder=workplace)
    assert result.status == 0, result.err
    tuned = json.loads((workplace / "tuned.json").read_text())
    assert 4 < len(tuned["trials"]) <= 4 + 8
    assert tuned["flags"] in result.out
    assert "1 words have characters outside the model's labels" in result.err
    errors = [trial["word_errors"] for trial in tuned["trials"]]
    assert errors == sorted(errors)
    for flags, expected in ((tuned["flags"].split(), tuned["trials"][0]), ([], tuned["greedy"])):
        result = launch("evaluate", "--run_dir=run", "--split=val", "--save_output=out.json", *flags, folder=workplace)
        assert result.status == 0, result.err
        assert f"{expected['wer']:.3f}" in result.out
        assert f"{expected['cer']:.3f}" in result.out


def test_evaluate_and_transcribe_hear_the_words_of_the_language_model(launch, workplace):
    flags = ("--run_dir=run", "--lm.path=lm.arpa", "--lm.word_score=30")
    result = launch("evaluate", *flags, "--split=val", "--save_output=out.json", folder=workplace)
    assert result.status == 0, result.err
    rows = json.loads((workplace / "out.json").read_text())
    assert len(rows) == 3
    assert {word for row in rows for word in row["transcript"].split()} == {"CAB"}
    result = launch("transcribe", *flags, rows[0]["audio"], folder=workplace)
    assert result.out == f"{rows[0]['audio']}\t{rows[0]['transcript']}\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--run_dir"),
        (["--run_dir=run"], "--lm.path"),
        (["--run_dir=run", "--lm.path=nowhere.arpa"], "nowhere.arpa"),
        (["--run_dir=learnt", "--lm.path=lm.arpa", "--nodata.train_on_val"], "was trained on its validation set"),
        (["--run_dir=run", "--lm.path=lm.arpa", "--weights=0,x"], "--weights=0,x"),
        (["--run_dir=run", "--lm.path=lm.arpa", "--weights=-1"], "--weights=-1"),
        (["--run_dir=run", "--lm.path=lm.arpa", "--output=no/where.json"], "folder that exists"),
    ],
)
def test_mistakes_end_in_one_message(launch, workplace, flags, said):
    result = launch("tune_lm", *flags, folder=workplace)
    assert result.status == 1
    assert said in result.err
    assert "Traceback" not in result.err
