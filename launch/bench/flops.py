"""Floating-point operations of a training step: matrix products and convolutions, without padding."""

from ds2f.config import ModelConfig
from ds2f.convolutions import convolutions
from ds2f.model.recurrent import GATES


def forward_flops(cfg: ModelConfig, frames: int) -> dict[str, int]:
    """Operations of the forward pass of an utterance of ``frames``, by stage. A multiply-add counts as two."""
    found, length, channels, bins = {}, frames, 1, cfg.num_bins
    for index, conv in enumerate(convolutions(cfg.time_stride, cfg.frequency_stride)):
        length = -(-length // conv.stride[1])
        bins = (bins + 2 * conv.padding[0] - conv.kernel[0]) // conv.stride[0] + 1
        found[f"conv_{index}"] = 2 * conv.channels * channels * conv.kernel[0] * conv.kernel[1] * bins * length
        channels = conv.channels
    directions, hidden = 1 + cfg.bidirectional, cfg.hidden_size
    for index in range(cfg.hidden_layers):
        size = hidden if index else channels * bins
        found[f"rnn_{index}"] = 2 * directions * GATES[cfg.rnn_type] * hidden * (size + hidden) * length
    found["output"] = 2 * hidden * len(cfg.labels) * length
    if not cfg.bidirectional:
        found["output"] += 2 * hidden * cfg.lookahead_context * length
    return found


def training_flops(cfg: ModelConfig, frames: int) -> int:
    """Operations of a training step for an utterance of ``frames``.

    The backward pass has two products per product of the forward pass. The first convolution has one, since
    features need no gradient.
    """
    forward = forward_flops(cfg, frames)
    return 3 * sum(forward.values()) - forward["conv_0"]
