"""The pages of runs whose files hold anything: extreme numbers, other types, endless lines."""

import json
import time

import hypothesis
import hypothesis.strategies as st
import pytest
from test_run_page import write_lines, write_run

from ds2f.errors import InputError
from launch.report.run_page import line_charts, log_remarks, run_comparison, run_report, run_results, spoken_samples
from launch.report.run_page.run_record import read

ANYTHING = st.sampled_from(
    [None, True, -1, 0, 1e299, -1e299, 1e99, 1e-320, 1e-99, float("nan"), float("inf"), 10**400, 1e17, 0.5]
    + ["train", "<script>", "\ud800", [], {}, [1], {"a": 1}]
)
LINE = st.fixed_dictionaries(
    {"kind": st.sampled_from(["train", "epoch", "step_time", [], {}, None]), "iteration": ANYTHING},
    optional=dict.fromkeys(
        ("epoch", "loss", "train_loss", "val_wer", "loss_scale", "training_seconds", "data_seconds", "step_seconds"),
        ANYTHING,
    ),
)
COUNTS = st.dictionaries(st.sampled_from(["word_errors", "words", "char_errors", "chars", "unreadable"]), ANYTHING)
RESULTS = st.fixed_dictionaries(
    {"val": st.one_of(ANYTHING, COUNTS)},
    optional=dict.fromkeys(("name", "epochs", "wall_seconds", "skipped_steps", "metric", "seed"), ANYTHING),
)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.lists(LINE, max_size=4), RESULTS)
def test_any_values_of_any_types_have_a_page(tmp_path_factory, lines, results):
    folder = tmp_path_factory.mktemp("runs")
    sound, damaged = (write_run(folder / name, seed=seed) for seed, name in enumerate(("sound", "damaged")))
    write_lines(damaged / "metrics.jsonl", map(json.dumps, lines))
    (damaged / "results.json").write_text(json.dumps(results))
    found = read(damaged)
    assert "</html>" in run_report.page(found, quick=True)
    assert "</html>" in run_comparison.page([read(sound), found])


def test_a_missing_file_is_told_and_the_epochs_are_of_the_result(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    found = read(run)
    assert found.problems == ["metrics.jsonl is missing", "log.txt is missing"]
    assert run_results.status(found) == "Trained to the end: 3 of 3 epochs."
    assert "no warnings" not in run_report.page(found, quick=True)


def test_an_endless_line_of_the_log_is_cut_before_it_is_searched():
    began = time.perf_counter()
    (found,) = log_remarks.remarks(["; 1 steps of " * 200_000] * 20)
    assert time.perf_counter() - began < 5
    assert found.total == 20
    assert all(len(each) < 600 for each in found.shown)
    assert (
        log_remarks.remarks(["2026-01-01 00:00:00 8 utterances (8 s), 2 for validation; 2 steps of 4, 2 epochs"]) == []
    )


def test_an_endless_word_is_cut(tmp_path):
    run = write_run(tmp_path / "run")
    spoken = {"split": "val", "audio": "a.wav", "reference": "ABC", "hypothesis": "X" * 30_000}
    write_lines(run / "transcripts.jsonl", [json.dumps(spoken)])
    (sample,) = spoken_samples.samples(read(run).transcripts)
    assert sum(len(each.said) + len(each.heard) for each in sample.columns) < 300


def test_a_run_is_compared_once_and_counted_once_a_seed(tmp_path):
    runs = [write_run(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    with pytest.raises(InputError, match="is given twice"):
        run_comparison.write([runs[0], tmp_path / "b" / ".." / "a"], output=tmp_path / "page.html")
    assert "Means over seeds" not in run_comparison.page([read(each) for each in runs[:2]])
    assert "seeds 1, 2" in run_comparison.page([read(each) for each in runs])


def test_the_tick_of_a_number_in_float32_is_drawn():
    points = [(0, 0.009999999776482582), (1, 0.009999999776482582)]
    drawn = line_charts.chart("a", "b", [line_charts.Series("c", points)], x_label="epoch", zero=True)
    assert drawn.y_ticks[-1].label == "0.01"
