"""Tests of the command launch.report."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = (
    *("--data.dataset=tones", "--data.batch_size=5", "--data.num_workers=0", "--device=cpu", "--training.epochs=1"),
    *("--model.hidden_size=8", "--model.hidden_layers=1", "--optim.schedule=constant", "--optim.learning_rate=0.01"),
    "--apex.opt_level=O0",
)


def test_the_errors_of_a_run_are_those_of_its_results_on_the_validation_set(launch, tone_corpus, tmp_path):
    ended = launch("train", *TINY, f"--data_path={tone_corpus}", "--run_dir=run", folder=tmp_path, limit=60)
    assert ended.status == 0, ended.err
    counted = json.loads((tmp_path / "run/results.json").read_text())["val"]

    ended = launch("report", "--errors", "run", "--output=of_run.json", folder=tmp_path, limit=60)
    assert ended.status == 0, ended.err
    found = json.loads((tmp_path / "of_run.json").read_text())
    assert found["source"] == {"run": "run", "split": "val", "which": "best"}
    assert (found["counts"]["words"]["errors"], found["counts"]["words"]["said"]) == (
        counted["word_errors"],
        counted["words"],
    )
    assert found["counts"]["characters"]["errors"] == counted["char_errors"]
    assert f"{counted['cer']:.3f}" in ended.out
    assert "val0.wav" in ended.out

    ended = launch("evaluate", "--run_dir=run", "--split=val", "--save_output=texts.json", folder=tmp_path, limit=60)
    assert ended.status == 0, ended.err
    ended = launch("report", "--transcripts=texts.json", "--output=of_file.json", folder=tmp_path, limit=60)
    assert ended.status == 0, ended.err
    again = json.loads((tmp_path / "of_file.json").read_text())
    assert again.pop("source") == {"transcripts": "texts.json"}
    assert again == {key: value for key, value in found.items() if key != "source"}

    rows = json.loads((tmp_path / "texts.json").read_text())
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = launch("report", "--transcripts=texts.jsonl", "--output=of_lines.json", folder=tmp_path, limit=60)
    assert ended.status == 0, ended.err
    of_lines = json.loads((tmp_path / "of_lines.json").read_text())
    assert of_lines.pop("source") == {"transcripts": "texts.jsonl"}
    assert of_lines == again


@pytest.mark.parametrize("beside", [True, False], ids=["results beside", "results of the package"])
def test_without_a_flag_it_prints_the_page_of_results(launch, tmp_path, beside):
    if beside:
        (tmp_path / "configs").symlink_to(ROOT / "configs")
    ended = launch("report", folder=tmp_path)
    assert ended.status == 0, ended.err
    assert ended.out == (ROOT / "configs/results/README.md").read_text(encoding="utf-8")
    assert "\n| name | WER % | CER % |" in ended.out


def test_an_ablation_is_printed(launch, tmp_path):
    counts = {"word_errors": 1, "words": 4}
    (tmp_path / "a.json").write_text(json.dumps({"change": "base", "name": "a", "epochs": 1, "seed": 1, "val": counts}))
    ended = launch("report", f"--ablation={tmp_path}", folder=tmp_path, limit=60)
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[2] == "| base | 25.00 |  | 1 | 1 | 1 |"


@pytest.mark.parametrize(
    ("flags", "content", "message"),
    [
        (["--errors=nowhere"], None, "nowhere holds no run"),
        (["--errors=run", "--transcripts=t.json"], None, "take one of --errors and --transcripts"),
        (["--output=o.json"], None, "--output is for the page of a run, --errors or --transcripts"),
        (["run", "--errors=run"], None, "take one of --errors and the folder of a run"),
        (["run", "--output=no/where.html"], None, "--output=no/where.html: give a file in a folder"),
        (["run"] * 25, None, "25 runs; at most 24"),
        (["--errors=run", "--output=no/where.json"], None, "--output=no/where.json: give a file in a folder"),
        (["--errors=run", "--speaker=(a"], None, "--speaker=(a: not a regular expression"),
        (["--errors=run", "--speaker=a"], None, "--speaker=a: 0 groups"),
        (["--transcripts=nowhere.json"], None, "nowhere.json: No such file"),
        (["--transcripts=t.json"], "{", "t.json: not JSON"),
        (["--transcripts=t.json"], "[]", "t.json: not a list of utterances"),
        (
            ["--transcripts=t.json"],
            '[{"audio": "a", "reference": 1}]',
            "utterance 1 has no text for reference, transcript",
        ),
        (["--ablation=nowhere"], None, "nowhere: no results"),
        (["--results=nowhere"], None, "published.json: No such file"),
    ],
)
def test_mistakes_end_in_one_message_and_status_1(launch, tmp_path, flags, content, message):
    if content:
        (tmp_path / "t.json").write_text(content)
    ended = launch("report", *flags, folder=tmp_path)
    assert (ended.status, ended.out) == (1, "")
    assert message in ended.err
    assert ended.err.startswith("report: ")
    assert "Traceback" not in ended.err


def test_help_lists_the_flags_and_imports_no_framework():
    code = (
        "import atexit, runpy, sys\n"
        "heavy = ('torch', 'jax', 'orbax', 'rich', 'rapidfuzz')\n"
        "atexit.register(lambda: print('HEAVY', [name for name in heavy if name in sys.modules]))\n"
        "sys.argv = ['report', '--help']\n"
        "runpy.run_module('launch.report', run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr
    for name in (
        "errors",
        "transcripts",
        "split",
        "which",
        "speaker",
        "rows",
        "worst",
        "output",
        "results",
        "ablation",
    ):
        assert f"  --{name}=" in done.stdout
