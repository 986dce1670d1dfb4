"""Hot words: words and phrases whose characters score more in a text. Values and pure functions."""

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from ds2f import text
from ds2f.config import BLANK, BeamConfig
from ds2f.errors import InputError

LONGEST = 100  # characters of a hot word or phrase
HIGHEST = 100.0  # boost of a character
_SHOWN = 20  # characters outside the labels that a message names
# Scripts without spaces between words, as the Unicode names of their characters begin.
_UNSPACED = ("CJK ", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_NO_LABEL = -1  # the boundary of a word among labels without a space


class HotWords(NamedTuple):
    """Words and phrases to prefer, for the labels of one acoustic model; ``make_hot_words`` makes it. It can be sent to
    other processes.
    """

    phrases: tuple[tuple[str, float], ...]  # in the labels' spelling, with the boost of a character, natural log
    labels: tuple[str, ...]


def make_hot_words(phrases: Iterable[str], labels: Sequence[str], *, boost: float | None = None) -> HotWords:
    """Makes hot words for the labels of a model. It is cheap: a server makes them for every request.

    Every character of a hot word in a text adds ``boost`` to the text's score, spaces within a phrase included. A
    character that belongs to several hot words counts once, with the highest boost.

    Hot words are whole words: they begin at the beginning of the text or after a space, and end at a space or at the
    end. Where a phrase begins or ends with a character of a script without spaces between words (Chinese, Thai), or
    where the labels have no space, it may begin or end anywhere.

    Args:
      phrases: words, or phrases of several words. They are spelt as ``text.clean`` spells transcripts.
      labels: the characters of the model, the blank among them.
      boost: natural log, above 0; None: that of ``BeamConfig``.

    Raises:
      InputError: a phrase is empty or too long, has characters outside the labels, or the boost is out of range.

    >>> make_hot_words(["Kowalski", "new york"], "_ ABCDEFGHIJKLMNOPQRSTUVWXYZ", boost=2).phrases
    (('KOWALSKI', 2.0), ('NEW YORK', 2.0))
    """
    value = BeamConfig().hot_words_boost if boost is None else checked_boost(boost)
    return HotWords(tuple(dict.fromkeys((spelt(phrase, labels), value) for phrase in phrases)), tuple(labels))


def checked_boost(boost: float) -> float:
    """A boost, if it is above 0 and at most ``HIGHEST``.

    Raises:
      InputError: it is another number.
    """
    if not 0 < boost <= HIGHEST:  # false for NaN
        raise InputError(f"the boost {boost:g} is out of range, it must be > 0 and <= {HIGHEST:g}")
    return float(boost)


def spelt(phrase: str, labels: Sequence[str]) -> str:
    """A hot word in the spelling of the labels.

    Raises:
      InputError: the phrase is empty, longer than ``LONGEST``, or has characters outside the labels.
    """
    found = text.clean(phrase, labels)
    if not found:
        raise InputError("an empty hot word; remove it")
    if len(found) > LONGEST:
        raise InputError(f"the hot word {found[:20]!r}… has {len(found):,} characters; the limit is {LONGEST}")
    outside = sorted(set(text.units(found, labels)) - (set(labels) - {BLANK}))
    if outside:
        raise InputError(
            f"the hot word {phrase!r} has characters outside the labels of the model: "
            f"{' '.join(map(repr, outside[:_SHOWN]))}. The model cannot write them: spell the word with its labels, "
            f"{''.join(label for label in labels if label != BLANK)!r}, as it is spoken, or remove it"
        )
    return found


class Match(NamedTuple):
    """The place of a text in its hot words: what is begun, and what each of the last characters counts already."""

    node: int
    counted: tuple[float, ...]  # of the last characters, as many as the node is deep


class Automaton:
    """The hot words in a text that is read label by label (Aho and Corasick, CACM 1975). Immutable.

    The boosts of ``step`` and ``finish`` add up to those of the hot words in the text. A hot word that is begun counts
    from its first character on, so that a search does not lose it; the boosts are taken back where it breaks off.

    >>> automaton = automaton_of(make_hot_words(["AB"], "_AB ", boost=1.0))
    >>> match, boosts = automaton.start(), []
    >>> for label in (1, 2, 1):  # A B A: no whole word
    ...     match, boost = automaton.step(match, label)
    ...     boosts.append(boost)
    >>> boosts, automaton.finish(match)
    ([1.0, 1.0, -2.0], 0.0)
    """

    def __init__(self, hot_words: HotWords) -> None:
        index = {label: position for position, label in enumerate(hot_words.labels)}
        self._boundary = index.get(" ", _NO_LABEL)
        self._children: list[dict[int, int]] = [{}]
        self._depth, self._begins = [0], [0]  # labels to a node, and those before the hot word's first
        self._below = [0.0]  # highest boost of the hot words that go on below a node
        # Hot words that end at a node: first and last label, counted from the end, and boost.
        self._ends: list[list[tuple[int, int, float]]] = [[]]
        for phrase, boost in hot_words.phrases:
            self._insert(phrase, [index[unit] for unit in text.units(phrase, hot_words.labels)], boost)
        self._link()

    def _insert(self, phrase: str, tokens: list[int], boost: float) -> None:
        """Adds a path to the trie, with the boundaries that the hot word needs."""
        spaced = self._boundary != _NO_LABEL
        before, after = (spaced and not _is_unspaced(character) for character in (phrase[0], phrase[-1]))
        node = 0
        for label in (*[self._boundary] * before, *tokens, *[self._boundary] * after):
            self._below[node] = max(self._below[node], boost)
            if label not in self._children[node]:
                self._children[node][label] = len(self._depth)
                self._children.append({})
                self._depth.append(self._depth[node] + 1)
                self._begins.append(int(before))
                self._below.append(0.0)
                self._ends.append([])
            node = self._children[node][label]
        self._ends[node].append((len(tokens) + after, after, boost))

    def _link(self) -> None:
        """Links every node to that of its longest suffix, whose ends are its own, too; by breadth."""
        self._suffix, nodes = [0] * len(self._depth), [0]
        for node in nodes:
            for label, child in self._children[node].items():
                if node:
                    self._suffix[child] = self._next(self._suffix[node], label)
                self._ends[child] += self._ends[self._suffix[child]]
                nodes.append(child)

    def _next(self, node: int, label: int) -> int:
        while node and label not in self._children[node]:
            node = self._suffix[node]
        return self._children[node].get(label, 0)

    def start(self) -> Match:
        """The place before the first character."""
        return self._advance(Match(0, ()), self._boundary)[0]

    def step(self, match: Match, label: int) -> tuple[Match, float]:
        """The place after a label, and the boost that the label adds; negative where a hot word breaks off."""
        after, gained = self._advance(match, label)
        return after, gained + self._begun(after) - self._begun(match)

    def finish(self, match: Match) -> float:
        """The boost that the end of the text adds."""
        return self._advance(match, self._boundary)[1] - self._begun(match)

    def _advance(self, match: Match, label: int) -> tuple[Match, float]:
        """The place after a label, and the boosts of the hot words that it completes."""
        node, gained = self._next(match.node, label), 0.0
        size = self._depth[node]
        counted = [*match.counted, 0.0][len(match.counted) + 1 - size :]
        for first, last, boost in self._ends[node]:
            for position in range(size - first, size - last):
                gained += max(0.0, boost - counted[position])
                counted[position] = max(boost, counted[position])
        while node and not self._children[node]:  # nothing goes on here
            node = self._suffix[node]
        return Match(node, tuple(counted[size - self._depth[node] :])), gained

    def _begun(self, match: Match) -> float:
        """The boosts that a hot word has from its characters so far."""
        return max(
            math.fsum(max(0.0, self._below[node] - each) for each in counted) for node, counted in self._open(match)
        )

    def _open(self, match: Match) -> Iterator[tuple[int, tuple[float, ...]]]:
        """The nodes of all hot words that are begun, with what their characters count already."""
        node, size = match.node, len(match.counted)
        while node:
            yield node, match.counted[size - self._depth[node] + self._begins[node] :]
            node = self._suffix[node]
        yield 0, ()


@lru_cache(maxsize=64)
def automaton_of(hot_words: HotWords) -> Automaton:
    """The automaton of hot words; the last ones are kept."""
    return Automaton(hot_words)


def _is_unspaced(character: str) -> bool:
    """Whether the character is of a script without spaces between words.

    >>> _is_unspaced("北"), _is_unspaced("Б")
    (True, False)
    """
    return unicodedata.name(character, "").startswith(_UNSPACED)
