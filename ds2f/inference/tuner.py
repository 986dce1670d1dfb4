"""Tuning of a decoder's weights: the logits of a split are computed once and decoded many times."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from ds2f import metrics
from ds2f.config import ModelConfig
from ds2f.decode import Decoder
from ds2f.metrics import ErrorCounts, Rate, in_order
from ds2f.precision import Policy
from ds2f.runner.device.backend import Backend
from ds2f.steps import eval_step
from ds2f.types import Batch, Logits, Params, Stats


class ScoredBatch(NamedTuple):
    """Logits and reference transcripts of a batch."""

    logits: Logits  # on the CPU, values float32
    references: list[str]


class Trial(NamedTuple):
    """A pair of weights and its errors."""

    weight: float  # of the language model
    word_score: float
    counts: ErrorCounts
    first: Rate = "wer"  # the deciding error rate

    @property
    def sort_key(self) -> tuple[float, ...]:
        """Lower is better: errors of the deciding rate, errors of the other, sizes of the weights."""
        errors = {"wer": self.counts.word_errors, "cer": self.counts.char_errors}
        return *(errors[rate] for rate in in_order(self.first)), self.weight, abs(self.word_score)


def compute_logits(
    params: Params,
    stats: Stats,
    batches: Iterable[Batch],
    references: Mapping[int, str],
    *,
    cfg: ModelConfig,
    policy: Policy,
    backend: Backend,
) -> list[ScoredBatch]:
    """Computes the logits of a whole split and keeps them in memory; ``params`` are on the backend's device."""
    found = []
    for batch in batches:
        logits, _ = eval_step(params, stats, backend.place(batch), cfg=cfg, policy=policy)
        values: Tensor = logits.values.float().cpu()
        found.append(ScoredBatch(Logits(values, logits.lengths), [references[row] for row in batch.ids.tolist()]))
    return found


def total_errors(scored: Sequence[ScoredBatch], decoder: Decoder, labels: Sequence[str]) -> ErrorCounts:
    """Decodes all batches and counts the errors over all of them."""
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
    first: Rate = "wer",
) -> list[Trial]:
    """Tries a grid of weights and word scores, then refines the grid around the best trial.

    ::

        try all pairs of the grid
        distances = the smallest differences between values of the grid
        repeat ``refinements`` times:
            halve both distances
            try the eight neighbours of the best trial at these distances

    Negative weights are left out, and no pair is tried twice.

    Args:
      measure: (weight, word score) -> errors.
      weights: weights of the language model in the grid.
      word_scores: word scores in the grid.
      refinements: the number of refinements.
      first: the error rate that decides, see ``metrics.deciding_rate``.

    Returns:
      All trials, the best first.
    """
    trials: dict[tuple[float, float], Trial] = {}

    def attempt(weight: float, word_score: float) -> None:
        pair = round(weight, 6), round(word_score, 6)
        if weight >= 0 and pair not in trials:
            trials[pair] = Trial(*pair, measure(*pair), first)

    for weight, word_score in itertools.product(weights, word_scores):
        attempt(weight, word_score)
    weight_distance, score_distance = _smallest_difference(weights), _smallest_difference(word_scores)
    for _ in range(refinements):
        weight_distance, score_distance = weight_distance / 2, score_distance / 2
        best = min(trials.values(), key=lambda trial: trial.sort_key)
        for i, j in itertools.product((-1, 0, 1), repeat=2):
            attempt(best.weight + i * weight_distance, best.word_score + j * score_distance)
    return sorted(trials.values(), key=lambda trial: trial.sort_key)


def _smallest_difference(values: Sequence[float]) -> float:
    ordered = sorted(set(values))
    return min((high - low for low, high in itertools.pairwise(ordered)), default=0.0)
