"""What a training and its quickstart show on a terminal of 80 x 24, and in a file."""

import re

import pytest
import terminals
from pages import ROOT

from launch import next_steps

TINY = (
    *("--data.dataset=tones", "--device=cpu", "--apex.opt_level=O0", "--data.batch_size=4", "--data.num_workers=0"),
    *("--model.hidden_size=8", "--model.hidden_layers=1", "--training.epochs=3", "--novisualization.tensorboard"),
)
EPOCH = re.compile(r"epoch \d/3  loss [\d.]+  val loss [\d.]+  CER [\d.]+ %  WER [\d.]+ %( \*)?  [\d.]+ utt/s  lr \S+")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def arguments(tone_corpus, run_dir):
    return (f"--flagfile={ROOT}/configs/quickstart.flags", f"--data_path={tone_corpus}", f"--run_dir={run_dir}", *TINY)


@pytest.fixture(scope="module")
def in_a_file(launch, tone_corpus, tmp_path_factory):
    """How a training ends whose output is a file; its folder."""
    folder = tmp_path_factory.mktemp("file")
    return launch("train", *arguments(tone_corpus, "run"), folder=folder), folder


@pytest.fixture(scope="module")
def at_a_terminal(tone_corpus, tmp_path_factory):
    """Status and output of a training at a terminal; its folder."""
    folder = tmp_path_factory.mktemp("terminal")
    return *terminals.run("-m", "launch.train", *arguments(tone_corpus, "run"), folder=folder), folder


def test_in_a_file_a_training_writes_few_lines_without_control_characters(in_a_file):
    ended, folder = in_a_file
    assert ended.status == 0, ended.err
    assert not CONTROL.search(ended.out + ended.err)
    lines = ended.out.splitlines() + ended.err.splitlines()
    assert len(lines) <= 30
    assert len(lines) == len({line for line in lines if line.strip()}) + lines.count("") + sum(
        line.isspace() for line in lines
    ), "a line comes twice"
    assert len([line for line in lines if EPOCH.match(line)]) == 3
    stored = [line[20:] for line in (folder / "run/log.txt").read_text().splitlines()]
    assert [line for line in lines if EPOCH.match(line)] == [line for line in stored if EPOCH.match(line)]


def test_on_a_terminal_epochs_are_a_table_whose_best_rows_are_bold_and_no_line_is_wrapped(at_a_terminal):
    status, written, folder = at_a_terminal
    assert status == 0, written
    lines, wrapped = terminals.shown(written)
    assert [line for line in wrapped if str(folder) not in line] == []  # a path may be longer than a line
    heading = next(index for index, line in enumerate(lines) if line.split()[:4] == ["epoch", "loss", "val", "loss"])
    rows = [line.split() for line in lines[heading + 1 : heading + 4]]
    assert [row[0] for row in rows] == ["1/3", "2/3", "3/3"]
    assert {len(line) for line in lines[heading : heading + 3]} <= {*range(70, 81)}
    logged = (folder / "run/log.txt").read_text()
    bold = re.findall(r"\x1b\[1m +(\d/3) ", written)
    assert bold == [f"{epoch}/3" for epoch in (1, 2, 3) if "* " in re.search(rf"epoch {epoch}/3 .*", logged)[0]]
    assert not [line for line in lines if "epoch 1/3 " in line], "the bar has vanished"


@pytest.mark.parametrize("form", ["in_a_file", "at_a_terminal"])
def test_the_end_names_the_files_and_the_next_commands(request, form):
    found = request.getfixturevalue(form)
    text = found[0].err if form == "in_a_file" else "\n".join(terminals.shown(found[1])[0])
    end = text.rstrip().splitlines()[-6:]
    assert end == [
        "wrote run/results.json",
        "wrote run/report.html",
        "Next:",
        "  python -m launch.evaluate --run_dir=run",
        "  python -m launch.transcribe --run_dir=run FILE",
        "  python -m launch.report --errors=run",
    ]


def test_a_long_command_goes_on_after_a_backslash_and_is_typed_as_it_stands():
    flags = [f"--data.{name}_manifest=a folder/{name}.csv" for name in ("train", "val", "test")]
    lines = next_steps.text(("train", *flags)).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.endswith(" \\") for line in lines] == [False, True, True, False]


def test_a_wait_on_a_terminal_is_shown_and_vanishes(tmp_path):
    code = (
        "from launch import progress_bars; import time\n"
        "for _ in progress_bars.counted(range(3), 'counting', 3): time.sleep(0.1)\n"
        "with progress_bars.waiting('thinking'): time.sleep(0.3)\n"
    )
    status, written = terminals.run("-c", code, folder=tmp_path)
    assert status == 0, written
    assert "counting" in written
    assert "2/3" in written
    assert "thinking" in written
    assert [line for line in terminals.shown(written)[0] if line] == []
