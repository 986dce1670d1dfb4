"""One direction of an LSTM with its own backward pass and the input product hoisted out of the loop over frames.

The loop computes only the recurrent product, with weights packed once per call, and the elementwise part. The backward
pass overwrites the gates with their gradients and computes each weight's gradient in one product after its loop.
``recurrent.fused`` is the platform's operator, ``recurrent.scan`` the reference.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ds2f.model import lstm_cell

Weights = dict[str, Tensor]


def lstm(x: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one direction over all frames. First derivatives only, and one backward pass per call.

    Args:
      x: [T, B, I], T at least 1, in the dtype to compute in; sums, cell state and elementwise part are at least
        float32.
      state: (h, c), each [B, H], in the dtype of ``x``.
      w: ``w_ih`` [4H, I], ``w_hh`` [4H, H], ``b_ih`` and ``b_hh`` [4H], in the dtype of ``x``.

    Returns:
      y [T, B, H] and (h, c) after the last frame, in the dtype of ``x``.
    """
    h, c = state
    wide = torch.promote_types(x.dtype, torch.float32)
    y, last_c, *_ = _LSTM.apply(x, h, c.to(wide), w["w_ih"], w["w_hh"], w["b_ih"], w["b_hh"])
    return y, (y[-1], last_c.to(x.dtype))


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        frames, batch, _ = x.shape
        gates = torch.addmm(b_ih + b_hh, x.flatten(0, 1), w_ih.t()).view(frames, batch, len(b_ih))
        y, cells = x.new_empty(frames, *h.shape), c.new_empty(frames, *c.shape)
        recur, cell = _recurrent_product(w_hh, batch), lstm_cell.forward(gates, c.contiguous(), cells, y)
        for time, (inputs, new_h) in enumerate(zip(gates.unbind(), y.unbind(), strict=True)):
            cell(recur(h, inputs), time)
            h = new_h
        return y, cells[-1].clone(), cells, gates

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps the tensors that the backward pass reads. Only y and the last c are outputs for the caller."""
        y, _, cells, gates = output
        ctx.mark_non_differentiable(cells, gates)
        ctx.set_materialize_grads(False)  # zeros of the gates' size, which nobody reads
        ctx.save_for_backward(*inputs[:5], y, cells, gates)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dc: Tensor | None, *_: None) -> tuple[Tensor, ...]:
        if getattr(ctx, "gates_overwritten", False):  # autograd would notice, torch.func does not
            raise RuntimeError(
                "the hoisted LSTM's backward pass overwrites the gates and runs once per forward pass; call the "
                "function again, or use the fused or the scan kernel"
            )
        ctx.gates_overwritten = True
        *inputs, y, cells, gates = ctx.saved_tensors
        dy = torch.zeros_like(y) if dy is None else dy
        dc = torch.zeros_like(cells[0]) if dc is None else dc
        return _LSTMGradient.apply(dy, dc, *inputs, y, cells, gates)


class _LSTMGradient(torch.autograd.Function):
    """The backward pass as an operator whose own backward pass raises: second derivatives would silently be zero."""

    @staticmethod
    def forward(
        dy: Tensor,
        dc: Tensor,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        y: Tensor,
        cells: Tensor,
        gates: Tensor,
    ) -> tuple[Tensor, ...]:
        batch = x.shape[1]
        dh, dc = h.new_zeros(h.shape), dc.clone(memory_format=torch.contiguous_format)
        recur = _recurrent_product(w_hh.t(), batch)
        cell = lstm_cell.backward(gates, c.contiguous(), cells, dy.contiguous(), dc)
        for time, dinputs in reversed(list(enumerate(gates.unbind()))):
            cell(dh, time)
            dh = recur(dinputs, None)
        dgates = gates.flatten(0, 1)
        db = dgates.sum(0, dtype=c.dtype).to(x.dtype)
        dw_hh = dgates.t() @ torch.cat([h[None], y[:-1]]).flatten(0, 1)
        return (dgates @ w_ih).view_as(x), dh, dc, dgates.t() @ x.flatten(0, 1), dw_hh, db, db.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps nothing: ``backward`` raises."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> None:
        raise RuntimeError("the hoisted LSTM has no second derivatives; use the scan kernel")


def _recurrent_product(weight: Tensor, batch: int) -> Callable[[Tensor, Tensor | None], Tensor]:
    """A function (h [B, K], addend [B, N] or None) -> h W^T + addend for repeated use with one weight [N, K].

    With the weight in oneDNN's blocked layout, the product with a small batch is about twice as fast.
    """
    if not _packs(weight):
        transposed = weight.t()
        return lambda h, addend: h @ transposed if addend is None else torch.addmm(addend, h, transposed)
    onednn = torch.ops.mkldnn
    packed = onednn._reorder_linear_weight(weight.contiguous(), batch)

    def product(h: Tensor, addend: Tensor | None) -> Tensor:
        if addend is None:
            return onednn._linear_pointwise(h, packed, None, "none", [], "")
        return onednn._linear_pointwise.binary(h, addend, packed, None, "add")

    return product


def _packs(weight: Tensor) -> bool:
    if not (weight.is_cpu and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    if weight.dtype is torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype is torch.float32
