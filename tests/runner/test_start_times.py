"""Tests of the marks of a training's start."""

import time

import pytest

from ds2f.runner import start_times


def test_marks_are_read_in_the_order_of_time_each_stage_at_its_first_end(tmp_path, monkeypatch):
    monkeypatch.setenv(start_times.VARIABLE, str(tmp_path / "marks"))
    began = time.monotonic()
    for stage in ("imports", "data", "imports"):
        start_times.mark(stage)
    marks = start_times.read(tmp_path / "marks")
    assert [each.stage for each in marks] == ["imports", "data"]
    assert began <= marks[0].time <= marks[1].time <= time.monotonic()


def test_without_the_variable_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(start_times.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    start_times.mark("imports")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        start_times.read(tmp_path / "marks")
