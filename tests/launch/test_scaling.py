"""The prediction against closed forms, and the measurement of two real ranks on a small model."""

import json
from pathlib import Path

import pytest

from launch.scaling import step_seconds
from launch.slow_network import StageTime

ROOT = Path(__file__).parents[2]
LINK = {"devices": 4, "bytes_per_second": 100.0, "latency": 0.0}


def test_without_overlap_every_byte_lengthens_the_step():
    parts = [StageTime("top", 2.0, 200), StageTime("bottom", 1.0, 400)]
    expected = 5 + 3 + 2 * 3 / 4 * 600 / 100 + 7
    assert step_seconds(parts, forward=5.0, after=7.0, overlap=False, **LINK) == pytest.approx(expected)


def test_with_overlap_only_all_reduces_longer_than_the_backward_pass_lengthen_the_step():
    parts = [StageTime("top", 2.0, 200), StageTime("middle", 10.0, 400), StageTime("bottom", 1.0, 100)]
    # 3 s and 6 s fit into the 10 s and 1 s that follow, but for the 5 s by which the second outlasts the last stage.
    expected = 5 + 13 + (6 - 1) + 1.5 + 7
    assert step_seconds(parts, forward=5.0, after=7.0, overlap=True, **LINK) == pytest.approx(expected)


def test_one_device_sends_nothing_and_latency_counts_each_message():
    parts = [StageTime("all", 2.0, 200)]
    alone = {"devices": 1, "bytes_per_second": 1.0, "latency": 9.0}
    assert step_seconds(parts, forward=1.0, after=1.0, overlap=True, **alone) == 4
    late = LINK | {"latency": 0.5}
    assert step_seconds(parts, forward=0.0, after=0.0, overlap=True, **late) == pytest.approx(2 + 3 + 6 * 0.5)


@pytest.mark.alone
def test_two_ranks_start_all_reduces_before_the_backward_pass_ends(launch, tmp_path):
    flags = ["--device=cpu", "--model.hidden_layers=3"]
    flags += ["--model.hidden_size=32", "--data.batch_size=2", "--rounds=1", "--apex.opt_level=O0"]
    flags += [f"--json={tmp_path}/scaling.json", f"--trace={tmp_path}/trace.json"]
    done = launch("scaling", *flags, folder=tmp_path, limit=120)
    assert done.status == 0, done.err
    results = json.loads((tmp_path / "scaling.json").read_text())
    assert results["ranks"] == 2
    assert [part["name"] for part in results["parts"]] == [
        "output",
        "rnn_2",
        "rnn_1",
        "rnn_0/backward",
        "rnn_0/forward",
        "conv",
    ]
    assert results["first_sum_starts_at"] < 0.5
    events = json.loads((tmp_path / "trace.json").read_text())
    for rank in (0, 1):
        rows = {event["name"]: event for event in events if event["pid"] == rank}
        last = rows["conv backward"]
        assert rows["all-reduce output"]["ts"] < last["ts"] + last["dur"]


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("--nproc_per_node=1", "one rank has no all-reduce; give at least 2"),
        ("--speeds=4", "--speeds=4 --cards=8,64 --links=1.25,12.5,25: give positive numbers, as in --speeds=4@10"),
        ("--cards=8,none", "give positive numbers"),
        ("--links=0", "give positive numbers"),
        ("--json=missing/scaling.json", "--json=missing/scaling.json: give a file in a folder that exists"),
        ("--trace=missing/trace.json", "--trace=missing/trace.json: give a file in a folder that exists"),
    ],
)
def test_a_mistake_is_reported_before_a_rank_starts(argument, problem, launch, tmp_path):
    done = launch("scaling", argument, folder=tmp_path)
    assert done.status == 1
    assert problem in done.err
    assert done.err.count("\n") == 1


def test_the_table_of_the_page_follows_from_the_stored_measurement():
    stored = json.loads((ROOT / "configs/results/scaling_cpu.json").read_text(encoding="utf-8"))
    page = (ROOT / "launch/bench/README.md").read_text(encoding="utf-8")
    table = page.partition("<!-- scaling -->")[2].partition("<!-- /")[0]
    rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]]
    assert len(rows) == 12
    parts = [StageTime(**part) for part in stored["parts"]]
    measured = {"forward": stored["forward_seconds"], "after": stored["after_seconds"]}
    here = sum(measured.values()) + sum(part.seconds for part in parts)
    for alone, cards, link, apart, overlapped in rows:
        speed, batch = alone.replace(" utt/s, batch", "").split()
        factor = float(batch) / float(speed) / here
        scaled = [part._replace(seconds=part.seconds * factor) for part in parts]
        times = {name: seconds * factor for name, seconds in measured.items()}
        for overlap, printed in ((False, apart), (True, overlapped)):
            together = step_seconds(
                scaled, devices=int(cards), bytes_per_second=1e9 * float(link), latency=2e-5, overlap=overlap, **times
            )
            assert f"{100 * here * factor / together:.1f} %" == printed
