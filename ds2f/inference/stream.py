"""Logits of recordings that are still going on, as pure functions of a state and the next samples.

``step`` takes any number of samples and returns the logits that they decide on; ``finish`` returns the rest. Windows,
normalisation and model are computed on the grid of the whole recording, so that the logits depend on the samples alone
and not on how they were cut. With ``spect.normalize=global`` they are those of the whole recording.

    state = stream.init(cfg, stats)
    for samples in chunks:                                    # [B, N] at cfg.spect.sample_rate
        state, logits = stream.step(params, stats, state, samples, cfg=cfg)
    logits = stream.finish(params, stats, state, cfg=cfg)

Streams that receive their samples at different times are computed together by ``advance``, one block of each::

    states = [stream.push(state, samples, cfg=cfg) for state, samples in ...]   # or stream.close(state, cfg=cfg)
    ready = [state for state in states if stream.ready(state, cfg=cfg)]
    ready, values = stream.advance(params, stats, ready, cfg=cfg)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ds2f import features, tree
from ds2f.config import Config, SpectConfig
from ds2f.convolutions import output_lengths
from ds2f.model import streaming
from ds2f.model.streaming import ENDLESS, Block, ModelState
from ds2f.precision import FULL, Policy
from ds2f.types import Logits, Params, Stats

# The model's state, features [B, F, block * time_stride], lengths [B] int64 of the recordings in frames -> the next
# state, and the logits of a block: ``streaming.step`` of some weights.
Step = Callable[[ModelState, Tensor, Tensor], tuple[ModelState, Block]]
PRIOR_FRAMES = 200  # weight of the training set's mean in a running one; as Kaldi's online normalisation has it


class Running(NamedTuple):
    """Count, means and squared deviations of each stream's frames so far; all leaves have the streams on axis 0."""

    frames: Tensor  # [B] float32
    mean: Tensor  # [B, F] float32, per bin
    m2: Tensor  # [B, F] float32: sum of (x - mean)**2


class WindowState(NamedTuple):
    """Samples that later windows of B streams need; the streams are at the same position."""

    samples: int  # received
    unread: Tensor  # [B, n] float32: from the next window's first sample on
    last: Tensor  # [B, n] float32: the last samples, of which half a window is reflected at the end


class StreamState(NamedTuple):
    """The state of B streams that receive equal numbers of samples."""

    block: int  # frames of logits that are computed at once
    frames: int  # of the spectrogram; ENDLESS until ``close``
    windows: WindowState
    pending: Tensor  # [B, F, n] float32: log magnitudes that wait for a whole block
    running: Running
    model: ModelState


def init(cfg: Config, stats: Stats, *, streams: int = 1, block: int = 16, policy: Policy = FULL) -> StreamState:
    """The state before the first sample.

    Args:
      cfg: the configuration of the run, of a unidirectional model.
      stats: running statistics of batch norm, on the device to compute on; empty: the CPU, for a model whose weights
        are elsewhere (``advance`` with a ``step`` of its own).
      streams: B, number of streams, which then advance by equal numbers of samples.
      block: frames of logits that are computed at once; more are faster and come later.
      policy: dtypes of the forward pass.

    Raises:
      InputError: the model is bidirectional.
    """
    spect = cfg.spect
    model = streaming.init(cfg.model, stats, streams=streams, block=block, policy=policy)
    empty = torch.zeros(streams, 0, device=streaming.device_of(stats))
    mean = empty.new_zeros(streams, spect.num_bins)
    prior = PRIOR_FRAMES if spect.mean else 0
    known = mean.new_tensor(spect.mean) if spect.mean else 0.0
    running = Running(mean.new_full((streams,), prior), mean + known, mean + prior * spect.deviation**2)
    # A block begins with the virtual frames that the model wants before the first.
    lead = -int(model.position[0])
    pending = mean.new_zeros(streams, spect.num_bins, lead)
    return StreamState(block, ENDLESS, WindowState(0, empty, empty), pending, running, model)


def step(
    params: Params, stats: Stats, state: StreamState, samples: Tensor, *, cfg: Config, policy: Policy = FULL
) -> tuple[StreamState, Logits]:
    """Takes the next samples of every stream.

    Args:
      params: parameters.
      stats: running statistics of batch norm.
      state: of ``init`` or the last ``step``.
      samples: [B, N] float, full scale is 1, any N, at ``cfg.spect.sample_rate``.
      cfg: the configuration of the run.
      policy: dtypes of the forward pass.

    Returns:
      The next state; logits [B, T', V] of the next frames, T' = 0 while too few samples are there.
    """
    return _drained(params, stats, push(state, samples, cfg=cfg), cfg, policy)


