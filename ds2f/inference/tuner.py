"""The search for a decoder's weights: logits of a set computed once, decoded many times."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from ds2f import metrics
from ds2f.config import ModelConfig
from ds2f.decode import Decoder
from ds2f.metrics import ErrorCounts
from ds2f.precision import Policy
from ds2f.runner.device.backend import Backend
from ds2f.runner.splits import Split
from ds2f.steps import eval_step
from ds2f.types import Logits, Params, Stats


class Scored(NamedTuple):
    """A batch that the model has seen."""

    logits: Logits  # on the CPU
    references: list[str]


class Trial(NamedTuple):
    """One pair of weights, and the errors with it."""

    weight: float  # of the language model
    word_score: float
    counts: ErrorCounts

    @property
    def rank(self) -> tuple[float, ...]:
        """Lower is better: word errors, then character errors, then the weights that do less."""
        return self.counts.word_errors, self.counts.char_errors, self.weight, abs(self.word_score)


def score(
    params: Params, stats: Stats, split: Split, *, cfg: ModelConfig, policy: Policy, backend: Backend
) -> list[Scored]:
    """Computes the logits of a whole set, whose parameters are on the backend's device; they stay in memory."""
    references, found = split.references, []
    for batch in split.loader.epoch():
        logits, _ = eval_step(params, stats, backend.place(batch), cfg=cfg, policy=policy)
        values: Tensor = logits.values.float().cpu()
        found.append(Scored(Logits(values, logits.lengths), [references[row] for row in batch.ids.tolist()]))
    return found


def count(scored: Sequence[Scored], decoder: Decoder, labels: Sequence[str]) -> ErrorCounts:
    """Errors over the set of what a decoder makes of its logits."""
    total = ErrorCounts()
    for batch in scored:
        for reference, hypothesis in zip(batch.references, decoder(batch.logits, labels), strict=True):
            total += metrics.count_errors(reference, hypothesis.text)
    return total


def search(
    measure: Callable[[float, float], ErrorCounts],
    *,
    weights: Sequence[float],
    word_scores: Sequence[float],
    refinements: int,
) -> list[Trial]:
    """Tries a grid of weights and word scores, then looks closer around the best, several times.

    A refinement tries the eight neighbours of the best trial so far, half as far away as before; the grid's own
    distances are the smallest between its values. Weights below zero are left out, and nothing is tried twice.

    Args:
      measure: the errors with a weight and a word score.
      weights: the grid's weights of the language model.
      word_scores: the grid's word scores.
      refinements: how often to look closer.

    Returns:
      All trials, the best first.
    """
    trials: dict[tuple[float, float], Trial] = {}

    def attempt(weight: float, word_score: float) -> None:
        pair = round(weight, 6), round(word_score, 6)
        if weight >= 0 and pair not in trials:
            trials[pair] = Trial(*pair, measure(*pair))

    for weight, word_score in itertools.product(weights, word_scores):
        attempt(weight, word_score)
    across, along = _distance(weights), _distance(word_scores)
    for _ in range(refinements):
        across, along = across / 2, along / 2
        best = min(trials.values(), key=lambda trial: trial.rank)
        for left, right in itertools.product((-1, 0, 1), repeat=2):
            attempt(best.weight + left * across, best.word_score + right * along)
    return sorted(trials.values(), key=lambda trial: trial.rank)


def _distance(values: Sequence[float]) -> float:
    ordered = sorted(set(values))
    return min((high - low for low, high in itertools.pairwise(ordered)), default=0.0)
