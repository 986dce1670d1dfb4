import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ds2f.metrics import ErrorCounts, Operations, Pair, bootstrap, count_errors, count_operations, edit_path

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


WORDS = st.lists(st.sampled_from(["ONE", "O", "OH", "TWO", "T"]), max_size=6)


def every_alignment(said: Sequence[str], heard: Sequence[str]) -> Iterator[list[Pair]]:
    if not said and not heard:
        yield []
    if said and heard:
        yield from ([Pair(said[0], heard[0]), *rest] for rest in every_alignment(said[1:], heard[1:]))
    if said:
        yield from ([Pair(said[0], None), *rest] for rest in every_alignment(said[1:], heard))
    if heard:
        yield from ([Pair(None, heard[0]), *rest] for rest in every_alignment(said, heard[1:]))


def preference(pairs: list[Pair]) -> tuple[int, int, int]:
    wrong = [pair for pair in pairs if pair.said != pair.heard]
    return len(wrong), len(wrong) - len(pairs), sum(edit_distance(*pair) for pair in wrong if None not in pair)


@given(WORDS, WORDS)
def test_an_alignment_spells_both_texts_at_the_cost_of_their_edit_distance(said: list[str], heard: list[str]) -> None:
    pairs = edit_path(said, heard)
    assert [pair.said for pair in pairs if pair.said is not None] == said
    assert [pair.heard for pair in pairs if pair.heard is not None] == heard
    assert Pair(None, None) not in pairs
    assert sum(not pair.is_hit for pair in pairs) == edit_distance(said, heard)


@given(st.lists(st.sampled_from(["ONE", "O", "OH"]), max_size=4), st.lists(st.sampled_from(["ON", "O"]), max_size=4))
def test_of_all_alignments_it_has_the_fewest_errors_then_the_most_hits_then_the_likest_words(
    said: list[str], heard: list[str]
) -> None:
    assert preference(edit_path(said, heard)) == min(map(preference, every_alignment(said, heard)))


@given(st.text("ABC", max_size=8), st.text("ABC", max_size=8))
def test_characters_are_aligned_as_words_are(said: str, heard: str) -> None:
    assert edit_path(said, heard) == edit_path(list(said), list(heard))
    assert count_operations(edit_path(said, heard)).errors == edit_distance(said, heard)


def test_an_alignment_shows_what_was_taken_for_what_missed_and_inserted() -> None:
    pairs = edit_path(["RUBOUT", "G", "M", "E", "F", "THREE"], ["RUBOUT", "G", "N", "E", "THREE", "NINE"])
    wrong = [pair for pair in pairs if not pair.is_hit]
    assert wrong == [Pair("M", "N"), Pair("F", None), Pair(None, "NINE")]
    assert count_operations(pairs) == Operations(hits=4, substitutions=1, deletions=1, insertions=1)


def test_the_word_that_is_spelled_most_alike_is_the_one_that_was_meant() -> None:
    assert edit_path(["FIVE", "FOUR"], ["FOR"]) == [Pair("FIVE", None), Pair("FOUR", "FOR")]
    assert edit_path(["RUBOUT", "TEN"], ["RUB", "OUT", "TEN"]) == [
        Pair("RUBOUT", "RUB"),
        Pair(None, "OUT"),
        ("TEN", "TEN"),
    ]


@given(WORDS, WORDS)
def test_operations_add_up_to_the_sizes_of_both_texts_and_to_the_rate(said: list[str], heard: list[str]) -> None:
    operations = count_operations(edit_path(said, heard))
    assert operations.said == len(said)
    assert operations.hits + operations.substitutions + operations.insertions == len(heard)
    counts = count_errors(" ".join(said), " ".join(heard))
    assert (operations.errors, operations.rate) == (counts.word_errors, counts.wer)


def test_operations_of_nothing_and_of_insertions_alone() -> None:
    assert edit_path([], []) == []
    assert count_operations([]) == Operations()
    assert count_operations(edit_path([], ["A", "B"])) == Operations(insertions=2)
    assert count_operations(edit_path([], ["A"])).rate == float("inf")


def test_a_score_is_finite_and_prefers_words_or_characters_as_asked() -> None:
    fewer_words, fewer_characters = ErrorCounts(1, 10, 9, 40), ErrorCounts(2, 10, 3, 40)
    assert fewer_words.score() < fewer_characters.score()
    assert fewer_words.score("cer") > fewer_characters.score("cer")
    assert ErrorCounts(1, 10, 2, 40).score() < ErrorCounts(1, 10, 3, 40).score()
    assert ErrorCounts(2, 0, 7, 0).score() == 7.0, "no reference has a character"
    assert ErrorCounts().score() == 0.0


@pytest.mark.parametrize(("utterances", "wrong", "level"), [(200, 20, 0.95), (500, 250, 0.8), (50, 1, 0.95)])
def test_the_interval_of_utterances_of_one_word_is_the_binomial_one(utterances: int, wrong: int, level: float) -> None:
    counts = [ErrorCounts(1, 1, 3, 4)] * wrong + [ErrorCounts(0, 1, 0, 4)] * (utterances - wrong)
    found = bootstrap(counts, level=level, resamples=20_000)
    tails = (1 - level) / 2, (1 + level) / 2
    exact = [100 * stats.binom.ppf(tail, utterances, wrong / utterances) / utterances for tail in tails]
    assert found.wer == pytest.approx(exact, abs=1.01 * 100 / utterances), "within one utterance"
    assert found.cer == pytest.approx([0.75 * rate for rate in exact], abs=1.01 * 75 / utterances)


def test_the_interval_of_many_utterances_is_the_normal_one_of_a_ratio() -> None:
    generator = np.random.default_rng(3)
    words = generator.integers(1, 12, size=1000)
    errors = generator.binomial(words, 0.1)
    found = bootstrap([ErrorCounts(int(wrong), int(said), 0, 1) for wrong, said in zip(errors, words, strict=True)])
    rate = errors.sum() / words.sum()
    deviation = np.sqrt(((errors - rate * words) ** 2).sum()) / words.sum()  # the delta method
    assert found.wer == pytest.approx(100 * (rate + 1.96 * deviation * np.array([-1, 1])), abs=25 * deviation)
    assert found.cer == (0.0, 0.0)


def test_an_interval_depends_on_its_seed_alone_and_not_on_the_size_of_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = [ErrorCounts(number % 3, 3, number % 5, 9) for number in range(40)]
    found = bootstrap(counts)
    assert found == bootstrap(counts) != bootstrap(counts, seed=1)
    assert found.wer[0] < sum(counts, ErrorCounts()).wer < found.wer[1]
    monkeypatch.setattr("ds2f.metrics._DRAWS", 7 * 40)
    assert bootstrap(counts) == found


def test_intervals_are_defined_without_utterances_and_without_references() -> None:
    assert bootstrap([]) == ((0.0, 0.0), (0.0, 0.0))
    assert bootstrap([ErrorCounts(1, 0, 2, 0)] * 3) == ((float("inf"),) * 2, (float("inf"),) * 2)
    assert bootstrap([ErrorCounts(1, 4, 2, 8)]) == ((25.0, 25.0), (25.0, 25.0))