def finish(params: Params, stats: Stats, state: StreamState, *, cfg: Config, policy: Policy = FULL) -> Logits:
    """The logits of the last frames, after the last samples: [B, T', V]."""
    return _drained(params, stats, close(state, cfg=cfg), cfg, policy)[1]


def push(state: StreamState, samples: Tensor, *, cfg: Config) -> StreamState:
    """Adds samples [B, N] float and computes their spectrogram; the model has not seen them yet."""
    windows, values = spectrogram(state.windows, samples, cfg.spect)
    return state._replace(windows=windows, pending=torch.cat((state.pending, values), dim=2))


def close(state: StreamState, *, cfg: Config) -> StreamState:
    """Ends the recordings: computes the spectrogram's last windows, which reach over the end."""
    values = _last_spectrogram(state.windows, cfg.spect)
    frames = features.num_frames(state.windows.samples, cfg.spect) if state.windows.samples else 0
    return state._replace(frames=frames, pending=torch.cat((state.pending, values), dim=2))


def ready(state: StreamState, *, cfg: Config) -> bool:
    """Whether ``advance`` has a block to compute: enough samples are there, or the last frames are missing."""
    if state.frames == ENDLESS:
        return state.pending.shape[2] >= _size(state, cfg)
    end = output_lengths(state.frames, time_stride=cfg.model.time_stride) if state.frames else 0
    return int(streaming.next_frames(state.model, cfg=cfg.model)[0]) < end


def advance(
    params: Params,
    stats: Stats,
    states: Sequence[StreamState],
    *,
    cfg: Config,
    policy: Policy = FULL,
    step: Step | None = None,
) -> tuple[list[StreamState], list[Tensor]]:
    """Computes the next block of streams that are ``ready``, whatever their positions, as one batch.

    Args:
      params: parameters.
      stats: running statistics of batch norm.
      states: at least one, all of the same ``block``; each may hold several streams.
      cfg: the configuration of the run.
      policy: dtypes of the forward pass.
      step: computes the model in place of ``streaming.step`` with ``params`` and ``stats``, which are then not read.

    Returns:
      The next states, and the logits of each [B, T', V]: ``block`` frames, fewer at the beginning and at the end.
    """
    size = _size(states[0], cfg)
    values = torch.cat([F.pad(each.pending, (0, max(0, size - each.pending.shape[2])))[..., :size] for each in states])
    lengths = torch.cat([torch.full_like(each.model.position, each.frames) for each in states])
    running, model = _gathered([(each.running, each.model) for each in states])
    if cfg.spect.normalize == "global":
        normal = features.normalized(values, cfg.spect)
    else:
        running = _updated(running, values, ~streaming.outside(model.position, lengths, size))
        normal = _normalized(running, values, cfg.spect)
    step = step or partial(streaming.step, params, stats, cfg=cfg.model, policy=policy)
    model, block = step(model, normal, lengths)
    ranges = streaming.output_range(block, lengths, cfg=cfg.model).tolist()
    after, found, row = [], [], 0
    for each in states:
        end = row + len(each.pending)
        own = _rows((running, model), row, end) if len(states) > 1 else (running, model)
        after.append(each._replace(pending=each.pending[..., size:], running=own[0], model=own[1]))
        found.append(block.values[row:end, slice(*ranges[row])])
        row = end
    return after, found


def _drained(
    params: Params, stats: Stats, state: StreamState, cfg: Config, policy: Policy
) -> tuple[StreamState, Logits]:
    """Computes all blocks that are ready."""
    parts = [state.pending.new_zeros(len(state.pending), 0, len(cfg.model.labels))]
    while ready(state, cfg=cfg):
        (state,), found = advance(params, stats, [state], cfg=cfg, policy=policy)
        parts += found
    values = torch.cat(parts, dim=1)
    return state, Logits(values, torch.full((len(values),), values.shape[1], device="cpu"))


