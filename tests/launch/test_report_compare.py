"""Tests of launch.report --compare: the interval of the difference against closed forms and by simulation."""

import json
import math

import numpy as np
import pytest

from ds2f.errors import InputError
from launch.report import compare


def write(folder, name, word_errors, words=200, seed=1):
    run = folder / name
    run.mkdir()
    counts = {"word_errors": word_errors, "words": words, "char_errors": 2 * word_errors, "chars": 1000}
    (run / "results.json").write_text(json.dumps({"seed": seed, "val": counts}))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_interval_is_that_of_welch():
    """Worked by hand: means 6 and 3, variances 4 and 1, three each, so t(2.941) * sqrt(4 / 3 + 1 / 3) around 3."""
    found = compare.difference([4, 6, 8], [2, 3, 4], paired=False)
    freedom = (4 / 3 + 1 / 3) ** 2 / ((4 / 3) ** 2 / 2 + (1 / 3) ** 2 / 2)
    assert found.mean == 3
    half = (found.high - found.low) / 2
    assert found.low + half == pytest.approx(3)
    quantile = half / math.sqrt(5 / 3)
    assert freedom == pytest.approx(2.941, abs=1e-3)
    assert 3.182 < quantile < 4.303  # Student's 97.5 % points at 3 and at 2 degrees of freedom


def test_the_interval_of_pairs_is_that_of_student():
    """Worked by hand: differences 1, 2 and 3, so t(2) * sqrt(1 / 3) around 2, whatever the pairs share."""
    found = compare.difference([11, 52, 93], [10, 50, 90], paired=True)
    assert found == pytest.approx((2, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5)


@pytest.mark.parametrize("paired", [False, True])
def test_the_interval_covers_the_true_difference_in_about_95_of_100_cases(paired):
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        common = random.normal(0.0, 3.0, 5) if paired else np.zeros(5)
        first, second = common + random.normal(1.0, 2.0, 5), common + random.normal(0.0, 0.5, 5)
        found = compare.difference(first, second, paired=paired)
        covered += found.low <= 1.0 <= found.high
    assert 0.91 < covered / 400 < 0.99


@pytest.mark.parametrize("paired", [False, True])
def test_runs_without_spread_differ_by_exactly_their_means(paired):
    assert compare.difference([2.0, 2.0], [1.5, 1.5], paired=paired) == (0.5, 0.5, 0.5)


def test_patterns_find_finished_runs_and_skip_unfinished_ones(tmp_path):
    for seed, errors in enumerate([20, 24]):
        write(tmp_path, f"one-{seed}", errors, seed=seed)
        write(tmp_path, f"eight-{seed}", errors + 2, seed=10 + seed)
    (tmp_path / "eight-9").mkdir()
    first, second, gap = compare.rows(f"{tmp_path}/eight-*", f"{tmp_path}/one-*", split="val")[2:]
    assert cells(first) == [f"{tmp_path}/eight-*", "10, 11", "12.00 +- 1.41", "4.80 +- 0.57"]
    assert cells(second) == [f"{tmp_path}/one-*", "0, 1", "11.00 +- 1.41", "4.40 +- 0.57"]
    # two degrees of freedom: 4.303 * sqrt(2)
    assert cells(gap)[:3] == ["difference of the means, 95 % interval", "", "+1.00 (-5.08 to +7.08)"]


def test_runs_of_the_same_seeds_are_compared_seed_by_seed(tmp_path):
    for seed, (first, second) in enumerate([(22, 20), (44, 40), (68, 62)]):
        write(tmp_path, f"one-{seed}", second, seed=seed)
        write(tmp_path, f"eight-{9 - seed}", first, seed=seed)  # the order of the folders has no effect
    gap = compare.rows(f"{tmp_path}/eight-*", f"{tmp_path}/one-*", split="val")[-1]
    assert cells(gap)[:3] == ["difference by seed, 95 % interval", "", "+2.00 (-0.48 to +4.48)"]
    write(tmp_path, "one-again", 62, seed=2)
    write(tmp_path, "eight-again", 62, seed=2)
    first, _, gap = compare.rows(f"{tmp_path}/eight-*", f"{tmp_path}/one-*", split="val")[2:]
    assert cells(first)[1] == "0, 1, 2, 2"
    assert cells(gap)[0] == "difference of the means, 95 % interval", "two runs of one seed cannot be paired"


def test_too_few_runs_and_different_sets_are_refused(tmp_path):
    for seed in range(2):
        write(tmp_path, f"one-{seed}", 20)
        write(tmp_path, f"other-{seed}", 20, words=300)
    write(tmp_path, "single", 20)
    with pytest.raises(InputError, match=r"single: 1 of the 1 folders"):
        compare.rows(f"{tmp_path}/single", f"{tmp_path}/one-*", split="val")
    with pytest.raises(InputError, match="same val set"):
        compare.rows(f"{tmp_path}/other-*", f"{tmp_path}/one-*", split="val")
    with pytest.raises(InputError, match=r"lacks 'test\.word_errors'"):
        compare.rows(f"{tmp_path}/one-*", f"{tmp_path}/one-*", split="test")
