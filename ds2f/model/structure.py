"""Shapes and initial distributions of a DeepSpeech2's tensors; ``deepspeech2`` describes their nesting."""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ds2f import rng, tree
from ds2f.config import ModelConfig
from ds2f.convolutions import convolutions
from ds2f.model import recurrent
from ds2f.types import Params, Stats


@attrs.frozen
class Leaf:
    """Shape of a parameter or statistic, and the bounds of its initial uniform distribution."""

    shape: tuple[int, ...]
    low: float
    high: float


def spec(cfg: ModelConfig) -> tuple[Params, Stats]:
    """The structure of ``(params, stats)`` with a ``Leaf`` in place of each tensor; bounds are torch's defaults."""
    params: Params = {"conv": {"layers": []}}
    stats: Stats = {"conv": {"layers": []}}
    channels, bins = 1, cfg.num_bins
    for conv in convolutions(cfg.time_stride, cfg.frequency_stride):
        fan_in = channels * conv.kernel[0] * conv.kernel[1]
        weight, bias = _uniform((conv.channels, channels, *conv.kernel), fan_in), _uniform((conv.channels,), fan_in)
        params["conv"]["layers"].append({"weight": weight, "bias": bias, "norm": _norm_params(conv.channels)})
        stats["conv"]["layers"].append({"norm": _norm_stats(conv.channels)})
        channels = conv.channels
        bins = (bins + 2 * conv.padding[0] - conv.kernel[0]) // conv.stride[0] + 1
    hidden = cfg.hidden_size
    for index in range(cfg.hidden_layers):
        name, size = f"rnn_{index}", hidden if index else channels * bins
        params[name] = {"norm": _norm_params(size)} if index else {}
        if index:
            stats[name] = {"norm": _norm_stats(size)}
        for direction in _directions(cfg):
            rows = recurrent.GATES[cfg.rnn_type] * hidden
            shapes = {"w_ih": (rows, size), "w_hh": (rows, hidden), "b_ih": (rows,), "b_hh": (rows,)}
            params[name][direction] = {part: _uniform(shape, hidden) for part, shape in shapes.items()}
    params["output"] = {"norm": _norm_params(hidden), "weight": _uniform((len(cfg.labels), hidden), hidden)}
    stats["output"] = {"norm": _norm_stats(hidden)}
    if cfg.intermediate_ctc:
        params["intermediate"] = {"weight": _uniform((len(cfg.labels), hidden), hidden)}
    if not cfg.bidirectional:
        context = cfg.lookahead_context
        params["output"]["lookahead"] = {"weight": _uniform((hidden, 1, context), context)}
    return params, stats


def init(cfg: ModelConfig, *, key: int) -> tuple[Params, Stats]:
    """Draws parameters from the distributions of torch's layers; running statistics have mean 0 and variance 1.

    Args:
      cfg: the ``model`` section.
      key: random key. Each leaf is drawn from (key, name of the leaf), so leaves do not depend on each other.

    Returns:
      ``(params, stats)``, float32 on the CPU.

    >>> params, stats = init(ModelConfig(hidden_size=8, hidden_layers=2), key=0)
    >>> list(params), params["output"]["weight"].shape
    (['conv', 'rnn_0', 'rnn_1', 'output'], torch.Size([29, 8]))
    """

    def draw(name: str, leaf: Leaf) -> Tensor:
        return torch.empty(leaf.shape, dtype=torch.float32, device="cpu").uniform_(
            leaf.low, leaf.high, generator=rng.generator(rng.fold_in(key, name))
        )

    params, stats = (
        tree.unflatten_like(part, {name: draw(name, leaf) for name, leaf in tree.flatten_with_names(part).items()})
        for part in spec(cfg)
    )
    return params, stats


def _directions(cfg: ModelConfig) -> Sequence[str]:
    return ("forward", "backward") if cfg.bidirectional else ("forward",)


def _uniform(shape: tuple[int, ...], fan_in: int) -> Leaf:
    bound = fan_in**-0.5  # the bound of torch's kaiming_uniform(a=sqrt(5)) and of its recurrent layers
    return Leaf(shape, -bound, bound)


def _norm_params(channels: int) -> dict[str, Leaf]:
    return {"scale": Leaf((channels,), 1, 1), "bias": Leaf((channels,), 0, 0)}


def _norm_stats(channels: int) -> dict[str, Leaf]:
    return {"mean": Leaf((channels,), 0, 0), "var": Leaf((channels,), 1, 1)}
