"""Word and character errors: counts, rates over a corpus, and edit paths that show which word was taken for which."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

# Costs of an edit path, which minimises, in this order: errors, substitutions (so hits are most), wrong characters.
_ERROR, _SUBSTITUTION = 1 << 40, 1 << 20
_DRAWS = 1 << 20  # utterances that the bootstrap draws at a time: 40 MB


Rate = Literal["wer", "cer"]


class ErrorCounts(NamedTuple):
    """Errors and reference sizes of an utterance or a set; counts are added before a rate is taken.

    The rate of a set is all errors / all reference words. A mean over utterances or batches would give short utterances
    the weight of long ones.

    >>> total = count_errors("YES", "YES") + count_errors("NO IT IS NOT", "NO IT NOT")
    >>> total.word_errors, total.words, total.wer
    (1, 5, 20.0)
    """

    word_errors: int = 0
    words: int = 0
    char_errors: int = 0
    chars: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":  # type: ignore[override]
        """Adds the counts of two sets (a tuple would be concatenated)."""
        return ErrorCounts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def wer(self) -> float:
        """Word error rate, percent; without reference words 0 if there are no errors, else infinite."""
        return _percent(self.word_errors, self.words)

    @property
    def cer(self) -> float:
        """Character error rate, percent; spaces do not count."""
        return _percent(self.char_errors, self.chars)

    def score(self, rate: Rate = "wer") -> float:
        """A finite number for choosing models, the lower the better.

        The deciding error rate, percent, and between equals the other. Without reference characters: the number of
        wrong characters.

        >>> ErrorCounts(1, 4, 3, 20).score("wer"), ErrorCounts(1, 4, 3, 20).score("cer")
        (25.0015, 15.0025)
        """
        if not self.chars:
            return float(self.char_errors)
        first, second = (self.wer, self.cer) if rate == "wer" else (self.cer, self.wer)
        return first + 1e-4 * second

    def rates(self, first: Rate = "wer", *, between: str = "  ") -> str:
        """Both rates for a line of text, the deciding rate first.

        >>> count_errors("YES", "YET").rates("cer")
        'CER 33.33 %  WER 100.00 %'
        """
        return between.join(f"{rate.upper()} {getattr(self, rate):.2f} %" for rate in in_order(first))


class Intervals(NamedTuple):
    """Confidence intervals of the error rates of a set, percent."""

    wer: tuple[float, float]
    cer: tuple[float, float]


class Pair(NamedTuple):
    """A step of an edit path: a word or character of the reference and its counterpart in the hypothesis."""

    said: str | None  # of the reference; None: an insertion
    heard: str | None  # of the hypothesis; None: a deletion

    @property
    def is_hit(self) -> bool:
        """Whether both are the same."""
        return self.said == self.heard


class Operations(NamedTuple):
    """Counts of the four kinds of pairs in edit paths."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def said(self) -> int:
        """Size of the reference, words or characters."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Error rate, percent, with the conventions of ``ErrorCounts.wer``."""
        return _percent(self.errors, self.said)


def deciding_rate(metric: str, references: Iterable[str]) -> Rate:
    """The error rate that chooses between models and stands first in tables.

    Args:
      metric: ``training.metric``: ``wer``, ``cer`` or ``auto``. auto: the word error rate, unless no reference has a
        space; then the script writes none, words are whole utterances, and the character error rate decides.
      references: correct transcripts.

    >>> deciding_rate("auto", ["ENTER ONE", "YES"]), deciding_rate("auto", ["打开灯"]), deciding_rate("wer", ["打开灯"])
    ('wer', 'cer', 'wer')
    """
    if metric == "auto":
        return "wer" if any(" " in reference for reference in references) else "cer"
    return "wer" if metric == "wer" else "cer"


