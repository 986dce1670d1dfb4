"""Recurrent layers: kernels of one signature, ``Kernel``, from fused operators to plain tensor operations.

The backward direction starts at each utterance's own last frame, so a result does not depend on the batch. The
utterances are reversed by a gather: packed sequences, the usual way, are slow on CPUs and not supported on NPUs.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ds2f.errors import InputError
from ds2f.model.hoisted import Weights, lstm
from ds2f.model.layers import Frames, reverse, zero_padding
from ds2f.model.paired import both_directions

State = list[tuple[Tensor, ...]]  # per direction: (h, c) of an LSTM, (h,) of other cells; each [B, H]
Cell = Callable[[Tensor, tuple[Tensor, ...], Weights], tuple[Tensor, ...]]  # (projected, state, w) -> new state
# (x, state, w) -> (y, new state)
Direction = Callable[[Tensor, tuple[Tensor, ...], Weights], tuple[Tensor, tuple[Tensor, ...]]]

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


class Kernel(Protocol):
    """One recurrent layer of one or two directions: a function named in ``KERNELS`` makes one, or write your own."""

    def __call__(
        self, x: Tensor, frames: Frames, state: State | None, weights: Sequence[Weights], /
    ) -> tuple[Tensor, State]:
        """Runs the layer over all frames.

        Args:
          x: [T, B, I] in the dtype to compute in; values past an utterance's end must not influence its frames.
          frames: mask and reversal of the batch, ``layers.frames(lengths, T)``.
          state: the state before the first frame; ``None`` for zeros.
          weights: per direction, forward first: ``w_ih`` [G*H, I], ``w_hh`` [G*H, H], ``b_ih`` and ``b_hh`` [G*H], with
            torch's order of gates (LSTM i, f, g, o; GRU r, z, n).

        Returns:
          y: [T, B, H], the sum over the directions, zero past each utterance's end.
          new_state: the state after all T frames. It is exact for utterances of T frames, as in streaming. For
            shorter utterances, a kernel may have read their padding.
        """


def zero_state(x: Tensor, weights: Sequence[Weights], rnn_type: str) -> State:
    """The state before the first frame of ``x`` [T, B, I]: zeros in the dtype and on the device of ``x``."""
    zeros = [x.new_zeros(x.shape[1], w["w_hh"].shape[1]) for w in weights]
    return [(h, h) if rnn_type == "lstm" else (h,) for h in zeros]


def fused(rnn_type: str) -> Kernel:
    """The platform's operator (oneDNN, cuDNN, Ascend), called once per direction on a padded batch.

    All three platforms have their fast path for this form of call. First derivatives only: by either engine of
    ``ds2f.grad`` on CPUs, by ``autograd`` elsewhere. For vmap and second derivatives use ``scan``.

    Args:
      rnn_type: ``"lstm"``, ``"gru"`` or ``"rnn"`` (tanh).

    >>> from ds2f.model.layers import frames
    >>> w = {"w_ih": torch.ones(3, 2), "w_hh": torch.ones(3, 3), "b_ih": torch.zeros(3), "b_hh": torch.zeros(3)}
    >>> x, lengths = torch.ones(5, 1, 2), torch.tensor([4])  # [T, B, I], frames
    >>> y, state = fused("rnn")(x, frames(lengths, 5), None, [w, w])  # two directions of three units
    >>> y.shape, y[4].tolist()  # zero past the utterance's end
    (torch.Size([5, 1, 3]), [[0.0, 0.0, 0.0]])
    """
    operator = {"lstm": torch.lstm, "gru": torch.gru, "rnn": torch.rnn_tanh}[rnn_type]

    def direction(x: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, tuple[Tensor, ...]]:
        hidden = tuple(part[None] for part in state)
        # has_biases, num_layers, dropout, train (allows gradients), bidirectional, batch_first
        y, *final = operator(  # type: ignore[operator]
            x,
            hidden if rnn_type == "lstm" else hidden[0],
            [w["w_ih"], w["w_hh"], w["b_ih"], w["b_hh"]],
            True, 1, 0.0, True, False, False,
        )  # fmt: skip
        return y, tuple(part[0] for part in final)

    return _of_directions(direction, rnn_type)


def hoisted(rnn_type: str) -> Kernel:
    """The LSTM of ``ds2f.model.hoisted``, for CPUs where it is faster than oneDNN's.

    It has the restrictions of ``fused``; in addition, a second backward pass over one result raises ``RuntimeError``.

    Args:
      rnn_type: ``"lstm"``.

    Raises:
      InputError: for another cell.
    """
    if rnn_type != "lstm":
        raise InputError(f"model.kernel=hoisted runs lstm only, not {rnn_type}; use model.kernel=fused")
    return _of_directions(lstm, rnn_type)


def paired(rnn_type: str) -> Kernel:
    """Both directions in one call of the platform's operator (``ds2f.model.paired``), for cuDNN, which overlaps them.

    One direction, a given state, and NPUs, whose operator takes one direction, get the calls of ``fused``. Its
    restrictions hold here too.

    Args:
      rnn_type: ``"lstm"`` or ``"gru"``.

    Raises:
      InputError: for another cell.
    """
    if rnn_type not in ("lstm", "gru"):
        raise InputError(f"model.kernel=paired runs lstm and gru only, not {rnn_type}; use model.kernel=fused")
    one_by_one = fused(rnn_type)

    def kernel(x: Tensor, frames: Frames, state: State | None, weights: Sequence[Weights]) -> tuple[Tensor, State]:
        if state is not None or len(weights) == 1 or not (x.is_cuda or x.is_cpu):
            return one_by_one(x, frames, state, weights)
        y, new_state = both_directions(x, frames.padding, list(weights), rnn_type)
        return zero_padding(y, frames.padding[..., None]), new_state

    return kernel


def scan(rnn_type: str) -> Kernel:
    """A loop over frames in plain tensor operations: the reference. It supports every transform of ``torch.func``.

    The state does not change past an utterance's end. Therefore the backward direction needs no reversal, and
    ``new_state`` is exact for every utterance.

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


