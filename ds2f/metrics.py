"""Word and character errors: counted over a corpus, and which word was taken for which."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

# What an alignment has the fewest of, in this order: errors, substitutions (hence the most hits), wrong characters.
_ERROR, _SUBSTITUTION = 1 << 40, 1 << 20


class ErrorCounts(NamedTuple):
    """Errors and reference sizes; added over a corpus before any rate is taken.

    The rate of a set is its errors over its words, not a mean over utterances or batches, which would let short
    utterances weigh as much as long ones.
    """

    word_errors: int = 0
    words: int = 0
    char_errors: int = 0
    chars: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":  # type: ignore[override]
        """The counts of both sets together (not a tuple's concatenation)."""
        return ErrorCounts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def wer(self) -> float:
        """Word error rate in percent: 0 for nothing wrong in nothing, infinite for words where none were spoken."""
        return _percent(self.word_errors, self.words)

    @property
    def cer(self) -> float:
        """Character error rate in percent, spaces not counted."""
        return _percent(self.char_errors, self.chars)


class Pair(NamedTuple):
    """A place in an alignment: the word, or the character, that was said there and the one that was heard."""

    said: str | None  # None: nothing was said, something was inserted
    heard: str | None  # None: what was said was deleted

    @property
    def is_hit(self) -> bool:
        """Whether what was said was heard."""
        return self.said == self.heard


class Operations(NamedTuple):
    """How often what was said was heard, taken for something else or missed, and something was heard from nothing."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def said(self) -> int:
        """Size of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """All that went wrong."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Error rate in percent, as ``ErrorCounts`` has it."""
        return _percent(self.errors, self.said)


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Counts the fewest insertions, deletions and substitutions that turn a hypothesis into its reference.

    Words are separated by any white space, and characters are counted without it: "AN ON" for "ANON" is two word
    errors and no character error. So count the published results of the system that this one follows (1,922
    characters in AN4's test set). Both texts are compared as they are; ``text.clean`` makes their spelling equal.

    Args:
      reference: what was said.
      hypothesis: what was recognised.
    """
    words, heard = reference.split(), hypothesis.split()
    chars, heard_chars = "".join(words), "".join(heard)
    return ErrorCounts(
        word_errors=Levenshtein.distance(words, heard),
        words=len(words),
        char_errors=Levenshtein.distance(chars, heard_chars),
        chars=len(chars),
    )


def edit_path(said: Sequence[str], heard: Sequence[str]) -> list[Pair]:
    """Lays what was heard beside what was said, with as few errors as ``count_errors`` counts.

    Of the alignments with the fewest errors it is one with the most hits, and of those one whose substitutions are
    spelled most alike: "F THREE" heard as "THREE NINE" is not F taken for THREE and THREE taken for NINE, although that
    is two errors too, and in "FIVE FOUR" heard as "FOR" it is FIVE that was missed.

    Args:
      said: words of the reference, or its characters.
      heard: those of the hypothesis.

    Returns:
      Pairs that spell both texts in order when the ``None`` are left out; none is without both. Time and memory grow
      with the product of the sizes.
    """
    rows, columns = len(said), len(heard)
    # What said[row:] and heard[column:] cost; where one of them is empty, all of the other is wrong.
    cost = [[_ERROR * (rows - row + columns - column) for column in range(columns + 1)] for row in range(rows + 1)]
    for row in reversed(range(rows)):
        below, here = cost[row + 1], cost[row]
        for column in reversed(range(columns)):
            both = below[column + 1] + _cost(said[row], heard[column])
            here[column] = min(both, _ERROR + below[column], _ERROR + here[column + 1])
    pairs: list[Pair] = []
    row = column = 0
    while row < rows and column < columns:
        left = cost[row][column]
        if left == cost[row + 1][column + 1] + _cost(said[row], heard[column]):
            pairs.append(Pair(said[row], heard[column]))
            row, column = row + 1, column + 1
        elif left == _ERROR + cost[row + 1][column]:
            pairs.append(Pair(said[row], None))
            row += 1
        else:
            pairs.append(Pair(None, heard[column]))
            column += 1
    return pairs + [Pair(word, None) for word in said[row:]] + [Pair(None, word) for word in heard[column:]]


def count_operations(pairs: Iterable[Pair]) -> Operations:
    """Counts the four kinds of pairs of one alignment or of many."""
    hits = substitutions = deletions = insertions = 0
    for said, heard in pairs:
        hits += said == heard
        insertions += said is None
        deletions += heard is None
        substitutions += None not in (said, heard) and said != heard
    return Operations(hits, substitutions, deletions, insertions)


def _cost(said: str, heard: str) -> int:
    return 0 if said == heard else _ERROR + _SUBSTITUTION + Levenshtein.distance(said, heard)


def _percent(errors: int, total: int) -> float:
    if total == 0:
        return float("inf") if errors else 0.0
    return 100 * errors / total
