import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f import decode, scripts, text
from ds2f.inference.transcript import Word, joined

LABELS = "_AB "


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(1, 3), max_size=12), st.integers(0, 40), st.integers(0, 99))
def test_there_are_as_many_words_as_in_the_text(tokens: list[int], frames: int, seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal((frames, 4))
    log_probs = noise - np.log(np.exp(noise).sum(axis=1, keepdims=True))
    found = decode.words(log_probs, tokens, LABELS)
    assert [word.text for word in found] == text.decode(tokens, LABELS).split()
    bounds = [frame for word in found for frame in (word.begin, word.end)]
    assert bounds == sorted(bounds)
    assert all(0 <= frame <= frames for frame in bounds)
    assert all(word.score <= 0 for word in found)


def test_words_lie_where_their_characters_are() -> None:
    path = ["_", "_", "A", "A", "_", "B", "", "", "_", "_", "B", "B", "A", "_"]
    path = [character or " " for character in path]
    log_probs = np.log(np.full((len(path), 4), 0.05) + 0.8 * np.eye(4)[[LABELS.index(label) for label in path]])
    tokens = [LABELS.index(label) for label in "AB BA"]
    first, second = decode.words(log_probs, tokens, LABELS)
    assert (first.text, first.begin, first.end) == ("AB", 2, 6)
    assert second.text == "BA"
    assert (second.begin, second.end) == (path.index("B", 7), len(path) - 1)
    np.testing.assert_allclose(np.exp([first.score, second.score]), 0.85)


def test_a_transcript_that_does_not_fit_still_has_its_words() -> None:
    found = decode.words(np.log(np.full((3, 4), 0.25)), [1, 3, 2, 3, 1], LABELS)
    assert [(word.text, word.begin, word.end, word.score) for word in found] == [
        ("A", 0, 1, -np.inf),
        ("B", 1, 2, -np.inf),
        ("A", 2, 3, -np.inf),
    ]


@given(st.text(alphabet="AB打开 ", max_size=12), st.booleans())
def test_words_of_chinese_are_its_characters_and_join_to_the_text(said: str, spaced: bool) -> None:
    labels = "_AB打开" + " " * spaced
    ids = text.encode(said if spaced else said.replace(" ", ""), labels)
    assert ids is not None
    found = decode.words(np.log(np.full((40, len(labels)), 1 / len(labels))), ids, labels)
    spelt = text.decode(ids, labels)
    assert [word.text for word in found] == scripts.words(spelt)
    assert joined(Word(word.text, 0, 1, 1, word.glued) for word in found) == spelt
    assert not found or found[0].glued == (not spaced and spelt[0] in "打开")
