"""Both directions of an LSTM or GRU layer in one call of the platform's operator, on a padded batch.

In such a call the backward direction starts at the padded end, not at each utterance's own. Here it gets there with the
state zero, as if it started there: the input has one more unit, which is 1 in the padding and 0 elsewhere, and whose
weight closes a gate. With an LSTM's input gate at 0, the cell stays 0, and with it the output. With a GRU's update gate
at 1, the state stays. Both are exact: the sigmoid of a number so large is 0 or 1 in every dtype, and its derivative 0.

Packed sequences were decided against. They need the lengths on the host, shapes that change with every batch, and a
copy of the input in another order; what they save is the work on padding, a few per cent in batches of like length.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]

_FAR = 1e4  # far beyond the sum of a gate's other inputs; float16 reaches 6.5e4
_UNITS = 8  # added to the input; only the first is used: in half precision, matrix products want multiples of 8
_GATE = {
    "lstm": (0, -_FAR),
    "gru": (1, _FAR),
}  # the gate that keeps a state of zero, and the weight that holds it there


def both_directions(
    x: Tensor, padding: Tensor, weights: list[Weights], rnn_type: str
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """Runs both directions from a state of zero. First derivatives only, by the engine of the platform's operator.

    Args:
      x: [T, B, I]; its values in the padding are not read.
      padding: [T, B] bool: true past an utterance's end.
      weights: of the forward and the backward direction: ``w_ih`` [G*H, I], ``w_hh`` [G*H, H], ``b_ih`` and ``b_hh``
        [G*H], in the dtype of ``x``.
      rnn_type: ``"lstm"`` or ``"gru"``.

    Returns:
      y: [T, B, H], the sum over the directions; without meaning in the padding.
      state: per direction (h, c) or (h,), each [B, H]. The backward direction's is exact; the forward direction's is
        exact for utterances of T frames.
    """
    mark = F.pad(x.new_ones(1), (x.shape[2], _UNITS - 1))
    marked = torch.where(padding[..., None], mark, F.pad(x, (0, _UNITS)))
    flat = [part for w in weights for part in (_with_gate(w, rnn_type), w["w_hh"], w["b_ih"], w["b_hh"])]
    zeros = x.new_zeros(2, x.shape[1], weights[0]["w_hh"].shape[1])
    operator: Any = torch.lstm if rnn_type == "lstm" else torch.gru
    hidden = (zeros, zeros) if rnn_type == "lstm" else zeros
    # has_biases, num_layers, dropout, train (allows gradients), bidirectional, batch_first
    y, *final = operator(marked, hidden, flat, True, 1, 0.0, True, True, False)
    forward, backward = y.chunk(2, dim=2)
    return forward + backward, list(zip(*(part.unbind() for part in final), strict=True))


def _with_gate(w: Weights, rnn_type: str) -> Tensor:
    """``w_ih`` with the columns of the added units: [G*H, I + 8]."""
    size = w["w_hh"].shape[1]
    gate, weight = _GATE[rnn_type]
    others = (gate * size, len(w["w_ih"]) - (gate + 1) * size)  # rows before and after the gate's
    column = F.pad(w["w_ih"].new_full((size, 1), weight), (0, _UNITS - 1, *others))
    return torch.cat([w["w_ih"], column], dim=1)
