"""Names and texts from outside are data: what would act on a terminal or forge a line is shown escaped."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata

import commands
import numpy as np
import pytest
import soundfile
from conftest import write_tones
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ds2f import config, steps
from ds2f.checkpoint import Checkpoints
from ds2f.config import Config, ModelConfig, VisualizationConfig
from ds2f.inference.formats import FORMATS
from ds2f.optim import adamw
from ds2f.runner import telemetry
from ds2f.text import shown
from launch.report import error_tables

NAME = b"caf\xe9\x1b[31m\t[bold]:x:\n2026-01-01 00:00:00 done.wav"
SHOWN = r"caf\xe9\x1b[31m\x09[bold]:x:\x0a2026-01-01 00:00:00 done.wav"
LABELS = ("_", "'", "A", "B", "C", " ")


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_that_acts_is_left_and_nothing_else_is_changed(text):
    seen = shown(text)
    seen.encode()
    assert shown(seen) == seen
    assert not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in seen)
    plain = [each for each in text if unicodedata.category(each) not in ("Cc", "Cs", "Zl", "Zp", "Cf")]
    remaining = iter(seen)
    assert all(each in remaining for each in plain), "in this order"


def test_the_lines_of_a_message_stay_and_those_of_a_name_do_not():
    assert shown("two problems:\n  a\n  b", lines=True) == "two problems:\n  a\n  b"
    assert shown("a\nb: fine", lines=True) == r"a\x0ab: fine"
    assert shown("a\n  b") == r"a\x0a  b"
    assert shown("\u200d\u00ad نص 中文 é\u0301 [x] \\\\x41") == "\u200d\u00ad نص 中文 é\u0301 [x] \\\\x41"


def test_a_name_in_a_message_forges_no_line_of_the_log_and_no_colour(tmp_path):
    console = Console(file=io.StringIO(), width=300, force_terminal=True, highlight=False)
    cfg = Config(visualization=VisualizationConfig(tensorboard=False))
    with telemetry.Telemetry(tmp_path, cfg, console=console) as run:
        run.log(f"left out: {os.fsdecode(NAME)}: silent\n  and more")
    (line, more) = (tmp_path / "log.txt").read_text().splitlines()
    assert line.endswith(f"left out: {SHOWN}: silent")
    assert more == "  and more"
    assert f"left out: {SHOWN}: silent\n" in console.file.getvalue()


def test_tables_show_names_as_they_are_written(capsys):
    terminal = telemetry.terminal()
    row = {"wer": 1.0, "cer": 1.0, "word_errors": 1, "words": 100}
    terminal.print(telemetry.errors_table("a[bold]b:x:\x1b[31m", {"test": row}))
    assert r"a[bold]b:x:\x1b[31m" in capsys.readouterr().out
    escaped = error_tables._escaped(
        {"wrong": [{"audio": os.fsdecode(NAME), "errors": 1, "alignment": [("a\x1b", None)]}]}
    )
    assert escaped == {"wrong": [{"audio": SHOWN, "errors": 1, "alignment": [[r"a\x1b", None]]}]}


@pytest.fixture
def run(tmp_path):
    """A folder with an untrained run, and a recording with a name that is not UTF-8."""
    cfg = config.resolve(Config(model=ModelConfig(hidden_size=8, hidden_layers=1, labels=LABELS)))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps(config.to_dict(cfg)))
    written = Checkpoints(tmp_path / "run", cfg=cfg)
    written.save(1, steps.init_state(cfg, adamw(0.1), key=0), {}, score=1.0)
    assert written.close()
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).integers(-9999, 9999, 16000, np.int16), 16000)
    os.rename(tmp_path / "a.wav", os.path.join(os.fsencode(tmp_path), NAME))  # noqa: PTH104, PTH118  bytes
    return tmp_path


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_transcribe_writes_a_line_with_one_tab_per_recording(launch, run, encoding):
    name, missing = os.fsdecode(NAME), "é\x1b]0;title\x07.wav"
    ended = launch(
        *("transcribe", "--run_dir=run", "--device=cpu", name, missing, name),
        folder=run,
        environment={"PYTHONIOENCODING": encoding},
    )
    assert ended.status == 1
    assert "Traceback" not in ended.err
    lines = ended.out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [SHOWN, SHOWN]
    assert all(line.count("\t") == 1 for line in lines)
    assert r"\x1b]0;title\x07.wav: No such file" in ended.err
    assert "\x1b" not in ended.out + ended.err


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_every_format_is_printed_and_written_with_such_a_name(launch, run, form):
    command = ("transcribe", "--run_dir=run", "--device=cpu", f"--format={form}", os.fsdecode(NAME))
    printed = launch(*command, folder=run)
    assert (printed.status, printed.err) == (0, "")
    ended = launch(*command, "--output_dir=out", folder=run)
    assert (ended.status, ended.out, ended.err) == (0, "", "wrote 1 transcript below out\n")
    (file,) = (run / "out").iterdir()
    content = file.read_text(encoding="utf-8")
    assert "\x1b" not in content + printed.out
    if form in ("json", "jsonl"):
        assert json.loads(content)["audio"] == json.loads(printed.out)["audio"] == os.fsdecode(NAME)
    elif form == "tsv":
        assert all(line.split("\t")[0] == SHOWN for line in content.splitlines()[1:])
    elif form in ("ctm", "trn"):
        assert SHOWN.removesuffix(".wav").replace(" ", "_") in content or not content


def test_a_training_reads_such_a_name_and_logs_it_escaped(launch, tmp_path):
    for split in ("train", "val"):
        for kind in ("wav", "txt"):
            (tmp_path / split / kind).mkdir(parents=True)
        for index, name in enumerate((NAME.decode(errors="surrogateescape")[:-4], "b", "c")):
            write_tones(tmp_path, "x", "ABC", index)
            (tmp_path / "x.wav").rename(tmp_path / split / "wav" / f"{name}.wav")
            (tmp_path / "x.txt").rename(tmp_path / split / "txt" / f"{name}.txt")
    long = tmp_path / "train/txt" / f"{os.fsdecode(NAME)[:-4]}.txt"
    long.write_text("AB" * 200)  # too short for its transcript, so that a remark names the recording
    ended = launch(
        *("train", "--device=cpu", "--run_dir=run", "--data.train_manifest=train", "--data.val_manifest=val"),
        *("--data.batch_size=3", "--data.num_workers=0", "--model.hidden_size=8", "--model.hidden_layers=1"),
        *(
            "--training.epochs=1",
            "--optim.schedule=constant",
            "--optim.learning_rate=0.001",
            "--notraining.evaluate_test",
        ),
        folder=tmp_path,
    )
    assert ended.status == 0, ended.err
    log = (tmp_path / "run/log.txt").read_text()
    assert SHOWN in log
    assert SHOWN in ended.out
    assert "\x1b" not in log + ended.out + ended.err
    assert all(re.match(r"\d{4}-\d\d-\d\d |  ", line) for line in log.splitlines())
    assert "Infinity" not in (tmp_path / "run/metrics.jsonl").read_text()


def test_a_training_on_a_terminal_that_shows_ascii_reads_names_and_noise_of_any_encoding(tmp_path):
    names = (NAME.decode(errors="surrogateescape")[:-4], "é语")
    for kind in ("train/wav", "train/txt", "noise"):
        (tmp_path / kind).mkdir(parents=True)
    for index, name in enumerate(names):
        write_tones(tmp_path, "x", "ABÉ", index)
        shutil.copy(tmp_path / "x.wav", tmp_path / "noise" / f"{name}.wav")
        (tmp_path / "x.wav").rename(tmp_path / "train/wav" / f"{name}.wav")
        (tmp_path / "x.txt").rename(tmp_path / "train/txt" / f"{name}.txt")
    # A new interpreter: one that was forked would keep its encodings.
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "launch.train", "--device=cpu", "--run_dir=run", "--data.train_manifest=train"),
            *("--data.val_manifest=train", "--notraining.evaluate_test", "--training.epochs=1"),
            *("--data.unknown_characters=drop_character", "--augmentation.noise_dir=noise"),
            *("--augmentation.noise_prob=1", "--data.batch_size=2", "--model.hidden_size=4", "--model.hidden_layers=1"),
            *("--optim.schedule=constant", "--optim.learning_rate=0.001", "--novisualization.tensorboard"),
        ],
        cwd=tmp_path,
        env=commands.variables({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert (ended.stdout + ended.stderr).isascii()
    assert b"\\xc9" in ended.stdout + ended.stderr, "the remark on the dropped character"
    for file in ("log.txt", "metrics.jsonl", "data.json", "results.json", "config.json"):
        (tmp_path / "run" / file).read_text(encoding="utf-8")


def test_a_saved_evaluation_holds_the_name_that_was_read(launch, run):
    for kind in ("wav", "txt"):
        (run / "test" / kind).mkdir(parents=True)
    os.rename(os.path.join(os.fsencode(run), NAME), os.path.join(os.fsencode(run), b"test/wav/", NAME))  # noqa: PTH104, PTH118
    (run / "test/txt" / f"{os.fsdecode(NAME)[:-4]}.txt").write_text("AB")
    ended = launch(
        *("evaluate", "--run_dir=run", "--device=cpu", "--data.test_manifest=test", "--data.num_workers=0"),
        *("--nodata.cache_features", "--save_output=saved.json"),
        folder=run,
    )
    assert ended.status == 0, ended.err
    (row,) = json.loads((run / "saved.json").read_text(encoding="utf-8"))
    assert row["audio"] == f"test/wav/{os.fsdecode(NAME)}"
    ended = launch("report", "--transcripts=saved.json", folder=run)
    assert ended.status == 0, ended.err
    assert "\x1b" not in ended.out
