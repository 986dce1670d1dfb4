"""Word and character errors, counted over a corpus."""

from typing import NamedTuple

from rapidfuzz.distance import Levenshtein


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


def _percent(errors: int, total: int) -> float:
    if total == 0:
        return float("inf") if errors else 0.0
    return 100 * errors / total
