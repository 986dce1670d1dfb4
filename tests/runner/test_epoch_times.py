"""The parts of an epoch's time: one step taken apart, waits for data, what a run's files say of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_trainer import config, run_training

from ds2f.runner.epoch_times import MEASURED, EpochTimes, step_parts
from ds2f.runner.progress import TrainProgress
from ds2f.runner.spans import COMMUNICATION, COMPUTE, Span, Spans

NAMES = {
    "conv forward": "forward",
    "rnn backward": "backward",
    "optimizer": "optimizer",
    "all-reduce rnn": "all_reduce",
}
drawn = st.tuples(st.sampled_from(sorted(NAMES)), st.integers(0, 30), st.integers(0, 10))


@given(st.lists(drawn, max_size=12))
def test_parts_are_the_seconds_in_which_a_span_of_theirs_runs(drawn_spans):
    spans = [
        Span(name, COMMUNICATION if name.startswith("all") else COMPUTE, start, start + length)
        for name, start, length in drawn_spans
    ]
    expected = dict.fromkeys(NAMES.values(), 0)
    for second in range(40):
        running = {NAMES[span.name] for span in spans if span.start <= second < span.end}
        for part in running:
            expected[part] += part != "all_reduce" or running == {"all_reduce"}
    assert step_parts(spans) == {f"{part}_seconds": seconds for part, seconds in expected.items()}


def test_waits_for_data_are_counted_and_taken_once(monkeypatch):
    now = iter(range(0, 100, 3))
    monkeypatch.setattr("ds2f.runner.epoch_times.time.monotonic", lambda: next(now))
    times = EpochTimes(lambda: None, lambda *line: None)
    assert list(times.awaited("ab")) == ["a", "b"]
    with pytest.raises(ZeroDivisionError), times.part("evaluation"):
        1 / 0  # noqa: B018
    assert times.take() == {"data_seconds": 9, "evaluation_seconds": 3, "checkpoint_seconds": 0}
    assert set(times.take().values()) == {0}


def test_one_step_of_an_epoch_is_recorded_and_none_that_is_traced():
    lines, progress = [], TrainProgress()
    times = EpochTimes(lambda: None, lambda *line: lines.append(line))
    for batch in range(5):
        progress.batch = batch
        with times.step(None, progress) as spans:
            assert (spans is not None) == (batch == MEASURED)
            progress.iteration += 1
    assert [(kind, iteration) for kind, iteration, _ in lines] == [("step_time", MEASURED + 1)]
    progress.batch, traced = MEASURED, Spans()
    with times.step(traced, progress) as spans:
        assert spans is traced
    assert len(lines) == 1


def test_a_run_leaves_its_times_and_transcripts(tone_corpus, tmp_path):
    results = run_training(config(tone_corpus), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if line["kind"] == "step_time"]
    assert [line["iteration"] for line in measured] == [3, 6]  # epochs of three steps
    for line in measured:
        parts = [line[f"{part}_seconds"] for part in ("forward", "backward", "optimizer")]
        assert min(parts) > 0
        assert 0.3 * line["step_seconds"] < sum(parts) <= line["step_seconds"]
        assert line["all_reduce_seconds"] == 0
    for line in (line for line in lines if line["kind"] == "epoch"):
        assert 0 < line["data_seconds"] < line["training_seconds"]
        assert line["evaluation_seconds"] > 0
        assert line["checkpoint_seconds"] > 0
    rows = [json.loads(line) for line in (tmp_path / "run/transcripts.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["val"] * 3 + ["test"] * 3
    said = [row["reference"].replace(" ", "") for row in rows if row["split"] == "test"]
    assert sum(map(len, said)) == results["test"]["chars"]
