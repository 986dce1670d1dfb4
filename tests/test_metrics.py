import functools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds2f.metrics import ErrorCounts, count_errors

TEXTS = st.text(alphabet="AB' ", max_size=8)


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """The textbook recursion."""

    @functools.cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        substituted = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(substituted, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(a), len(b))


@given(TEXTS, TEXTS)
def test_counts_are_edit_distances_over_words_and_over_characters_without_spaces(a: str, b: str) -> None:
    counts = count_errors(a, b)
    assert counts.word_errors == edit_distance(a.split(), b.split())
    assert counts.words == len(a.split())
    assert counts.char_errors == edit_distance(a.replace(" ", ""), b.replace(" ", ""))
    assert counts.chars == len(a) - a.count(" ")


def test_words_are_compared_whole_and_in_order() -> None:
    assert count_errors("RUBOUT G M E F THREE NINE", "RUBOUT G N E THREE NINE NINE") == (3, 7, 6, 19)
    assert count_errors("ONE TWO", "TWO ONE").word_errors == 2


def test_a_missing_space_is_a_word_error_and_no_character_error() -> None:
    assert count_errors("AN ON", "ANON") == ErrorCounts(word_errors=2, words=2, char_errors=0, chars=4)


def test_the_rates_of_a_set_are_over_its_words_and_not_means_of_rates() -> None:
    total = sum((count_errors("YES", "NO"), count_errors("A B C D E F G H I", "A B C D E F G H I")), ErrorCounts())
    assert total == ErrorCounts(1, 10, 3, 12)
    assert total.wer == 10.0
    assert total.cer == 25.0


def test_published_an4_rates_come_out_of_their_counts() -> None:
    published = ErrorCounts(word_errors=73, words=773, char_errors=110, chars=1922)
    assert round(published.wer, 3) == 9.444
    assert round(published.cer, 3) == 5.723


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_reference_counts_what_was_inserted(empty: str) -> None:
    assert count_errors(empty, "OH NO") == ErrorCounts(word_errors=2, words=0, char_errors=4, chars=0)
    assert count_errors("OH NO", empty) == ErrorCounts(word_errors=2, words=2, char_errors=4, chars=4)
    assert count_errors(empty, empty) == ErrorCounts()


def test_rates_without_a_reference_are_defined() -> None:
    assert (ErrorCounts().wer, ErrorCounts().cer) == (0.0, 0.0)
    inserted = count_errors("", "A")
    assert (inserted.wer, inserted.cer) == (float("inf"), float("inf"))
    assert (inserted + count_errors("B", "B")).wer == 100.0
