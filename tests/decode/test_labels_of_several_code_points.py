"""Decoders, words and hot words with labels of several code points: letters with marks that Unicode cannot join."""

import numpy as np
import pytest
import torch

from ds2f import text
from ds2f.config import BeamConfig, ModelConfig
from ds2f.decode import HotWords, beam, greedy, make_hot_words, words
from ds2f.decode.hot_words import automaton_of
from ds2f.types import Logits

LABELS = ("_", " ", "हि", "न्", "दी", "न", "नि")
SPOKEN = "हिन्दी नि न"


def logits(spoken: str, *, sure: float = 9.0) -> Logits:
    """Logits whose best path says a text, with a blank between the labels."""
    ids = text.encode(spoken, LABELS)
    assert ids is not None
    path = [0, *(index for label in ids for index in (label, 0))]
    values = sure * torch.eye(len(LABELS), device="cpu")[path]
    return Logits(values[None], torch.tensor([len(path)], device="cpu"))


def test_the_model_takes_such_labels():
    assert ModelConfig(labels=LABELS).blank == 0


def test_greedy_and_words_spell_them():
    (found,) = greedy(logits(SPOKEN), LABELS)
    assert found.text == SPOKEN
    assert len(found.tokens) == 7
    placed = words(logits(SPOKEN).values[0].log_softmax(1).numpy(), found.tokens, LABELS)
    assert [(word.text, word.begin, word.end) for word in placed] == [("हिन्दी", 1, 6), ("नि", 9, 10), ("न", 13, 14)]
    assert np.isfinite([word.score for word in placed]).all()


def test_beam_search_finds_them_and_prefers_hot_words():
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")
    assert beam(logits(SPOKEN), LABELS, cfg=BeamConfig(decoder="beam"))[0][0].text == SPOKEN
    unsure = logits("न", sure=0.5)
    hot = make_hot_words(["हिन्दी"], LABELS, boost=20.0)
    long = Logits(torch.zeros(1, 9, len(LABELS)), torch.tensor([9]))
    assert beam(long, LABELS, cfg=BeamConfig(decoder="beam"), hot_words=hot)[0][0].text.split()[0] == "हिन्दी"
    assert beam(unsure, LABELS, cfg=BeamConfig(decoder="beam"))[0][0].text == "न"


def test_a_hot_word_counts_a_boost_for_each_label():
    automaton = automaton_of(HotWords((("हिन्दी", 2.0),), LABELS))
    match, total = automaton.start(), 0.0
    for label in text.encode("हिन्दी", LABELS) or ():
        match, boost = automaton.step(match, label)
        total += boost
    assert total + automaton.finish(match) == 3 * 2.0  # three labels, six code points
