"""The log spectrogram as ONNX operators, so that a graph takes samples: ``features.log_spectrogram`` for a batch."""

import math

import numpy as np

from ds2f import features
from ds2f.config import SpectConfig
from ds2f.errors import InputError
from ds2f.export.onnx_graph import Graph, floats


def frames(samples: int, cfg: SpectConfig) -> int:
    """Frames of the features of so many samples, of which the shortest recordings are padded to half a window."""
    return int(features.num_frames(max(samples, features.reflectable(cfg)), cfg))


def log_spectrogram(graph: Graph, samples: str, lengths: str, *, cfg: SpectConfig, size: int | None) -> tuple[str, str]:
    """Adds the features to a graph, in float32 whatever the graph's type.

    The short-time Fourier transform is a convolution with cosines and sines under the window.

    Args:
      graph: the graph.
      samples: [B, N] float32, full scale 1, any values past a recording's end.
      lengths: [B] int32, samples.
      cfg: the ``spect`` section.
      size: N; None: open.

    Returns:
      [B, F, T] float32 and lengths [B] int32, frames; a recording without samples has no frames.

    Raises:
      InputError: global normalisation without the training set's statistics.
    """
    mirrored = _mirrored(graph, samples, lengths, cfg, size)
    real, imaginary = (
        graph.add("Conv", mirrored, graph.constant(kernel), strides=[cfg.stride_samples]) for kernel in _kernels(cfg)
    )
    squares = (graph.add("Mul", part, part) for part in (real, imaginary))
    values = graph.add("Sqrt", graph.add("Add", *squares))
    if cfg.num_mels:
        values = graph.add("MatMul", graph.constant(features.mel_bands(cfg).numpy()), values)
    scaled = graph.add("Mul", values, graph.constant(np.float32(cfg.full_scale)))
    values = graph.add("Log", graph.add("Add", scaled, graph.constant(np.float32(1.0))))
    counts = _num_frames(graph, lengths, cfg)
    return _normalized(graph, values, counts, cfg), counts


def _mirrored(graph: Graph, samples: str, lengths: str, cfg: SpectConfig, size: int | None) -> str:
    """[B, 1, N + window]: each recording with half a window reflected at its beginning and at its own end."""
    half, least = cfg.window_samples // 2, features.reflectable(cfg)
    count = graph.cast(lengths, "int64")
    valid = graph.add("Less", graph.indices(graph.size(samples, 1) if size is None else size),
                      graph.over("Unsqueeze", count, [1]))  # fmt: skip
    samples = graph.add("Where", valid, samples, graph.constant(np.float32(0)))
    samples = graph.add("Pad", samples, graph.constant(np.array([0, 0, 0, least], np.int64)))
    enough = graph.add("Less", graph.constant(np.int64(least)), count)
    last = graph.add("Sub", graph.add("Where", enough, count, graph.constant(np.int64(least))),
                     graph.constant(np.int64(1)))  # fmt: skip
    columns: int | str
    if size is None:
        columns = graph.add("Add", graph.size(samples, 1), graph.constant(np.int64(2 * half - least)))
        columns = graph.add("Where", graph.add("Less", columns, graph.constant(np.int64(least + 2 * half))),
                            graph.constant(np.int64(least + 2 * half)), columns)  # fmt: skip
    else:
        columns = max(size, least) + 2 * half
    position = graph.add("Sub", graph.indices(columns), graph.constant(np.int64(half)))
    last = graph.over("Unsqueeze", last, [1])
    # |p| reflects at the beginning, n - 1 - |n - 1 - p| at the last of n samples.
    beyond = graph.add("Abs", graph.add("Sub", last, graph.add("Abs", position)))
    place = graph.add("Sub", last, beyond)
    place = graph.add(
        "Where", graph.add("Less", place, graph.constant(np.int64(0))), graph.constant(np.int64(0)), place
    )
    return graph.over("Unsqueeze", graph.add("GatherElements", samples, place, axis=1), [1])


def _kernels(cfg: SpectConfig) -> list[np.ndarray]:
    """[K, 1, window] of the real and the imaginary part."""
    size = cfg.window_samples
    window = floats(features.window(cfg))
    turns = np.outer(np.arange(size // 2 + 1), np.arange(size)) % size  # exact: angles are taken modulo a turn
    angles = 2 * math.pi / size * turns
    return [(part * window)[:, None].astype(np.float32) for part in (np.cos(angles), -np.sin(angles))]


def _num_frames(graph: Graph, lengths: str, cfg: SpectConfig) -> str:
    """``features.num_frames``; 0 for 0 samples."""
    odd = graph.constant(np.int32(cfg.window_samples % 2))
    strides = graph.add("Div", graph.add("Sub", lengths, odd), graph.constant(np.int32(cfg.stride_samples)))
    counted = graph.add("Add", strides, graph.constant(np.int32(1)))
    return graph.add(
        "Where", graph.add("Less", lengths, graph.constant(np.int32(1))), graph.constant(np.int32(0)), counted
    )


def _normalized(graph: Graph, values: str, lengths: str, cfg: SpectConfig) -> str:
    """``features.normalized`` over the valid frames of each recording."""
    if cfg.normalize == "global":
        if not cfg.mean:
            raise InputError(
                "spect.normalize=global needs the training set's mean, which this run does not have; train it, or "
                "export without --with_features"
            )
        mean = graph.constant(np.asarray(cfg.mean, np.float32)[:, None])
        return graph.add(
            "Div", graph.add("Sub", values, mean), graph.constant(np.float32(cfg.deviation + features.EPS))
        )
    size = graph.cast(graph.indices(graph.size(values, 2)), "int32")
    valid = graph.add("Less", size, graph.over("Unsqueeze", lengths, [1, 2]))  # [B, 1, T]
    zero, one = graph.constant(np.float32(0)), graph.constant(np.float32(1))
    frames = graph.over("Unsqueeze", graph.cast(lengths, "float32"), [1, 2])
    elements = graph.add("Mul", frames, graph.constant(np.float32(cfg.num_bins)))
    over, share = ([2], frames) if cfg.normalize == "bins" else ([1, 2], elements)
    total = graph.over("ReduceSum", graph.add("Where", valid, values, zero), over, keepdims=1)
    mean = graph.add("Div", total, _at_least_one(graph, share))
    centred = graph.add("Where", valid, graph.add("Sub", values, mean), zero)
    squares = graph.over("ReduceSum", graph.add("Mul", centred, centred), [1, 2], keepdims=1)
    deviation = graph.add("Sqrt", graph.add("Div", squares, _at_least_one(graph, graph.add("Sub", elements, one))))
    return graph.add("Div", centred, graph.add("Add", deviation, graph.constant(np.float32(features.EPS))))


def _at_least_one(graph: Graph, value: str) -> str:
    one = graph.constant(np.float32(1))
    return graph.add("Where", graph.add("Less", value, one), one, value)
