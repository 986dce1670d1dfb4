"""An LSTM direction with its input product hoisted out of the loop over frames, and a backward pass of its own.

Inside the loop stays what has to: one product with the recurrent weights, which are laid out for it once per call, and
the elementwise part. The backward pass reuses the gates' memory for their gradients and makes every weight's gradient
in a single product behind its loop. ``recurrent.fused`` is the platform's operator, ``recurrent.scan`` the reference.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def lstm(x: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one direction over all frames.

    Args:
      x: [T, B, I], T at least 1, in the dtype to compute in; sums, cell state and elementwise part are never below
        float32.
      state: (h, c), each [B, H], in the dtype of ``x``.
      w: ``w_ih`` [4H, I], ``w_hh`` [4H, H], ``b_ih`` and ``b_hh`` [4H], in the dtype of ``x``.

    Returns:
      y [T, B, H] and (h, c) after the last frame, in the dtype of ``x``. First derivatives only, pulled back once.
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
        recur, advance = _recurrent_product(w_hh, batch), _cell(x.dtype)[0]
        for time in range(frames):
            before = recur(h, gates[time])
            advance(before, c, *gates[time].chunk(4, dim=1), cells[time], y[time])
            h, c = y[time], cells[time]
        return y, c.clone(), cells, gates

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps what the backward pass reads; of the outputs, only y and the last c are for others."""
        y, _, cells, gates = output
        ctx.mark_non_differentiable(cells, gates)
        ctx.save_for_backward(*inputs[:5], y, cells, gates)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dc: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        if getattr(ctx, "gates_are_gone", False):  # autograd would notice, torch.func does not
            raise RuntimeError(
                "the hoisted LSTM's backward pass runs once, since it writes over the gates that it read; call the "
                "function again, or use the fused or the scan kernel"
            )
        ctx.gates_are_gone = True
        return _LSTMGradient.apply(dy, dc, *ctx.saved_tensors)


class _LSTMGradient(torch.autograd.Function):
    """The backward pass as an operator without a derivative, so that a second derivative is refused, not zero."""

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
        recur, retreat = _recurrent_product(w_hh.t(), batch), _cell(x.dtype)[1]
        dh, dc = torch.zeros_like(h), dc.clone(memory_format=torch.contiguous_format)
        for time in reversed(range(frames)):
            previous = cells[time - 1] if time else c
            retreat(*gates[time].chunk(4, dim=1), previous, cells[time], dh, dy[time], dc)
            dh = recur(gates[time], None)
        of_gates = gates.flatten(0, 1)
        db = of_gates.sum(0, dtype=c.dtype).to(x.dtype)
        dw_hh = of_gates.t() @ torch.cat([h[None], y[:-1]]).flatten(0, 1)
        return (of_gates @ w_ih).view_as(x), dh, dc, of_gates.t() @ x.flatten(0, 1), dw_hh, db, db.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps nothing: there is no way back."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> None:
        raise RuntimeError("the hoisted LSTM gives first derivatives only; for second ones use the scan kernel")


def _advance(
    before: Tensor, c: Tensor, i: Tensor, f: Tensor, g: Tensor, o: Tensor, new_c: Tensor, new_h: Tensor
) -> None:
    """From the gates' inputs [B, 4H] and c [B, H] to the gates, the new c and the new h, written into their places."""
    of_i, of_f, of_g, of_o = before.to(c.dtype).chunk(4, dim=1)
    i_, f_, g_, o_ = torch.sigmoid(of_i), torch.sigmoid(of_f), torch.tanh(of_g), torch.sigmoid(of_o)
    c_ = torch.addcmul(f_ * c, i_, g_)
    for place, value in ((i, i_), (f, f_), (g, g_), (o, o_), (new_c, c_), (new_h, o_ * torch.tanh(c_))):
        place.copy_(value)


def _retreat(
    i: Tensor, f: Tensor, g: Tensor, o: Tensor, c: Tensor, new_c: Tensor, dh: Tensor, dy: Tensor, dc: Tensor
) -> None:
    """Replaces the gates by the gradients of their inputs, and the gradient of the new c by that of the old."""
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
    """The elementwise parts of both passes; in half precision compiled, where torch finds a compiler.

    There the conversions to and from float32 would cost more than the arithmetic. In float32 the functions as they are
    take as long as compiled ones.
    """
    if dtype in (torch.float32, torch.float64) or not _can_compile():
        return _advance, _retreat
    return torch.compile(_advance, dynamic=True), torch.compile(_retreat, dynamic=True)


def _can_compile() -> bool:
    from torch._inductor import cpp_builder, exc

    try:
        return bool(cpp_builder.get_cpp_compiler())
    except exc.InvalidCxxCompiler:
        return False


def _recurrent_product(weight: Tensor, batch: int) -> Callable[[Tensor, Tensor | None], Tensor]:
    """A function (h [B, K], addend [B, N] or None) -> h W^T + addend for a weight [N, K] that is used many times.

    oneDNN multiplies a small batch by a weight in its own blocked layout about twice as fast as by a plain one.
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
