"""Hot words: the boosts of a text against brute force, the search with them against brute force, recall and alarms."""

import itertools
import math
import pickle

import arpa
import pytest
import torch
from hot_word_figures import HOT_WORDS, LABELS, TESTING, Figures, measure, utterances
from hypothesis import given, settings
from hypothesis import strategies as st
from test_beam import WIDE, assert_ranked_like, draw, spelt, transcripts

from ds2f import decode
from ds2f.config import BeamConfig
from ds2f.data.language_model import open_language_model
from ds2f.decode.hot_words import automaton_of
from ds2f.errors import InputError
from ds2f.types import Logits

WORDS = st.text("AB", min_size=1, max_size=4)
PHRASES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
BOOSTS = st.sampled_from([0.25, 0.5, 1.0, 3.0])


def total(text: str, phrases: dict[str, float], *, whole=True) -> float:
    """The boosts of a text by definition: every character counts once, with the highest boost of its hot words."""
    counted = [0.0] * len(text)
    for (phrase, boost), begin in itertools.product(phrases.items(), range(len(text))):
        end = begin + len(phrase)
        apart = (begin == 0 or text[begin - 1] == " ") and text[end : end + 1] in ("", " ")
        if text.startswith(phrase, begin) and (apart or not whole):
            counted[begin:end] = [max(boost, each) for each in counted[begin:end]]
    return sum(counted)


def made(phrases: dict[str, float], labels: str) -> decode.HotWords:
    return decode.HotWords(tuple(phrases.items()), tuple(labels))


def running(text: str, phrases: dict[str, float], labels: str) -> list[float]:
    """The sum of the boosts after every character, and at the end."""
    automaton = automaton_of(made(phrases, labels))
    match, boosts = automaton.start(), []
    for character in text:
        match, boost = automaton.step(match, labels.index(character))
        boosts.append(boost)
    return list(itertools.accumulate([*boosts, automaton.finish(match)]))


@settings(deadline=None, max_examples=400)
@given(st.dictionaries(PHRASES, BOOSTS, max_size=5), st.text("AB ", max_size=12))
def test_the_boosts_of_a_text_are_those_of_its_hot_words(phrases, text):
    assert running(text, phrases, "_AB ")[-1] == pytest.approx(total(text, phrases))


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(WORDS, BOOSTS, max_size=5), st.text("AB", max_size=12))
def test_without_a_label_for_the_space_hot_words_are_found_anywhere(phrases, text):
    assert running(text, phrases, "A_B")[-1] == pytest.approx(total(text, phrases, whole=False))


@pytest.mark.parametrize(
    ("phrases", "text", "found"),
    [
        ({"北京": 1.0}, "在北京吗", 2.0),  # in a script without spaces, though the labels have one
        ({"北京": 1.0, "京吗": 2.0}, "在北京吗", 5.0),
        ({"AI北": 1.0}, "在AI北京", 0.0),  # a Latin word begins at a boundary
        ({"AI北": 1.0}, "在 AI北京", 3.0),
        ({"北A": 1.0}, "在北AI", 0.0),
    ],
)
def test_scripts_without_spaces_have_no_boundaries(phrases, text, found):
    assert running(text, phrases, "_ 在北京吗AI")[-1] == found


def test_a_hot_word_counts_from_its_first_character_and_no_longer_once_it_breaks_off():
    phrases = {"AB": 1.0, "AB BA": 2.0}
    assert running("AB BA", phrases, "_AB ") == [2.0, 4.0, 6.0, 8.0, 10.0, 10.0]
    assert running("AB BB", phrases, "_AB ") == [2.0, 4.0, 6.0, 8.0, 2.0, 2.0]  # AB is whole
    assert running("ABB", phrases, "_AB ") == [2.0, 4.0, 0.0, 0.0]
    assert running("AB A", phrases, "_AB ") == [2.0, 4.0, 6.0, 4.0, 2.0]  # then a new AB is begun


TEXTS = st.sampled_from(["_AB ", " B_A"])
UNKNOWN = st.sampled_from([-2.0, -0.7])  # decimal logarithm of the probability of an unknown word
SOME = st.dictionaries(st.sampled_from(["A", "B", "BA", "AB", "A B", "BB A"]), BOOSTS, min_size=1, max_size=3)


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.integers(1, 5), st.integers(0, 999), SOME)
def test_without_a_language_model_every_transcript_has_its_boosts(labels, frames, seed, phrases):
    values = draw(seed, 1, frames, 4)
    expected = {text: score + total(text, phrases) for text, score in transcripts(values[0], labels).items()}
    logits, cfg = Logits(values, torch.tensor([frames])), BeamConfig(**WIDE)
    (hypotheses,) = decode.beam(logits, labels, cfg=cfg, hot_words=made(phrases, labels))
    assert_ranked_like(hypotheses, expected, labels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.integers(1, 5), st.integers(0, 999), st.floats(0, 2), st.floats(-2, 2), SOME)