KERNELS: dict[str, Callable[[str], Kernel]] = {"fused": fused, "hoisted": hoisted, "paired": paired, "scan": scan}


def named(name: str, rnn_type: str) -> Kernel:
    """The kernel by its name in ``model.kernel``; ``auto`` is ``fused``, unless the runner has chosen a kernel.

    Inside ``torch.func.vmap`` it is ``scan``: the others' operators have no batching rules.
    """
    if inside_vmap():
        return scan(rnn_type)
    return KERNELS["fused" if name == "auto" else name](rnn_type)


def inside_vmap() -> bool:
    """Whether the code runs inside ``torch.func.vmap``."""
    functorch = torch._C._functorch
    transforms = functorch.get_interpreter_stack() or ()
    return any(transform.key() == functorch.TransformType.Vmap for transform in transforms)


def _of_directions(direction: Direction, rnn_type: str) -> Kernel:
    """A kernel that runs each direction separately, the second direction on reversed utterances."""

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
    Arguments and result as for ``lstm_cell``, with 3H rows and the state (h,).
    """
    (h,) = state
    input_r, input_z, input_n = projected.chunk(3, dim=-1)
    hidden_r, hidden_z, hidden_n = F.linear(h, w["w_hh"], w["b_hh"]).chunk(3, dim=-1)
    z = torch.sigmoid(input_z + hidden_z)
    n = torch.tanh(input_n + torch.sigmoid(input_r + hidden_r) * hidden_n)
    return ((1 - z) * n + z * h,)


def rnn_cell(projected: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, ...]:
    """One frame of an Elman network: h' = tanh(W_ih x + b_ih + W_hh h + b_hh). Arguments as for ``lstm_cell``."""
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
