"""Tests of what launch.bench says of how soon a training starts."""

from pathlib import Path

import pytest
from rich.console import Console

from ds2f.config import Config
from ds2f.errors import InputError
from launch.bench import startup
from launch.bench.options import Options


def test_start_up_is_timed_to_help_and_to_the_first_step(
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
    took = startup.first_step_time([f"--flagfile={flagfile}", f"--data_path={tmp_path}", "--device=cpu"])
    help_took = startup.help_time()
    assert took.wall > help_took.wall > 0
    assert took.processor > help_took.processor > 0
    result = {"flagfile": "tiny.flags", "help": startup._summary([help_took]), "first_step": startup._summary([took])}
    console = Console(width=100)
    with console.capture() as capture:
        startup.show([result], console)
    assert f"{took.wall:.2f}" in capture.get()


def test_a_training_that_ends_before_its_first_step_is_reported_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nothing_train_manifest"):
        startup.first_step_time(["--data.dataset=nothing", f"--data_path={tmp_path}", "--device=cpu"])


def test_without_the_corpus_the_remedy_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"launch\.prepare --dataset=synthetic"):
        startup.measure(Config(data_path=str(tmp_path)), Options())
