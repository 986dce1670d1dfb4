"""Prints the table of speeds for launch/bench/README.md: python -m launch.bench.markdown FILE."""

import json
import sys
from pathlib import Path
from typing import Any

from launch.tables import markdown_table

HEADINGS = ("model", "batch", "ours, utt/s", "share of the limit")
BASELINES = {"usual": "usual way", "best": "best imperative way"}


def rows(results: dict[str, Any]) -> list[str]:
    """The lines of the table: a row per case, with the speed of ds2f relative to the baselines that were measured.

    Args:
      results: the file of ``python -m launch.bench --parts=step --json=FILE``.
    """
    cases = results["parts"]["step"]
    measured = [name for name in BASELINES if any(name in case["ours_over"] for case in cases)]
    headings = (*HEADINGS, *(BASELINES[name] for name in measured))
    return markdown_table(headings, [_cells(case, measured) for case in cases])


def _cells(case: dict[str, Any], measured: list[str]) -> list[str]:
    ours, over = case["contestants"]["ours"], case["ours_over"]
    return [
        case["preset"].replace("x", " x "),
        str(case["batch_size"]),
        f"{ours['utterances_per_second']:.2f}",
        f"{100 * ours['share_of_limit']:.0f} %",
        *(f"{over[name]['total']:.2f}" if name in over else "" for name in measured),
    ]


if __name__ == "__main__":
    print("\n".join(rows(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
