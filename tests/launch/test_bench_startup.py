"""Tests of the part startup of launch.bench."""

from pathlib import Path

import pytest
from rich.console import Console

from ds2f.config import Config
from ds2f.errors import InputError
from launch.bench import startup
from launch.bench.machine import spread
from launch.bench.options import Options


def test_start_up_is_timed_until_help_and_until_the_first_step(
    tone_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val"):
        manifest = (tone_corpus / f"tones_{split}_manifest.csv").read_text()
        rows = [",".join(str(tone_corpus / cell) for cell in row.split(",")) for row in manifest.splitlines()]
        (tmp_path / f"synthetic_{split}_manifest.csv").write_text("\n".join(rows) + "\n")
    flagfile = tmp_path / "tiny.flags"
    flagfile.write_text(
        "--data.dataset=synthetic\n--data.batch_size=2\n--model.hidden_size=8\n--model.hidden_layers=1\n"
        "--optim.schedule=constant\n--optim.learning_rate=0.01\n--data.num_workers=0\n"
    )
    monkeypatch.setattr(startup, "FLAGFILE", flagfile)
    until_step = startup.first_step_time([f"--flagfile={flagfile}", f"--data_path={tmp_path}", "--device=cpu"])
    until_help = startup.help_time()
    assert until_step.wall > until_help.wall > 0
    assert until_step.processor > until_help.processor > 0
    stages = until_step.stages
    assert sum(stages.values()) == pytest.approx(until_step.wall)
    assert next(iter(stages)) == "interpreter, flags"
    assert list(stages)[-3:] == ["first batch", "first step", "line of metrics"]
    assert all(seconds >= 0 for seconds in stages.values())
    assert stages["import of torch"] == max(stages.values())  # the model is tiny
    result = {
        "stages": {name: spread([seconds]) for name, seconds in stages.items()},
        "flagfile": "tiny.flags",
        "help": startup._summary([until_help]),
        "first_step": startup._summary([until_step]),
    }
    console = Console(width=100)
    with console.capture() as capture:
        startup.show([result], console)
    shown = capture.get()
    assert f"{until_step.wall:.2f}" in shown
    assert [
        line for line in shown.splitlines() if "import of torch" in line and f"{stages['import of torch']:.2f}" in line
    ]


def test_a_training_that_ends_before_its_first_step_is_reported_with_its_message(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nothing_train_manifest"):
        startup.first_step_time(["--data.dataset=nothing", f"--data_path={tmp_path}", "--device=cpu"])


def test_without_the_corpus_the_error_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"launch\.prepare --dataset=synthetic"):
        startup.measure(Config(data_path=str(tmp_path)), Options())
