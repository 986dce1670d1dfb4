"""Two groups of runs are compared by their means over seeds, with an interval that covers what it should."""

import json
import math

import numpy as np
import pytest
from rich.console import Console

from ds2f.errors import InputError
from launch.report import compare


def write(folder, name, word_errors, words=200):
    run = folder / name
    run.mkdir()
    counts = {"word_errors": word_errors, "words": words, "char_errors": 2 * word_errors, "chars": 1000}
    (run / "results.json").write_text(json.dumps({"val": counts}))


def shown(table):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_the_interval_is_welchs():
    """Worked by hand: means 6 and 3, variances 4 and 1, three each, so t(2.941) * sqrt(4 / 3 + 1 / 3) around 3."""
    found = compare.difference([4, 6, 8], [2, 3, 4])
    freedom = (4 / 3 + 1 / 3) ** 2 / ((4 / 3) ** 2 / 2 + (1 / 3) ** 2 / 2)
    assert found.mean == 3
    half = (found.high - found.low) / 2
    assert found.low + half == pytest.approx(3)
    quantile = half / math.sqrt(5 / 3)
    assert freedom == pytest.approx(2.941, abs=1e-3)
    assert 3.182 < quantile < 4.303  # Student's 97.5 % points at 3 and at 2 degrees of freedom


def test_the_interval_covers_the_true_difference_in_about_95_of_100_cases():
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        found = compare.difference(random.normal(1.0, 2.0, 5), random.normal(0.0, 0.5, 5))
        covered += found.low <= 1.0 <= found.high
    assert 0.91 < covered / 400 < 0.99


def test_runs_without_spread_differ_by_exactly_their_means():
    assert compare.difference([2.0, 2.0], [1.5, 1.5]) == (0.5, 0.5, 0.5)


def test_patterns_find_runs_and_unfinished_ones_are_passed_over(tmp_path):
    for seed, errors in enumerate([20, 24]):
        write(tmp_path, f"one-{seed}", errors)
        write(tmp_path, f"eight-{seed}", errors + 2)
    (tmp_path / "eight-9").mkdir()
    text = shown(compare.show(f"{tmp_path}/eight-*", f"{tmp_path}/one-*", split="val"))
    assert "12.00 +- 1.41" in text
    assert "11.00 +- 1.41" in text
    assert "+1.00 (-5.08 to +7.08)" in text  # two degrees of freedom: 4.303 * sqrt(2)


def test_too_few_runs_and_different_sets_are_refused(tmp_path):
    for seed in range(2):
        write(tmp_path, f"one-{seed}", 20)
        write(tmp_path, f"other-{seed}", 20, words=300)
    write(tmp_path, "single", 20)
    with pytest.raises(InputError, match=r"single: 1 of the 1 folders"):
        compare.show(f"{tmp_path}/single", f"{tmp_path}/one-*", split="val")
    with pytest.raises(InputError, match="same val set"):
        compare.show(f"{tmp_path}/other-*", f"{tmp_path}/one-*", split="val")
    with pytest.raises(InputError, match=r"lacks 'test\.word_errors'"):
        compare.show(f"{tmp_path}/one-*", f"{tmp_path}/one-*", split="test")
