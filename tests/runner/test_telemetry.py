"""Tests of the messages and files of a run."""

import io
import json
import logging
import re

import pytest
from rich import cells
from rich.console import Console
from tensorboard.backend.event_processing import event_accumulator

from ds2f.config import Config, VisualizationConfig
from ds2f.metrics import Intervals
from ds2f.runner import telemetry

RESULTS = {
    "name": "an4_1p",
    "utterances_per_second": 12.345,
    "epochs": 70,
    "amp": "O2 bf16",
    "torch": "2.13.0+cpu",
    "val": {"wer": 8.123, "cer": 3.5, "word_errors": 47, "words": 581, "char_errors": 50, "chars": 1426},
    "test": {"wer": 9.444, "cer": 5.723, "word_errors": 73, "words": 773, "char_errors": 110, "chars": 1922},
}


def quiet(path):
    console = Console(file=io.StringIO(), width=100)
    cfg = Config(visualization=VisualizationConfig(tensorboard=False))
    return telemetry.Telemetry(path, cfg, console=console), console.file


def test_messages_scalars_and_results_reach_their_files(tmp_path):
    run, screen = quiet(tmp_path)
    with run:
        run.log("epoch 1/70")
        run.scalars("train", 10, {"loss": 1.5})
        run.results(RESULTS)
    assert (tmp_path / "log.txt").read_text().endswith("epoch 1/70\n")
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"kind": "train", "iteration": 10, "loss": 1.5}
    assert json.loads((tmp_path / "results.json").read_text()) == RESULTS
    printed = screen.getvalue()
    for expected in ("epoch 1/70", "9.444", "5.723", "73/773", "12.3", "O2 bf16", "2.13.0 "):
        assert expected in printed


def test_what_the_library_logs_reaches_the_log_once(tmp_path, capfd):
    run, screen = quiet(tmp_path)
    with run:
        logging.getLogger("ds2f.data.loading").warning("a.wav: %s", "mixed 2 channels down to one")
    assert (tmp_path / "log.txt").read_text().endswith("a.wav: mixed 2 channels down to one\n")
    assert screen.getvalue().count("mixed") == 1
    assert "mixed" not in capfd.readouterr().err


WIDE = {"word_errors": 1_234_567, "words": 9_876_543, "wer": 128.123, "cer": 9860.456}
LONG = {"word_errors": 1234, "words": 9876, "wer": 128.123, "cer": 98.456}
INTERVALS = {"manifest": Intervals((100.25, 1200.5), (8100.25, 9900.75))}
FULL = {"FPS": "1234.5", "epochs": "700", "AMP": "O2 fp16", "Torch": "2.13.0"}


@pytest.mark.parametrize(
    "name", ["an4_1p", "quickstart-20261128-164444", "a" * 70, "many words " * 20, "\u8bed\u97f3" * 40]
)
@pytest.mark.parametrize(
    ("split", "row", "extra"), [("manifest", WIDE, {"intervals": INTERVALS}), ("test", LONG, {"columns": FULL})]
)
def test_the_table_of_results_has_whole_numbers_within_80_columns(name, split, row, extra):
    console = Console(file=io.StringIO(), width=80)
    console.print(telemetry.errors_table(name, {split: row}, {split: "m.csv"}, **extra))
    printed = console.file.getvalue()
    assert max(map(cells.cell_len, printed.splitlines())) <= 80
    numbers = [f"{row['wer']}", f"{row['cer']}", f"{row['word_errors']}/{row['words']}"]
    numbers += [*extra.get("columns", {}).values()]
    numbers += ["(100.25 to 1200.50)", "(8100.25 to 9900.75)"] if "intervals" in extra else []
    for number in numbers:
        assert re.search(rf"(?<!\S){re.escape(number)}(?!\S)", printed), printed
    assert printed.count(name[0]) >= name.count(name[0])  # the name is folded, not cut


def test_the_deciding_rate_stands_first_with_its_errors():
    row = {"wer": 50.5, "cer": 7.25, "word_errors": 5, "words": 10, "char_errors": 3, "chars": 40}
    intervals = {"val": Intervals((49.0, 52.0), (6.0, 8.0))}
    for first, numbers in (
        ("wer", ["50.500", "7.250", "5/10", "49.00", "52.00", "6.00", "8.00"]),
        ("cer", ["7.250", "50.500", "3/40", "6.00", "8.00", "49.00", "52.00"]),
    ):
        console = Console(file=io.StringIO(), width=80)
        console.print(telemetry.errors_table("run", {"val": row}, intervals=intervals, first=first))
        assert re.findall(r"[0-9.]+[0-9]/[0-9]+|[0-9]+\.[0-9]+|[0-9]/[0-9]+", console.file.getvalue()) == numbers


def test_output_to_a_file_has_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    console = telemetry.terminal(io.StringIO())
    assert console.width == 80


def test_progress_draws_only_on_a_terminal(tmp_path):
    run, screen = quiet(tmp_path)
    with run, run.progress("epoch 1", 5) as bar:
        bar.advance("loss 1.0")
    assert screen.getvalue().strip() == ""


def test_spans_of_time_read_well():
    spans = {48: "48 s", 100: "2 min", 720: "12 min", 3 * 3600 + 300: "3 h 05 min"}
    assert {seconds: telemetry.duration(seconds) for seconds in spans} == spans


def test_what_was_logged_after_a_checkpoint_is_dropped_when_the_run_goes_on_from_it(tmp_path):
    cfg = Config(visualization=VisualizationConfig(tensorboard=False))
    for in_epoch, expected in ((True, ["train 2", "train 4"]), (False, ["train 2", "train 4", "epoch 4"])):
        with telemetry.Telemetry(tmp_path, cfg) as run:
            (tmp_path / "metrics.jsonl").write_text("")
            for kind, iteration in (("train", 2), ("train", 4), ("epoch", 4), ("train", 6)):
                run.scalars(kind, iteration, {"loss": 1.0})
            with (tmp_path / "metrics.jsonl").open("a") as cut:
                cut.write('{"kind": "train", "iter')
            run.rewind(4, in_epoch=in_epoch)
            lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
            assert [f"{line['kind']} {line['iteration']}" for line in lines] == expected
            run.scalars("train", 6, {"loss": 2.0})
            assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(expected) + 1


def test_samples_of_a_validation_are_texts_in_tensorboard(tmp_path):
    with telemetry.Telemetry(tmp_path, Config(), console=Console(file=io.StringIO())) as run:
        run.samples("val", 10, [("a|b.wav", "GO ON", "*NO*"), ("c.wav", "YES", "YES")])
        run.samples("val", 20, [("a|b.wav", "GO ON", "GO ON")])
    events = (
        event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tensors("samples/val/text_summary")
    )
    texts = [event.tensor_proto.string_val[0].decode() for event in events]
    assert [event.step for event in events] == [10, 20]
    assert r"| a\|b.wav | GO ON | \*NO\* |" in texts[0]
    assert r"| a\|b.wav | GO ON | GO ON |" in texts[1]
