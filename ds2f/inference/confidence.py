"""Confidences of words: from log-posteriors to calibrated probabilities. Pure functions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_CLOSEST = 1e-4  # to 0 and 1: log-odds stay finite


class Calibration(NamedTuple):
    """A monotone map of log-odds (Platt scaling), and the time by which the model names words late.

    The default changes nothing.
    """

    slope: float = 1.0  # > 0
    intercept: float = 0.0
    delay: float = 0.0  # seconds from a word's beginning to the frame in which the model names its first character


def confidence(score: float, calibration: Calibration = Calibration()) -> float:  # noqa: B008  an immutable default
    """The probability that a word is right, strictly between 0 and 1.

    Args:
      score: mean log-posterior of its characters, ``decode.words``; minus infinity is allowed.
      calibration: as fitted by ``fit``.

    >>> confidence(math.log(0.9)), confidence(-math.inf) < 0.001
    (0.9, True)
    """
    odds = calibration.slope * _log_odds(score) + calibration.intercept
    probability = 1 / (1 + math.exp(-min(max(odds, -500.0), 500.0)))
    return round(min(max(probability, _CLOSEST), 1 - _CLOSEST), 12)


def fit(scores: Sequence[float], right: Sequence[bool], *, delay: float = 0.0) -> Calibration:
    """Fits slope and intercept by maximum likelihood, with Platt's smoothed targets.

    Args:
      scores: of the words of a validation set.
      right: whether each word is right.
      delay: passed on.

    Returns:
      The calibration; the default's slope and intercept if there are no words, and a slope of at least 0.01, so that
      the order of words stays.

    Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines", with Newton's method.
    """
    if not scores:
        return Calibration(delay=delay)
    x = np.array([_log_odds(score) for score in scores])
    hits = np.array(right, dtype=float)
    positive, negative = hits.sum(), len(hits) - hits.sum()
    targets = np.where(hits > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    inputs = np.stack((x, np.ones_like(x)))
    weights = np.array([1.0, 0.0])
    ridge = 1e-6 * np.eye(2)
    for _ in range(100):
        probabilities = 1 / (1 + np.exp(-np.clip(weights @ inputs, -500, 500)))
        gradient = inputs @ (probabilities - targets)
        hessian = (inputs * (probabilities * (1 - probabilities))) @ inputs.T + ridge
        change = np.linalg.solve(hessian, gradient)
        weights = weights - change / max(1.0, float(np.abs(change).max()))  # at most 1 a step
        if np.abs(change).max() < 1e-9:
            break
    return Calibration(max(float(weights[0]), 0.01), float(weights[1]), delay)


def normalised_cross_entropy(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """NIST's measure of confidences: 1 for certainty that is right, 0 for always the share of right words, else less.

    Args:
      confidences: of words, strictly between 0 and 1.
      right: whether each word is right.

    Returns:
      1 - (cross entropy of the confidences) / (cross entropy of the share of right words); NaN if all words are right
      or all are wrong, where the measure is not defined.

    Source: Siu, Gish and Richardson, Eurospeech 1997.

    >>> normalised_cross_entropy([0.75] * 4, [True, True, True, False])
    0.0
    """
    hits = sum(right)
    if hits in (0, len(right)):
        return math.nan
    share = hits / len(right)
    base = _entropy([share] * len(right), right)
    return 1 - _entropy(confidences, right) / base


def _entropy(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    return -math.fsum(math.log(p if hit else 1 - p) for p, hit in zip(probabilities, right, strict=True))


def _log_odds(score: float) -> float:
    probability = min(max(math.exp(score), _CLOSEST), 1 - _CLOSEST)
    return math.log(probability / (1 - probability))
