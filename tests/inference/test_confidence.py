import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds2f.inference.confidence import Calibration, confidence, fit, normalised_cross_entropy


@given(st.floats(max_value=0), st.floats(0.01, 10), st.floats(-10, 10))
def test_a_confidence_is_a_probability(score: float, slope: float, intercept: float) -> None:
    assert 0 < confidence(score, Calibration(slope, intercept)) < 1


@given(st.floats(-5, -0.01), st.floats(0.001, 1), st.floats(0.01, 10), st.floats(-3, 3))
def test_a_surer_word_has_no_lower_confidence(score: float, less: float, slope: float, intercept: float) -> None:
    calibration = Calibration(slope, intercept)
    assert confidence(score - less, calibration) <= confidence(score, calibration)


def test_a_fit_finds_the_map_that_made_the_data() -> None:
    generator = np.random.default_rng(0)
    scores = np.log(generator.uniform(0.3, 0.99, 20_000)).tolist()
    truth = Calibration(0.6, -0.7)
    chances = np.array([confidence(score, truth) for score in scores])
    right = (generator.uniform(size=len(scores)) < chances).tolist()

    found = fit(scores, right)

    assert found.slope == pytest.approx(0.6, abs=0.05)
    assert found.intercept == pytest.approx(-0.7, abs=0.08)
    before = normalised_cross_entropy([confidence(score) for score in scores], right)
    after = normalised_cross_entropy([confidence(score, found) for score in scores], right)
    assert before < 0 < after  # overconfident before
    assert after == pytest.approx(normalised_cross_entropy(chances.tolist(), right), abs=0.002)


@pytest.mark.parametrize("right", [[], [True] * 5, [False] * 5])
def test_a_fit_of_words_of_one_kind_stays_monotone(right: list[bool]) -> None:
    found = fit([-0.1 * (1 + place) for place in range(len(right))], right)
    assert found.slope > 0
    assert math.isfinite(found.intercept)


def test_the_measure_is_that_of_its_definition() -> None:
    confidences, right = [0.9, 0.8, 0.3], [True, True, False]
    entropy = -(math.log(0.9) + math.log(0.8) + math.log(0.7))
    base = -(2 * math.log(2 / 3) + math.log(1 / 3))
    assert normalised_cross_entropy(confidences, right) == pytest.approx(1 - entropy / base)
    assert math.isnan(normalised_cross_entropy([0.5], [True]))