def in_order(first: Rate) -> tuple[Rate, Rate]:
    """Both error rates, the deciding rate first."""
    return ("wer", "cer") if first == "wer" else ("cer", "wer")


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Counts the fewest insertions, deletions and substitutions that turn a hypothesis into its reference.

    White space separates words and is no character: "AN ON" for "ANON" is two word errors and no character error. The
    published results of deepspeech.pytorch use the same convention (1,922 characters in AN4's test set). The texts are
    compared without normalisation; ``text.clean`` makes spellings comparable.

    Args:
      reference: the correct transcript.
      hypothesis: the recognised transcript.

    >>> count_errors("FIVE FOUR", "FOR")
    ErrorCounts(word_errors=2, words=2, char_errors=5, chars=8)
    """
    words, heard = reference.split(), hypothesis.split()
    chars, heard_chars = "".join(words), "".join(heard)
    return ErrorCounts(
        word_errors=Levenshtein.distance(words, heard),
        words=len(words),
        char_errors=Levenshtein.distance(chars, heard_chars),
        chars=len(chars),
    )


def bootstrap(counts: Sequence[ErrorCounts], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Intervals:
    """Confidence intervals of a set's error rates, by the percentiles of resampled sets.

    Each resample draws as many utterances as the set has, with replacement. The interval is about other utterances of
    the same kind. It says nothing about another training of the model.

    Args:
      counts: of each utterance.
      level: probability of the interval.
      resamples: number of resampled sets.
      seed: of the draws; the same counts and seed give the same intervals.

    Returns:
      The lowest and the highest rate; rates without a reference as in ``ErrorCounts.wer``.

    Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004.

    >>> bootstrap([count_errors("YES", "YES")] * 9 + [count_errors("NO", "YES")]).wer
    (0.0, 30.0)
    """
    if not counts:
        return Intervals((0.0, 0.0), (0.0, 0.0))
    table = np.array(counts, dtype=np.int64)  # [N, 4]
    generator = np.random.default_rng(seed)
    rows = max(1, _DRAWS // len(table))
    blocks = [min(rows, resamples - first) for first in range(0, resamples, rows)]
    sums = np.concatenate(
        [table[generator.integers(len(table), size=(rows, len(table)))].sum(axis=1) for rows in blocks]
    )
    sets = [ErrorCounts(*map(int, row)) for row in sums]
    tails = ((1 - level) / 2, (1 + level) / 2)

    def interval(rates: list[float]) -> tuple[float, float]:
        low, high = np.quantile(rates, tails, method="inverted_cdf")  # a rate that occurs, which may be infinite
        return float(low), float(high)

    return Intervals(interval([each.wer for each in sets]), interval([each.cer for each in sets]))


def edit_path(said: Sequence[str], heard: Sequence[str]) -> list[Pair]:
    """Aligns a hypothesis with its reference: a path of the fewest edits, the number that ``count_errors`` counts.

    Of the paths with the fewest errors, it takes a path with the most hits; of these, a path whose substitutions have
    the smallest edit distance in characters.

    Args:
      said: words or characters of the reference.
      heard: words or characters of the hypothesis.

    Returns:
      Pairs in the order of both texts; no pair is without both sides. Time and memory grow with the product of the
      sizes.

    >>> [tuple(pair) for pair in edit_path(["F", "THREE"], ["THREE", "NINE"])]  # THREE is a hit
    [('F', None), ('THREE', 'THREE'), (None, 'NINE')]
    >>> [tuple(pair) for pair in edit_path(["FIVE", "FOUR"], ["FOR"])]  # FOR is closer to FOUR
    [('FIVE', None), ('FOUR', 'FOR')]
    """
    rows, columns = len(said), len(heard)
    # cost[row][column] of aligning said[row:] with heard[column:]; if either is empty, all of the other is wrong.
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
    """Counts the four kinds of pairs of one edit path or of many.

    >>> count_operations(edit_path("F THREE".split(), "THREE NINE".split()))
    Operations(hits=1, substitutions=0, deletions=1, insertions=1)
    """
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
