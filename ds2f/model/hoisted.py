"""One direction of an LSTM with its own backward pass and the input product hoisted out of the loop over frames.

The loop computes only the recurrent product, with weights packed once per call, and the elementwise part. The backward
pass overwrites the gates with their gradients and computes each weight's gradient in one product after its loop.
``recurrent.fused`` is the platform's operator, ``recurrent.scan`` the reference.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
        recur, cell_forward = _recurrent_product(w_hh, batch), _cell(x.dtype)[0]
        for time in range(frames):
            inputs = recur(h, gates[time])
            cell_forward(inputs, c, *gates[time].chunk(4, dim=1), cells[time], y[time])
            h, c = y[time], cells[time]
        return y, c.clone(), cells, gates

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps the tensors that the backward pass reads. Only y and the last c are outputs for the caller."""
        y, _, cells, gates = output
        ctx.mark_non_differentiable(cells, gates)
        ctx.save_for_backward(*inputs[:5], y, cells, gates)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dc: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        if getattr(ctx, "gates_overwritten", False):  # autograd would notice, torch.func does not
            raise RuntimeError(
                "the hoisted LSTM's backward pass overwrites the gates and runs once per forward pass; call the "
                "function again, or use the fused or the scan kernel"
            )
        ctx.gates_overwritten = True
        return _LSTMGradient.apply(dy, dc, *ctx.saved_tensors)


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
        frames, batch, _ = x.shape
        recur, cell_backward = _recurrent_product(w_hh.t(), batch), _cell(x.dtype)[1]
        dh, dc = torch.zeros_like(h), dc.clone(memory_format=torch.contiguous_format)
        for time in reversed(range(frames)):
            previous = cells[time - 1] if time else c
            cell_backward(*gates[time].chunk(4, dim=1), previous, cells[time], dh, dy[time], dc)
            dh = recur(gates[time], None)
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


def _cell_forward(
    inputs: Tensor, c: Tensor, i: Tensor, f: Tensor, g: Tensor, o: Tensor, new_c: Tensor, new_h: Tensor
) -> None:
    """Computes the gates, the new c and the new h from the gates' inputs [B, 4H] and c [B, H], into the last six."""
    of_i, of_f, of_g, of_o = inputs.to(c.dtype).chunk(4, dim=1)
    i_, f_, g_, o_ = torch.sigmoid(of_i), torch.sigmoid(of_f), torch.tanh(of_g), torch.sigmoid(of_o)
    c_ = torch.addcmul(f_ * c, i_, g_)
    for place, value in ((i, i_), (f, f_), (g, g_), (o, o_), (new_c, c_), (new_h, o_ * torch.tanh(c_))):
        place.copy_(value)


def _cell_backward(
    i: Tensor, f: Tensor, g: Tensor, o: Tensor, c: Tensor, new_c: Tensor, dh: Tensor, dy: Tensor, dc: Tensor
) -> None:
    """Overwrites the gates with the gradients of their inputs, and ``dc``, of the new c, with the old c's gradient."""
    i_, f_, g_, o_ = (gate.to(c.dtype, copy=True) for gate in (i, f, g, o))
    dh_, tanh_c = dh.to(c.dtype) + dy, torch.tanh(new_c)
    dc_ = torch.addcmul(dc, dh_ * o_, 1 - tanh_c.square())
    i.copy_(dc_ * g_ * i_ * (1 - i_))
    f.copy_(dc_ * c * f_ * (1 - f_))
    g.copy_(dc_ * i_ * (1 - g_.square()))
    o.copy_(dh_ * tanh_c * o_ * (1 - o_))
    dc.copy_(dc_ * f_)


@functools.cache
def _cell(dtype: torch.dtype) -> tuple[Callable[..., None], Callable[..., None]]:
    """The elementwise parts of both passes, compiled for half precision if torch finds a C++ compiler.

    Uncompiled, conversions to and from float32 cost more than the arithmetic. In float32, compiled code is no faster.
    """
    if dtype in (torch.float32, torch.float64) or not _can_compile():
        return _cell_forward, _cell_backward
    return torch.compile(_cell_forward, dynamic=True), torch.compile(_cell_backward, dynamic=True)


def _can_compile() -> bool:
    from torch._inductor import cpp_builder, exc

    try:
        return bool(cpp_builder.get_cpp_compiler())
    except exc.InvalidCxxCompiler:
        return False


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