def spectrogram(state: WindowState, samples: Tensor, cfg: SpectConfig) -> tuple[WindowState, Tensor]:
    """Log magnitudes of the windows that the next samples complete: [B, F, T], T >= 0.

    Args:
      state: of the windows so far; equal numbers of samples in every stream.
      samples: [B, N] float.
      cfg: the ``spect`` section.
    """
    half, needed = cfg.window_samples // 2, features.reflectable(cfg)
    unread = torch.cat((state.unread, samples.to(state.unread)), dim=1)
    last = torch.cat((state.last, samples.to(state.last)), dim=1)[:, -needed:]
    total = state.samples + samples.shape[1]
    if total < needed:
        return WindowState(total, unread, last), unread.new_zeros(len(unread), cfg.num_bins, 0)
    if state.samples < needed:  # the beginning is reflected
        unread = torch.cat((unread[:, 1 : half + 1].flip(1), unread), dim=1)
    values, rest = _windows(unread, cfg)
    return WindowState(total, rest, last), values


def _windows(samples: Tensor, cfg: SpectConfig) -> tuple[Tensor, Tensor]:
    """The log magnitudes of all windows within the samples [B, N], and the samples from the next window on."""
    count = (samples.shape[1] - cfg.window_samples) // cfg.stride_samples + 1
    if count < 1:
        return samples.new_zeros(len(samples), cfg.num_bins, 0), samples
    return features.log_magnitudes(samples, cfg), samples[:, count * cfg.stride_samples :]


def _last_spectrogram(state: WindowState, cfg: SpectConfig) -> Tensor:
    """Log magnitudes of the windows that reach over the end: [B, F, T]."""
    half, needed = cfg.window_samples // 2, features.reflectable(cfg)
    if state.samples == 0:
        return state.unread.new_zeros(len(state.unread), cfg.num_bins, 0)
    frames = features.num_frames(state.samples, cfg)
    if state.samples < needed:  # too few to reflect: zeros are added, as for a whole recording
        unread = F.pad(state.unread, (0, needed - state.samples))
        mirrored = F.pad(unread[None], (half, half), mode="reflect")[0]
        return features.log_magnitudes(mirrored, cfg)[..., :frames]
    mirrored = torch.cat((state.unread, state.last[:, -half - 1 : -1].flip(1)), dim=1)
    # What the stream has read is a multiple of the stride, half a window of it reflected.
    read = (state.samples + half - state.unread.shape[1]) // cfg.stride_samples
    return _windows(mirrored, cfg)[0][..., : frames - read]


def _updated(running: Running, values: Tensor, valid: Tensor) -> Running:
    """Statistics with the valid frames of a block [B, F, T] added (Chan et al.'s update)."""
    mask = valid.to(values.device)[:, None].float()
    added = mask.sum(dim=2)[:, 0]
    mean = (values * mask).sum(dim=2) / added.clamp(min=1)[:, None]
    m2 = ((values - mean[..., None]).square() * mask).sum(dim=2)
    total = running.frames + added
    share = (added / total.clamp(min=1))[:, None]
    difference = mean - running.mean
    return Running(
        total,
        running.mean + difference * share,
        running.m2 + m2 + difference.square() * share * running.frames[:, None],
    )


def _normalized(running: Running, values: Tensor, cfg: SpectConfig) -> Tensor:
    """Values less the running mean, over the running deviation, as ``features.normalized`` of a whole recording."""
    mean = running.mean if cfg.normalize == "bins" else running.mean.mean(dim=1, keepdim=True)
    m2 = running.m2 + (running.mean - mean).square() * running.frames[:, None]  # around the mean that is subtracted
    elements = running.frames * values.shape[1]
    deviation = (m2.sum(dim=1) / (elements - 1).clamp(min=1)).sqrt()
    return (values - mean[..., None]) / (deviation + features.EPS)[:, None, None]


def _size(state: StreamState, cfg: Config) -> int:
    """Frames of the spectrogram in a block."""
    return state.block * cfg.model.time_stride


def _gathered(states: Sequence[tuple[Running, ModelState]]) -> tuple[Running, ModelState]:
    return tree.map(lambda *rows: torch.cat(rows), *states) if len(states) > 1 else states[0]


def _rows(states: tuple[Running, ModelState], begin: int, end: int) -> tuple[Running, ModelState]:
    """The states of some streams; a copy, since a view would hold the whole batch in memory."""
    return tree.map(lambda x: x[begin:end].clone(), states)
