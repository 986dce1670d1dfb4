"""Checks an exported model against the run that it was made from: logits of drawn inputs, and texts of recordings."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ds2f import decode, features, metrics, rng
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.export.onnx_session import Compiled
from ds2f.inference import stream
from ds2f.inference.engine import Engine
from ds2f.metrics import ErrorCounts
from ds2f.types import Batch, Logits

# Largest difference of log-probabilities, natural log. Sums in another order: 1e-6 to 1e-5. float16: 11 bits.
TOLERANCES = {"float32": 1e-4, "float16": 0.05}
_DRAWN = ((21,), (333, 200, 57, 21, 100, 9, 1), (900, 899))  # frames of the utterances of each batch
_STREAM_SECONDS = (2.31, 0.94)
_CHUNK = 3301  # samples, no multiple of a block
_TIMED_SECONDS = 6.0
_TIMED_RUNS = 3


class Texts(NamedTuple):
    """Transcripts of a sample by both models."""

    utterances: int
    differing: int  # transcripts that are not the same
    before: ErrorCounts  # of the run's model
    after: ErrorCounts  # of the exported model


class Speed(NamedTuple):
    """How fast a model computes."""

    batch: int
    seconds: float  # of sound that were computed
    real_time_factor: float  # seconds of computing per second of sound


def logits(source: Engine, made: Engine, cfg: Config, *, batch: int | None, tolerance: float, file: str) -> float:
    """Compares log-probabilities of drawn features; returns the largest difference.

    Args:
      source: the run's model in float32.
      made: the exported model.
      cfg: the configuration of the run.
      batch: utterances at a time, where the exported model has fixed sizes: rows that are absent are tried, too.
      tolerance: largest difference, natural log.
      file: the exported file, for the message.

    Raises:
      InputError: they differ; the message says where.
    """
    cases: Sequence[Sequence[int]] = _DRAWN
    if made.longest is not None:
        sizes = [made.longest, max(1, made.longest // 2), 1] * (1 + (batch or 1) // 3)
        cases = [[made.longest], sizes[: batch or 1]]
    worst = 0.0
    for case in cases:
        drawn = draw(cfg, case)
        worst = max(worst, _compared(source.logits(drawn), made.logits(drawn), cfg, tolerance=tolerance, file=file))
    return worst


def streams(source: Engine, made: Engine, cfg: Config, *, block: int, tolerance: float, file: str) -> float:
    """Compares log-probabilities of drawn samples that come bit by bit; arguments and result as of ``logits``."""
    worst = 0.0
    for seconds in _STREAM_SECONDS:
        samples = _samples(cfg, seconds)
        expected, found = (_streamed(engine, samples, cfg, block) for engine in (source, made))
        worst = max(worst, _compared(expected, found, cfg, tolerance=tolerance, file=file))
    return worst


def samples(source: Engine, graph: Compiled, cfg: Config, *, tolerance: float, file: str) -> float:
    """Compares a graph that takes samples with the run's features and model; arguments and result as of ``logits``."""
    options = graph.form.options
    longest = options.frames or 2 * cfg.spect.sample_rate
    sizes = [longest, max(longest // 3, 1), min(longest, cfg.spect.stride_samples)][: options.batch or 3]
    drawn = [_samples(cfg, size / cfg.spect.sample_rate)[0, :size] for size in sizes]
    padded = torch.zeros(options.batch or len(sizes), longest)
    for row, values in zip(padded, drawn, strict=False):
        row[: len(values)] = values
    lengths = np.array([*sizes, *[1] * (len(padded) - len(sizes))], np.int32)
    found = graph.run({"samples": padded.numpy(), "lengths": lengths})
    spectrograms = [features.log_spectrogram(values, cfg.spect) for values in drawn]
    expected = source.logits(_batch(spectrograms, cfg))
    ours = Logits(
        torch.from_numpy(found["log_probs"][: len(sizes)]),
        torch.from_numpy(found["output_lengths"][: len(sizes)].astype(np.int64)),
    )
    return _compared(expected, ours, cfg, tolerance=tolerance, file=file)


def texts(
    source: Engine, made: Engine, batches: Iterable[Batch], references: Mapping[int, str], labels: Sequence[str]
) -> Texts:
    """Transcribes recordings by both models, greedily.

    Args:
      source: the run's model.
      made: the exported model.
      batches: recordings; those that are longer than the exported model takes are left out.
      references: transcript by utterance id.
      labels: of the model.
    """
    utterances, differing, before, after = 0, 0, ErrorCounts(0, 0, 0, 0), ErrorCounts(0, 0, 0, 0)
    for batch in batches:
        if made.longest is not None:
            batch = _rows(batch, batch.lengths <= made.longest)
        if not len(batch.ids):
            continue
        pairs = [decode.greedy(engine.logits(batch), labels) for engine in (source, made)]
        for row, first, second in zip(batch.ids.tolist(), *pairs, strict=True):
            utterances += 1
            differing += first.text != second.text
            before += metrics.count_errors(references[row], first.text)
            after += metrics.count_errors(references[row], second.text)
    return Texts(utterances, differing, before, after)


def speed(engine: Engine, cfg: Config, *, batch: int = 1) -> Speed:
    """Times drawn recordings of 6 s, or the longest that the model takes: the median of 3 runs after a first one."""
    frames = features.num_frames(round(_TIMED_SECONDS * cfg.spect.sample_rate), cfg.spect)
    frames = min(frames, engine.longest or frames)
    drawn, times = draw(cfg, [frames] * batch), []
    for _ in range(1 + _TIMED_RUNS):
        begun = time.perf_counter()
        engine.logits(drawn)
        times.append(time.perf_counter() - begun)
    seconds = batch * frames * cfg.spect.stride_samples / cfg.spect.sample_rate
    return Speed(batch, seconds, float(np.median(times[1:])) / seconds)


def draw(cfg: Config, sizes: Sequence[int]) -> Batch:
    """Drawn features of utterances of so many frames; the padding holds values, which must not matter."""
    shape = (len(sizes), cfg.model.num_bins, max(sizes))
    drawn = torch.randn(shape, generator=rng.generator(rng.fold_in(0, str(sizes))))
    return _as_batch(drawn, list(sizes))


def _samples(cfg: Config, seconds: float) -> torch.Tensor:
    """[1, N]: noise that rises and falls like syllables."""
    count = round(seconds * cfg.spect.sample_rate)
    noise = torch.randn(1, count, generator=rng.generator(rng.fold_in(1, count)))
    syllables = torch.sin(torch.arange(count) * (4 * 2 * math.pi / cfg.spect.sample_rate)).square()
    return 0.1 * noise * syllables


def _streamed(engine: Engine, samples: torch.Tensor, cfg: Config, block: int) -> Logits:
    """The logits of samples that come in chunks."""
    state, parts = engine.begin(block=block), list[torch.Tensor]()
    for chunk in [*samples.split(_CHUNK, dim=1), None]:
        state = stream.close(state, cfg=cfg) if chunk is None else stream.push(state, chunk, cfg=cfg)
        while stream.ready(state, cfg=cfg):
            (state,), found = engine.advance([state])
            parts += [each.float().cpu() for each in found]
    values = torch.cat(parts, dim=1)
    return Logits(values, torch.tensor([values.shape[1]]))


def _compared(expected: Logits, found: Logits, cfg: Config, *, tolerance: float, file: str) -> float:
    """The largest difference of log-probabilities; raises where it exceeds the tolerance, or lengths differ."""
    if expected.lengths.tolist() != found.lengths.tolist():
        raise InputError(
            f"{file}: not written: utterances have {found.lengths.tolist()} frames, and {expected.lengths.tolist()} by "
            "the run"
        )
    first, second = (each.values.float().log_softmax(dim=2).cpu() for each in (expected, found))
    worst = 0.0
    for row, length in enumerate(expected.lengths.tolist()):
        if not length:
            continue
        difference = (first[row, :length] - second[row, :length]).abs().nan_to_num(nan=math.inf)
        worst = max(worst, float(difference.max()))
        if worst > tolerance:
            frame, label = divmod(int(difference.argmax()), difference.shape[1])
            raise InputError(
                f"{file}: not written: its log-probabilities differ from the run's by {worst:.3g}, more than "
                f"{tolerance:g}: drawn utterance {row} of {len(first)}, frame {frame} of {length}, label "
                f"{cfg.model.labels[label]!a}"
            )
    return worst


def _rows(batch: Batch, wanted: torch.Tensor) -> Batch:
    """Some utterances of a batch."""
    return Batch(*(each[wanted] if each.dim() else each for each in batch))


def _batch(spectrograms: Sequence[torch.Tensor], cfg: Config) -> Batch:
    sizes = [each.shape[1] for each in spectrograms]
    padded = torch.zeros(len(sizes), cfg.model.num_bins, max(sizes))
    for row, each in zip(padded, spectrograms, strict=True):
        row[:, : each.shape[1]] = each
    return _as_batch(padded, sizes)


def _as_batch(values: torch.Tensor, sizes: list[int]) -> Batch:
    """Features with their lengths, and labels of no meaning."""
    none = torch.zeros(len(sizes), dtype=torch.int64)
    return Batch(values, torch.tensor(sizes), none[:, None], none, none, torch.ones(()))
