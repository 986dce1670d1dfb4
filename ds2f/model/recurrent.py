"""Recurrent layers: kernels of one signature, from the platform's fused operators to plain tensor operations.

A kernel is one layer of one or two directions: ``(x, frames, state, weights) -> (y, new_state)``.

  x: [T, B, I] in the dtype to compute in; what lies past an utterance's end is never seen by its own frames.
  frames: where the utterances end, ``layers.frames(lengths, T)``.
  state: ``None`` for zeros, or per direction a tuple of [B, H]: (h, c) of an LSTM, (h,) otherwise.
  weights: per direction, forward first, a dict of ``w_ih`` [G*H, I], ``w_hh`` [G*H, H], ``b_ih`` and ``b_hh`` [G*H]
    with torch's order of gates (LSTM i, f, g, o; GRU r, z, n).
  y: [T, B, H], the sum over the directions, zero past each utterance's end.
  new_state: as ``state``, after the last frame of each utterance in the order that its direction reads them. It is
    meant for going on with an utterance that fills its chunk; for a shorter one, which has ended, a kernel may have
    read its padding too.

The backward direction starts at each utterance's own last frame, so a result does not depend on the batch it is in
(the gathered form of what packed sequences do, which are slow on CPUs and not supported on NPUs).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ds2f.errors import InputError
from ds2f.model.hoisted import Weights, lstm
from ds2f.model.layers import Frames, reverse, zero_padding

State = list[tuple[Tensor, ...]]
Kernel = Callable[[Tensor, Frames, State | None, Sequence[Weights]], tuple[Tensor, State]]
Cell = Callable[[Tensor, tuple[Tensor, ...], Weights], tuple[Tensor, ...]]
Direction = Callable[
    [Tensor, tuple[Tensor, ...], Weights], tuple[Tensor, tuple[Tensor, ...]]
]  # x, state, w -> y, state

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def zero_state(x: Tensor, weights: Sequence[Weights], rnn_type: str) -> State:
    """The state before the first frame of ``x`` [T, B, I]: zeros of its dtype and device."""
    zeros = [x.new_zeros(x.shape[1], w["w_hh"].shape[1]) for w in weights]
    return [(h, h) if rnn_type == "lstm" else (h,) for h in zeros]


def fused(rnn_type: str) -> Kernel:
    """The platform's own operator, called once per direction with four weights on a padded batch.

    That is the form in which oneDNN's, cuDNN's and Ascend's fast paths are all available. Gradients come from
    ``torch.autograd.grad``, and on a CPU from ``torch.func.vjp`` too (``ds2f.grad`` says why not on a card); vmap and
    second derivatives need ``scan``.

    Args:
      rnn_type: ``"lstm"``, ``"gru"`` or ``"rnn"`` (tanh).
    """
    operator = {"lstm": torch.lstm, "gru": torch.gru, "rnn": torch.rnn_tanh}[rnn_type]

    def direction(x: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, tuple[Tensor, ...]]:
        hidden = tuple(part[None] for part in state)
        # One layer, with biases, no dropout, one direction, time first; its training form allows gradients.
        y, *final = operator(  # type: ignore[operator]
            x,
            hidden if rnn_type == "lstm" else hidden[0],
            [w["w_ih"], w["w_hh"], w["b_ih"], w["b_hh"]],
            True, 1, 0.0, True, False, False,
        )  # fmt: skip
        return y, tuple(part[0] for part in final)

    return _of_directions(direction, rnn_type)


def hoisted(rnn_type: str) -> Kernel:
    """Our own LSTM (``ds2f.model.hoisted``), for CPUs where it beats oneDNN's; what holds for ``fused`` holds for it,
    but that a result is pulled back once: a second backward pass over it raises ``RuntimeError``.

    Args:
      rnn_type: ``"lstm"``.

    Raises:
      InputError: for another cell.
    """
    if rnn_type != "lstm":
        raise InputError(f"model.kernel=hoisted runs lstm only, not {rnn_type}; use model.kernel=fused")
    return _of_directions(lstm, rnn_type)


def scan(rnn_type: str) -> Kernel:
    """A loop over frames in plain tensor operations: the reference, and good for every transform of ``torch.func``.

    The state stands still past an utterance's end, so the backward direction needs no reversal and ``new_state`` is
    exact for every utterance.

    Args:
      rnn_type: ``"lstm"``, ``"gru"`` or ``"rnn"`` (tanh).
    """
    cell = {"lstm": lstm_cell, "gru": gru_cell, "rnn": rnn_cell}[rnn_type]

    def kernel(x: Tensor, frames: Frames, state: State | None, weights: Sequence[Weights]) -> tuple[Tensor, State]:
        outputs, new_state = [], []
        for direction, (w, initial) in enumerate(zip(weights, state or zero_state(x, weights, rnn_type), strict=True)):
            y, final = _unroll(cell, x, frames, initial, w, backward=direction == 1)
            outputs.append(y)
            new_state.append(final)
        return zero_padding(_sum(outputs), frames.padding[..., None]), new_state

    return kernel


KERNELS: dict[str, Callable[[str], Kernel]] = {"fused": fused, "hoisted": hoisted, "scan": scan}


def named(name: str, rnn_type: str) -> Kernel:
    """The kernel of ``--model.kernel``; ``auto``, which a runner replaces by its choice, is ``fused`` here."""
    return KERNELS["fused" if name == "auto" else name](rnn_type)


def _of_directions(direction: Direction, rnn_type: str) -> Kernel:
    """The kernel that runs each direction on its own, the second one on utterances turned round."""

    def kernel(x: Tensor, frames: Frames, state: State | None, weights: Sequence[Weights]) -> tuple[Tensor, State]:
        outputs, new_state = [], []
        for index, (w, initial) in enumerate(zip(weights, state or zero_state(x, weights, rnn_type), strict=True)):
            y, final = direction(reverse(x, frames) if index else x, initial, w)
            outputs.append(reverse(y, frames) if index else y)
            new_state.append(final)
        return zero_padding(_sum(outputs), frames.padding[..., None]), new_state

    return kernel


def lstm_cell(projected: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, ...]:
    """One frame of an LSTM.

    i, f, o = sigmoid(.), g = tanh(.) of W_ih x + b_ih + W_hh h + b_hh;  c' = f c + i g;  h' = o tanh(c').

    Args:
      projected: [B, 4H], W_ih x + b_ih.
      state: (h, c), each [B, H].
      w: ``w_hh`` and ``b_hh`` are used.

    Returns:
      (h', c').
    """
    h, c = state
    i, f, g, o = (projected + F.linear(h, w["w_hh"], w["b_hh"])).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_cell(projected: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, ...]:
    """One frame of a GRU in torch's (cuDNN's) form, the reset gate applied after the recurrent product.

    r, z = sigmoid(W_i x + b_i + W_h h + b_h);  n = tanh(W_in x + b_in + r (W_hn h + b_hn));  h' = (1 - z) n + z h.
    """
    (h,) = state
    input_r, input_z, input_n = projected.chunk(3, dim=-1)
    hidden_r, hidden_z, hidden_n = F.linear(h, w["w_hh"], w["b_hh"]).chunk(3, dim=-1)
    z = torch.sigmoid(input_z + hidden_z)
    n = torch.tanh(input_n + torch.sigmoid(input_r + hidden_r) * hidden_n)
    return ((1 - z) * n + z * h,)


def rnn_cell(projected: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, ...]:
    """One frame of an Elman network: h' = tanh(W_ih x + b_ih + W_hh h + b_hh)."""
    (h,) = state
    return (torch.tanh(projected + F.linear(h, w["w_hh"], w["b_hh"])),)


def _unroll(
    cell: Cell, x: Tensor, frames: Frames, state: tuple[Tensor, ...], w: Weights, *, backward: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    projected = F.linear(x, w["w_ih"], w["b_ih"])
    outputs = []
    for time in reversed(range(x.shape[0])) if backward else range(x.shape[0]):
        ended = frames.padding[time][:, None]
        moved = cell(projected[time], state, w)
        state = tuple(torch.where(ended, old, new) for old, new in zip(state, moved, strict=True))
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backward else outputs), state


def _sum(outputs: list[Tensor]) -> Tensor:
    return outputs[0] if len(outputs) == 1 else outputs[0] + outputs[1]
