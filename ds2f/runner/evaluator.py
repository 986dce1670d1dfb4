"""Evaluates a model on a data split, sharded over the ranks: transcripts, error counts and loss."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ds2f import decode, metrics
from ds2f.config import ModelConfig
from ds2f.decode import Decoder, Hypothesis
from ds2f.errors import InputError
from ds2f.metrics import ErrorCounts
from ds2f.precision import Policy
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import ALONE, Group
from ds2f.steps import eval_step
from ds2f.types import Batch, Criterion, Forward, Logits, Params, Stats

Observe = Callable[[Batch, Logits, list[Hypothesis]], None]


class Evaluation(NamedTuple):
    """The result of an evaluation."""

    counts: ErrorCounts  # summed over all utterances
    loss: float  # mean over the feasible utterances (long enough for the transcript), natural log
    transcripts: dict[int, str]  # hypothesis by the utterance's id
    unreadable: int = 0  # utterances left out because their recordings could not be read


def evaluate(
    params: Params,
    stats: Stats,
    batches: Iterable[Batch],
    references: Mapping[int, str],
    *,
    cfg: ModelConfig,
    policy: Policy,
    backend: Backend,
    criterion: Criterion,
    decoder: Decoder = decode.greedy,
    group: Group = ALONE,
    forward: Forward | None = None,
    between: Callable[[], None] = lambda: None,
    observe: Observe = lambda batch, logits, hypotheses: None,
) -> Evaluation:
    """Transcribes every utterance and counts the errors. All ranks call this function.

    Args:
      params: parameters, on the backend's device.
      stats: running statistics, on the backend's device.
      batches: this rank's shards, on the CPU. Every utterance is in one batch of one rank.
      references: transcript by utterance id, in the spelling of the labels.
      cfg: the ``model`` section.
      policy: dtypes of the forward pass.
      backend: this rank's device.
      criterion: the reported loss per utterance.
      decoder: turns logits into a hypothesis per utterance.
      group: the ranks.
      forward: computes the model in place of ``params`` and ``stats``, which are then not read.
      between: called after every batch. All ranks have the same number of batches.
      observe: called with every batch, its logits on the device and its hypotheses.

    Returns:
      Error counts of the whole split (no average over batches or ranks), mean loss and transcripts; the same on every
      rank. Recordings that the loader left out do not count.

    Raises:
      InputError: on every rank, when the loader has left out every recording.
    """

    def scored(batch: Batch) -> tuple[Logits, Tensor]:
        if forward is None:
            return eval_step(params, stats, backend.place(batch), cfg=cfg, policy=policy, criterion=criterion)
        with torch.no_grad():
            logits = forward(batch)
            labels = batch.labels.to(logits.values.device)
            return logits, criterion(logits, labels, batch.label_lengths, blank=cfg.blank)

    total, losses = ErrorCounts(0, 0, 0, 0), []
    transcripts: dict[int, str] = {}
    for batch in batches:
        logits, loss = scored(batch)
        losses.append(loss.cpu())
        hypotheses = decoder(logits, cfg.labels)
        observe(batch, logits, hypotheses)
        for utterance, hypothesis in zip(batch.ids.tolist(), hypotheses, strict=True):
            transcripts[utterance] = hypothesis.text
            total += metrics.count_errors(references[utterance], hypothesis.text)
        between()
    finite = [value for loss in losses for value in loss.tolist() if value != float("inf")]
    counts, sums, sizes, texts = zip(*group.gather((total, sum(finite), len(finite), transcripts)), strict=True)
    loss = sum(sums) / max(sum(sizes), 1)
    total = sum((ErrorCounts(*rank_counts) for rank_counts in counts), ErrorCounts(0, 0, 0, 0))
    transcripts = {row: text for part in texts for row, text in part.items()}
    if references and not transcripts:
        raise InputError(f"none of the {len(references)} recordings to evaluate can be read: the log above names them")
    return Evaluation(total, loss, transcripts, len(references) - len(transcripts))


def as_results(counts: ErrorCounts) -> dict[str, float | int]:
    """The errors of one split for a JSON file; rates in percent."""
    return {"wer": round(counts.wer, 4), "cer": round(counts.cer, 4), **counts._asdict()}


def split_results(found: Evaluation) -> dict[str, float | int]:
    """The errors of one split, and how many utterances were left out: an entry of ``results.json``."""
    return as_results(found.counts) | {"unreadable": found.unreadable}
