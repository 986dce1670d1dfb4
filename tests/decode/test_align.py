import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f import decode
from ds2f.types import Logits

LABELS = "_AB"


def brute_force(log_probs: np.ndarray, tokens: list[int], blank: int) -> tuple[list[int], float] | None:
    """Looks at all paths: where the best one that spells the tokens begins each, and by how much it is the best."""
    found = []
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        runs = [
            (label, next(group)[0]) for label, group in itertools.groupby(enumerate(path), key=lambda pair: pair[1])
        ]
        if [label for label, _ in runs if label != blank] == tokens:
            score = log_probs[range(len(path)), list(path)].sum()
            found.append((score, [frame for label, frame in runs if label != blank]))
    return max(found)[::-1] if found else None


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2), st.integers(0, 5), st.lists(st.integers(1, 2), max_size=4), st.integers(0, 999))
def test_it_is_the_best_of_all_paths_that_spell_the_transcript(blank, frames, offsets, seed):
    log_probs = np.random.default_rng(seed).standard_normal((frames, 3))
    tokens = [(blank + offset) % 3 for offset in offsets]
    expected = brute_force(log_probs, tokens, blank)
    assert decode.align(log_probs, tokens, blank=blank) == (expected[0] if expected else None)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 30), st.integers(0, 999))
def test_what_greedy_decoding_hears_lies_where_greedy_decoding_hears_it(frames, seed):
    values = torch.randn(1, frames, 3, generator=torch.Generator().manual_seed(seed))
    (heard,) = decode.greedy(Logits(values, torch.tensor([frames])), LABELS)
    assert decode.align(values[0].numpy(), heard.tokens) == heard.token_frames


@pytest.mark.parametrize(("tokens", "frames"), [([1, 1], 2), ([1, 2, 2, 1], 4), ([1], 0)])
def test_a_transcript_that_does_not_fit_is_nowhere(tokens, frames):
    assert decode.align(np.zeros((frames, 3)), tokens) is None
    assert decode.align(np.zeros((frames + 1, 3)), tokens) is not None


def test_no_words_are_nowhere_in_particular():
    assert decode.align(np.zeros((7, 3)), []) == []
