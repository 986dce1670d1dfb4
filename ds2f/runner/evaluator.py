"""Evaluation of a whole manifest: transcripts, and errors summed over the corpus."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ds2f import decode, metrics
from ds2f.config import ModelConfig
from ds2f.decode import Decoder
from ds2f.metrics import ErrorCounts
from ds2f.precision import Policy
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import ALONE, Group
from ds2f.steps import eval_step
from ds2f.types import Batch, Criterion, Params, Stats


class Evaluation(NamedTuple):
    """What an evaluation found."""

    counts: ErrorCounts  # over all utterances together
    loss: float  # mean over the utterances whose transcript fits, natural log
    transcripts: dict[int, str]  # hypothesis by the utterance's id


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
    between: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Transcribes every utterance and counts its errors, over all ranks.

    Args:
      params: parameters, on the backend's device.
      stats: running statistics, likewise.
      batches: this rank's utterances, on the CPU; every utterance is on one rank, once.
      references: transcript by utterance id, in the spelling of the labels.
      cfg: the ``model`` section.
      policy: dtypes of the forward pass.
      backend: where to compute.
      criterion: the loss that is reported.
      decoder: makes a hypothesis of each utterance's logits.
      group: the ranks.
      between: called after every batch, of which all ranks have as many.

    Returns:
      Errors over the corpus (never an average over batches or ranks), the mean loss, and the transcripts; the same on
      every rank.
    """
    total, losses = ErrorCounts(0, 0, 0, 0), []
    transcripts: dict[int, str] = {}
    for batch in batches:
        logits, loss = eval_step(params, stats, backend.place(batch), cfg=cfg, policy=policy, criterion=criterion)
        losses.append(loss.cpu())
        for utterance, hypothesis in zip(batch.ids.tolist(), decoder(logits, cfg.labels), strict=True):
            transcripts[utterance] = hypothesis.text
            total += metrics.count_errors(references[utterance], hypothesis.text)
        between()
    finite = [value for loss in losses for value in loss.tolist() if value != float("inf")]
    shares = group.gather((total, sum(finite), len(finite), transcripts))
    total = sum((share[0] for share in shares), ErrorCounts(0, 0, 0, 0))
    loss = sum(share[1] for share in shares) / max(sum(share[2] for share in shares), 1)
    return Evaluation(total, loss, {row: text for share in shares for row, text in share[3].items()})


def as_results(counts: ErrorCounts) -> dict[str, float | int]:
    """The entries of ``results.json`` for one set; rates in percent."""
    return {"wer": round(counts.wer, 4), "cer": round(counts.cer, 4), **counts._asdict()}
