"""Scores of a beam search with hot words: a language model of flashlight-text, written in Python.

flashlight's search without a lexicon asks it for the score of every label. It adds the boosts of the hot words to the
scores of a language model of characters, of words with their lexicon, or of none.
"""

import math
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from ds2f import text
from ds2f.config import BeamConfig
from ds2f.decode.flashlight_text import NEVER, LanguageModel, import_flashlight
from ds2f.decode.hot_words import Automaton, HotWords, Match, automaton_of

_LN10 = math.log(10)  # KenLM's logarithms are decimal


class _Spelling(Protocol):
    """Scores the labels of a text, natural log; a place is whatever it remembers of the labels before."""

    def start(self) -> Any:
        """The place before the first label."""

    def step(self, place: Any, label: int) -> tuple[Any, float] | None:
        """The place after a label and the label's score; None: the label is not written, and the place stays."""

    def finish(self, place: Any) -> float:
        """The score of the text's end."""


class _Anything:
    """No language model."""

    def start(self) -> None:
        return None

    def step(self, _: None, __: int) -> tuple[None, float]:
        return None, 0.0

    def finish(self, _: None) -> float:
        return 0.0


class _Characters:
    """A language model of characters; its places are KenLM's states."""

    def __init__(self, lm: LanguageModel, weight: float) -> None:
        self._scorer, self._weight = lm.scorer, weight * _LN10

    def start(self) -> Any:
        return self._scorer.start(False)

    def step(self, place: Any, label: int) -> tuple[Any, float]:
        state, score = self._scorer.score(place, label)
        return state, self._weight * score

    def finish(self, place: Any) -> float:
        return self._weight * float(self._scorer.finish(place)[1])


class _Entry:
    """A node of the lexicon. flashlight copies the children of a node whenever they are read."""

    def __init__(self, node: Any) -> None:
        self._node = node

    @cached_property
    def children(self) -> "dict[int, _Entry]":
        return {label: _Entry(child) for label, child in self._node.children.items()}

    @cached_property
    def ahead(self) -> float:
        """The best unigram score of the words below."""
        return float(self._node.max_score)

    @cached_property
    def word(self) -> int:
        """The scorer's index of the word that ends here."""
        return int(self._node.labels[0])


class _Place(NamedTuple):
    """A place in a text of words: the words so far, and the beginning of the next."""

    state: Any  # KenLM's, after the last whole word
    entry: _Entry | None  # of the lexicon; None: no word begins like this
    added: dict[int, Any] | None  # likewise, of the hot words outside the lexicon
    ahead: float  # what the beginning of the word counts in advance, decimal logarithm


class _Words:
    """A language model of words, and the hot words' own words, which it scores as unknown ones if they are so to it."""

    def __init__(self, lm: LanguageModel, hot_words: HotWords, weight: float, word_score: float) -> None:
        self._lm, self._weight, self._word_score = lm, weight * _LN10, word_score
        index = {label: position for position, label in enumerate(hot_words.labels)}
        # The root, by search: Python would delete what get_root returns, and the lexicon would delete it again.
        self._space, self._root = index[" "], _Entry(lm.lexicon.search([]))
        self._added: dict[int, Any] = {}
        for word in dict.fromkeys(word for phrase, _ in hot_words.phrases for word in phrase.split(" ")):
            tokens = [index[unit] for unit in text.units(f"{word} ", hot_words.labels)]
            if lm.lexicon.search(tokens) is None:
                node = self._added
                for token in tokens:
                    node = node.setdefault(token, {})

    def start(self) -> _Place:
        return self._between(self._lm.scorer.start(False))

    def _between(self, state: Any) -> _Place:
        return _Place(state, self._root, self._added, 0.0)

    def step(self, place: _Place, label: int) -> tuple[_Place, float] | None:
        ends = label == self._space
        if ends and place.entry is self._root:
            return None
        entry = place.entry.children.get(label) if place.entry else None
        added = None if place.added is None else place.added.get(label)
        if entry is None and added is None:
            return _Place(place.state, None, None, 0.0), NEVER
        if ends and entry:
            state, score = self._lm.scorer.score(place.state, entry.word)
        elif ends:
            state, score = self._lm.scorer.score(place.state, self._lm.unknown)
            score = max(score, self._lm.rarest)
        else:
            ahead = max(entry.ahead if entry else -math.inf, -math.inf if added is None else self._lm.rarest)
            return _Place(place.state, entry, added, ahead), self._weight * (ahead - place.ahead)
        return self._between(state), self._weight * (score - place.ahead) + self._word_score

    def finish(self, place: _Place) -> float:
        return self._weight * float(self._lm.scorer.finish(place.state)[1])


def hot_word_scorer(hot_words: HotWords, cfg: BeamConfig, lm: LanguageModel | None) -> Any:
    """A language model of flashlight-text, for its search without a lexicon.

    Its scores are natural logarithms, weights and boosts included.

    Args:
      hot_words: for the same labels as the search.
      cfg: the weight of the language model, and the score of a word.
      lm: the language model; None: none.
    """
    spelling: _Spelling
    if lm is None:
        spelling = _Anything()
    elif lm.lexicon is None:
        spelling = _Characters(lm, cfg.weight)
    else:
        spelling = _Words(lm, hot_words, cfg.weight, cfg.word_score)
    return _scorer(import_flashlight("decoder"), spelling, automaton_of(hot_words))


class _Moves:
    """What follows a place among the hot words, found once and kept: few places come up again and again."""

    def __init__(self, automaton: Automaton, match: Match, known: "dict[Match, _Moves]") -> None:
        self._automaton, self._match, self._known = automaton, match, known
        self._moves: dict[int, tuple[_Moves, float]] = {}

    def step(self, label: int) -> "tuple[_Moves, float]":
        found = self._moves.get(label)
        if found is None:
            match, boost = self._automaton.step(self._match, label)
            after = self._known.get(match) or self._known.setdefault(match, _Moves(self._automaton, match, self._known))
            found = self._moves[label] = after, boost
        return found

    @cached_property
    def finish(self) -> float:
        return self._automaton.finish(self._match)


class _Node:
    """A beginning of a text."""

    __slots__ = ("following", "hot", "place")

    def __init__(self, place: Any, hot: _Moves) -> None:
        self.place, self.hot = place, hot
        self.following: dict[int, tuple[Any, float]] = {}  # flashlight's state and the score, by label


def _scorer(flashlight: Any, spelling: _Spelling, automaton: Automaton) -> Any:
    first = _Moves(automaton, automaton.start(), {})

    class Scorer(flashlight.LM):
        """Equal beginnings of texts have the same state: flashlight compares states by identity."""

        def __init__(self) -> None:
            super().__init__()
            self._nodes: dict[Any, _Node] = {}

        def start(self, _: bool) -> Any:
            root = flashlight.LMState()
            self._nodes = {root: _Node(spelling.start(), first)}
            return root

        def score(self, state: Any, label: int) -> tuple[Any, float]:
            node = self._nodes[state]
            found = node.following.get(label)
            if found is None:
                found = node.following[label] = self._follow(state, node, label)
            return found

        def _follow(self, state: Any, node: _Node, label: int) -> tuple[Any, float]:
            stepped = spelling.step(node.place, label)
            if stepped is None:
                return state, 0.0
            child = state.child(label)
            hot, boost = node.hot.step(label)
            self._nodes[child] = _Node(stepped[0], hot)
            return child, stepped[1] + boost

        def finish(self, state: Any) -> tuple[Any, float]:
            node = self._nodes[state]
            return state, spelling.finish(node.place) + node.hot.finish

    return Scorer()
