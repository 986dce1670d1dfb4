"""The search for weights, on made-up errors and logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f import decode
from ds2f.inference import tuner
from ds2f.metrics import ErrorCounts
from ds2f.types import Logits


def bowl(weight, word_score, *, at):
    """Errors that grow with the distance from a point, and slower along word scores."""
    distance = (weight - at[0]) ** 2 + 0.1 * (word_score - at[1]) ** 2
    return ErrorCounts(round(1e6 * distance), 10**6, 0, 10**6)


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 2), st.floats(-1, 3))
def test_a_single_lowest_point_is_found_to_the_last_distance(weight, word_score):
    trials = tuner.search(
        lambda *pair: bowl(*pair, at=(weight, word_score)), weights=[0, 0.5, 1, 1.5, 2], word_scores=[-1, 0, 1, 2, 3],
        refinements=3,
    )  # fmt: skip
    best = trials[0]
    assert abs(best.weight - weight) <= 0.5 / 8
    assert abs(best.word_score - word_score) <= 1 / 8
    assert [trial.sort_key for trial in trials] == sorted(trial.sort_key for trial in trials)


def test_nothing_is_tried_twice_and_no_weight_is_negative():
    asked = []

    def measure(weight, word_score):
        asked.append((weight, word_score))
        return bowl(weight, word_score, at=(0, 0))

    trials = tuner.search(measure, weights=[0, 1, 1], word_scores=[0], refinements=2)
    assert len(asked) == len(set(asked)) == len(trials)
    assert asked == [(0, 0), (1, 0), (0.5, 0), (0.25, 0)], "one word score is left as it is"


def test_of_equal_word_errors_fewer_character_errors_and_then_the_smaller_weights_are_better():
    def measure(weight, word_score):
        return ErrorCounts(5, 10, 3 if weight >= 1 else 4, 20)

    trials = tuner.search(measure, weights=[0, 1, 2], word_scores=[-2, 1], refinements=0)
    assert [(trial.weight, trial.word_score) for trial in trials[:2]] == [(1, 1), (1, -2)]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_errors_are_those_of_all_batches_together(cut):
    labels = "_AB "
    texts = ["AB A", "B", "A"]
    values = 9.0 * torch.nn.functional.one_hot(torch.tensor([[1, 2, 3, 1], [2, 0, 0, 0], [2, 0, 0, 0]]), 4)
    lengths = torch.tensor([4, 1, 2])
    slices = (slice(0, cut), slice(cut, 3))
    scored = [tuner.ScoredBatch(Logits(values[part], lengths[part]), texts[part]) for part in slices]
    assert tuner.total_errors(scored, decode.greedy, labels) == ErrorCounts(1, 4, 1, 5)
