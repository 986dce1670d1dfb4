"""The table of speeds in launch/bench/README.md is made from the stored measurement."""

import json
from pathlib import Path

from launch.bench.markdown import rows

ROOT = Path(__file__).parents[2]
STORED = ROOT / "configs/results/bench_cpu.json"


def test_a_row_has_the_speed_relative_to_the_baselines():
    contestants = {"ours": {"utterances_per_second": 3.0, "share_of_limit": 0.5}}
    case = {"preset": "5x8", "batch_size": 2, "contestants": contestants}
    case["ours_over"] = {"usual": {"total": 4.0}, "best": {"total": 1.25}}
    *_, row = rows({"parts": {"step": [case]}})
    assert row == "| 5 x 8 | 2 | 3.00 | 50 % | 4.00 | 1.25 |"


def test_the_page_shows_the_stored_measurement():
    page = (ROOT / "launch/bench/README.md").read_text(encoding="utf-8")
    shown = page.split("<!-- speed -->\n")[1].split("<!-- /speed -->")[0]
    assert shown.splitlines() == rows(json.loads(STORED.read_text(encoding="utf-8")))


def test_stored_ratios_follow_from_the_times_beside_them():
    for case in json.loads(STORED.read_text(encoding="utf-8"))["parts"]["step"]:
        seconds = {name: sum(found["seconds"]) for name, found in case["contestants"].items()}
        for name, over in case["ours_over"].items():
            assert abs(over["total"] - seconds[name] / seconds["ours"]) < 1e-9
