"""Makes the table of speeds in launch/bench/README.md: python -m launch.bench.markdown FILE, of the benchmark."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADINGS = ("model", "batch", "ours, utt/s", "share of the limit", "usual way", "best imperative way")


def rows(results: dict[str, Any]) -> Iterator[str]:
    """The lines of the table: a case each, with how many times as fast ours is as the others.

    Args:
      results: what ``python -m launch.bench --parts=step --json=FILE`` wrote.
    """
    yield f"| {' | '.join(HEADINGS)} |"
    yield "|---" * len(HEADINGS) + "|"
    for case in results["parts"]["step"]:
        ours, over = case["contestants"]["ours"], case["ours_over"]
        cells = [
            case["preset"].replace("x", " x "),
            str(case["batch_size"]),
            f"{ours['utterances_per_second']:.2f}",
            f"{100 * ours['share_of_limit']:.0f} %",
            *(f"{over[name]['total']:.2f}" for name in ("usual", "best")),
        ]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print("\n".join(rows(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
