"""The page of a run: what it shows of a made-up run's files, and how it looks in headless Chromium."""

import html
import json

import pytest

from launch.report.run_page import line_charts, run_report
from launch.report.run_page.run_record import read

HOSTILE = "<script>alert(1)</script>&\"'"


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_run(folder, *, epochs=3, steps=40, seed=1):
    """A made-up run: four epochs, one of them with numbers that are not finite."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(5, epochs * steps + 1, 5):
        values = {"loss": 80.0 / step, "grad_norm": None if step == 10 else 100.0 / step, "loss_scale": 32768.0}
        values |= {"learning_rate": 1e-3 * step, "utterances_per_second": 40.0}
        lines.append(json.dumps({"kind": "train", "iteration": step} | values))
        if step % steps == 0:
            epoch = step // steps
            values = {"train_loss": 8 / epoch, "val_loss": 9 / epoch, "val_wer": 90 / epoch, "val_cer": 50 / epoch}
            values |= {"learning_rate": 1e-3, "utterances_per_second": 40.0, "seconds": 12.5 * epoch}
            lines.append(json.dumps({"kind": "epoch", "iteration": step, "epoch": epoch} | values))
    write_lines(folder / "metrics.jsonl", lines)
    (folder / "config.json").write_text("{}")
    flags = {"data_path": "data", "training.epochs": epochs, "training.seed": seed, "of.another_version": HOSTILE}
    write_lines(folder / "flags.txt", [f"--{name}={value}" for name, value in flags.items()])
    counts = {"wer": 0, "cer": 0, "word_errors": 30, "words": 100, "char_errors": 60, "chars": 400, "unreadable": 1}
    about = {"name": HOSTILE, "epochs": epochs, "torch": "2.13.0", "device": "CPU", "seed": seed, "metric": "wer"}
    (folder / "results.json").write_text(json.dumps(about | {"val": counts}))
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def test_names_and_values_of_a_run_stay_text(run):
    page = run_report.page(read(run))
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<script") == 0
    assert "default-src 'none'" in html.unescape(page)


def test_a_run_without_results_and_with_damaged_lines_has_a_page(run):
    (run / "results.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "iteration": "x"}\n[1]\n{"kind": "epoch", "iteration": 1e999, "epoch": 3}\n{"ki')
    found = read(run)
    assert found.problems == ["metrics.jsonl: 1 line cannot be read"]
    assert "No result yet: 3 of 3 epochs" in run_report.page(found)


def test_a_folder_without_a_run_is_named(launch, tmp_path):
    ended = launch("report", "nowhere", folder=tmp_path)
    assert ended.status == 1
    assert ended.err.startswith("report: nowhere holds no run")


def test_thinning_keeps_every_peak():
    points = [(float(step), 1.0 if step != 777 else 50.0) for step in range(5000)]
    thin = line_charts.thinned(points)
    assert len(thin) <= line_charts.MOST_POINTS
    assert (777.0, 50.0) in thin