def test_with_a_model_of_characters_every_transcript_has_its_boosts(
    folder, labels, frames, seed, weight, bonus, phrases
):
    lm = open_language_model(arpa.write(folder / "characters", arpa.CHARACTERS), labels)
    values = draw(seed, 1, frames, 4)
    expected = {
        text: score
        + weight * arpa.sentence(arpa.CHARACTERS, ["<space>" if character == " " else character for character in text])
        + bonus * len(text)
        + total(text, phrases)
        for text, score in transcripts(values[0], labels).items()
    }
    cfg = BeamConfig(weight=weight, word_score=bonus, **WIDE)
    logits = Logits(values, torch.tensor([frames]))
    (hypotheses,) = decode.beam(logits, labels, cfg=cfg, lm=lm, hot_words=made(phrases, labels))
    assert_ranked_like(hypotheses, expected, labels)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.integers(1, 5), st.integers(0, 999), st.floats(0, 2), st.floats(-2, 2), SOME, UNKNOWN)
def test_with_a_model_of_words_hot_words_are_found_that_it_does_not_know(
    folder, labels, frames, seed, weight, bonus, phrases, unknown
):
    ngrams = arpa.WORDS | {("<unk>",): (unknown, 0.0)}
    lm, own = open_language_model(arpa.write(folder / "words", ngrams), labels), {"A", "AB", "B"}
    values = draw(seed, 1, frames, 4)
    added = {word for phrase in phrases for word in phrase.split()} - own
    # An unknown word counts as <unk>, whatever is before it, but no less than B, the rarest.
    raised = [max(0.0, -1.1 - arpa.log10(ngrams, (before,), "?")) for before in ("<s>", "A", "AB", "B", "?")]
    floors = dict(zip(("<s>", "A", "AB", "B", "?"), raised, strict=True))

    def score(text: str) -> float:
        words = [word if word in own else "?" for word in text.split()]
        before = ["<s>", *words]
        floor = sum(floors[last] for last, word in zip(before, words, strict=False) if word == "?")
        return weight * (arpa.sentence(ngrams, words) + floor * math.log(10)) + bonus * len(words)

    expected = {
        text: found + score(text) + total(text, phrases)
        for text, found in transcripts(values[0], labels, lambda text: " ".join(text.split())).items()
        if set(text.split()) <= own | added
    }
    cfg = BeamConfig(weight=weight, word_score=bonus, **WIDE)
    logits = Logits(values, torch.tensor([frames]))
    (hypotheses,) = decode.beam(logits, labels, cfg=cfg, lm=lm, hot_words=made(phrases, labels))
    assert_ranked_like(hypotheses, expected, labels)


def test_hot_words_are_spelt_as_transcripts_and_may_differ_from_call_to_call():
    logits = Logits(spelt("AABB A", "_AB "), torch.tensor([6]))
    logits.values[0, 2:4, 1] = 19.0  # nearly an A
    one, other = (decode.make_hot_words([word], "_AB ", boost=2.0) for word in (" aa ", "ab"))
    assert one.phrases == (("AA", 2.0),)
    for hot_words, found in ((None, "AB A"), (one, "AB A"), (other, "AB A"), (made({"A": 9.0}, "_AB "), "A A")):
        (best,) = decode.from_config(BeamConfig(), hot_words=hot_words)(logits, "_AB ")
        assert best.text == found
    assert pickle.loads(pickle.dumps(one)) == one


def test_hot_words_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match=r"'Łódź'.*'Ł'.*remove it"):
        decode.make_hot_words(["Łódź"], "_DOZ ")
    with pytest.raises(InputError, match="'_'"):  # the blank is no character
        decode.make_hot_words(["A_B"], "_AB ")
    for phrases, boost, said in ((["A", " "], 1, "empty"), (["A"], 0, "boost 0"), (["A"], math.nan, "boost nan")):
        with pytest.raises(InputError, match=said):
            decode.make_hot_words(phrases, "_AB ", boost=boost)
    with pytest.raises(InputError, match="limit is 100"):
        decode.make_hot_words(["A" * 101], "_AB ")
    logits = Logits(torch.zeros(1, 1, 3), torch.tensor([1]))
    with pytest.raises(ValueError, match="other labels"):
        decode.beam(logits, "_AB", cfg=BeamConfig(), hot_words=decode.make_hot_words(["A"], "_AC"))
    with pytest.raises(InputError, match="hot_words=ds2f"):
        decode.beam(logits, "_AB", cfg=BeamConfig(hot_words="A"))
    with pytest.raises(InputError, match=r"lm\.decoder=greedy"):
        decode.from_config(BeamConfig(decoder="greedy"), hot_words=decode.make_hot_words(["A"], "_AB"))


def test_hot_words_are_found_and_seldom_where_they_are_not_said():
    spoken = utterances(TESTING, 24)
    cfg = BeamConfig(decoder="beam")
    without = measure(spoken, cfg, None)
    found = measure(spoken, cfg, decode.make_hot_words(HOT_WORDS, LABELS))
    assert found.recall > without.recall + 20, (without, found)
    assert found.false_alarms <= without.false_alarms + 1, (without, found)
    assert found.wer < without.wer + 2, (without, found)
    print(Figures.heading(), without, found, sep="\n")
