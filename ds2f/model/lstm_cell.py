"""The elementwise part of an LSTM's frame, forward and backward: in C where the extension was built, else in torch.

``lstm_cell.c`` beside this file is the extension ``_lstm_cell``: a plain library without Python's interface, called by
ctypes. It runs float32, bfloat16 and float16 on CPUs. The torch path runs everything else, and says what both compute.
"""

import ctypes
import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ds2f.errors import InputError

Step = Callable[[Tensor, int], None]  # (the result of the recurrent product, time)

KINDS = ("baseline", "AVX2", "AVX-512")  # of instructions; the first is what every processor of the architecture has

_EXTENSION = "ds2f.model._lstm_cell"
_INTERFACE = 1  # raised whenever a field or an argument changes, in lstm_cell.c too
_STORAGE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class Native(NamedTuple):
    """The functions of the extension."""

    forward: Callable[[object, int, int], None]  # (a _Layer, address of the recurrent product's result, time)
    backward: Callable[[object, int, int], None]
    capability: int  # index into KINDS: the widest instructions of this processor


class _Layer(ctypes.Structure):
    """The struct of this name in ``lstm_cell.c``."""

    tensors: object  # of the addresses, kept from being freed

    _fields_ = (
        ("batch", ctypes.c_int64),
        ("units", ctypes.c_int64),
        ("storage", ctypes.c_int32),
        ("capability", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("c", "cells", "gates", "y", "dy", "dc")),
    )


@functools.cache
def native() -> Native | None:
    """The extension; None if it was not built: no C compiler was there at the installation.

    Raises:
      InputError: if its file cannot be loaded or belongs to another version of this project.
    """
    found = importlib.util.find_spec(_EXTENSION)
    if found is None or found.origin is None:
        return None
    remedy = "build it again (pip install .), or delete it: plain torch takes its place"
    try:
        library = ctypes.CDLL(found.origin)
        interface = library.ds2f_lstm_interface()
    except (OSError, AttributeError) as error:
        raise InputError(f"{found.origin} cannot be loaded: {error}; {remedy}") from error
    if interface != _INTERFACE:
        raise InputError(f"{found.origin} belongs to another version of ds2f; {remedy}")
    for function in (library.ds2f_lstm_forward, library.ds2f_lstm_backward):
        function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64), None
    return Native(library.ds2f_lstm_forward, library.ds2f_lstm_backward, library.ds2f_lstm_capability())


def forward(gates: Tensor, c: Tensor, cells: Tensor, y: Tensor) -> Step:
    """A function (inputs of the gates [B, 4H], time) that writes ``gates[time]``, ``cells[time]`` and ``y[time]``.

    i, f, o = sigmoid(.), g = tanh(.) of the inputs;  c' = f c + i g;  y = o tanh(c').  All arguments are contiguous.

    Args:
      gates: [T, B, 4H], i, f, g, o, in the dtype of the inputs.
      c: [B, H], before the first frame, in the dtype to compute in, at least float32.
      cells: [T, B, H], c after each frame, in the dtype of ``c``.
      y: [T, B, H], in the dtype of the inputs.
    """
    if (extension := _native_for(gates)) is None:
        return lambda inputs, time: _forward(inputs, cells[time - 1] if time else c, gates[time], cells[time], y[time])
    return _bound(extension.forward, extension.capability, gates=gates, c=c, cells=cells, y=y)


def backward(gates: Tensor, c: Tensor, cells: Tensor, dy: Tensor, dc: Tensor) -> Step:
    """A function (gradient of ``y[time]`` from later frames [B, H], time), called for the last frame first.

    It overwrites ``gates[time]`` with the gradients of the gates' inputs, and ``dc`` with the gradient of the
    cell state before the frame. All arguments are contiguous.

    Args:
      gates: [T, B, 4H], as ``forward`` left them.
      c: [B, H], as for ``forward``.
      cells: [T, B, H], as ``forward`` left them.
      dy: [T, B, H], gradient of ``y`` from outside, in the dtype of ``gates``.
      dc: [B, H], gradient of the last cell state, in the dtype of ``c``.
    """
    if (extension := _native_for(gates)) is None:
        return lambda dh, time: _backward(
            gates[time], cells[time - 1] if time else c, cells[time], dh.to(c.dtype) + dy[time], dc
        )
    return _bound(extension.backward, extension.capability, gates=gates, c=c, cells=cells, dy=dy, dc=dc)


def _native_for(gates: Tensor) -> Native | None:
    # Subclasses, such as the tensors of a trace, have no numbers at an address.
    return native() if gates.is_cpu and gates.dtype in _STORAGE and type(gates) is Tensor else None


def _bound(function: Callable[[object, int, int], None], capability: int, **tensors: Tensor) -> Step:
    """The function for one layer, whose addresses are taken once."""
    gates = tensors["gates"]
    _, batch, columns = gates.shape
    addresses: dict[str, Any] = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    layer = _Layer(batch, columns // 4, _STORAGE[gates.dtype], capability, **addresses)
    layer.tensors = tensors
    reference = ctypes.byref(layer)
    return lambda product, time: function(reference, product.data_ptr(), time)


def _forward(inputs: Tensor, c: Tensor, gates: Tensor, new_c: Tensor, new_h: Tensor) -> None:
    of_i, of_f, of_g, of_o = inputs.to(c.dtype).chunk(4, dim=1)
    i, f, g, o = torch.sigmoid(of_i), torch.sigmoid(of_f), torch.tanh(of_g), torch.sigmoid(of_o)
    torch.addcmul(f * c, i, g, out=new_c)
    new_h.copy_(o * torch.tanh(new_c))
    gates.copy_(torch.cat([i, f, g, o], dim=1))


def _backward(gates: Tensor, c: Tensor, new_c: Tensor, dh: Tensor, dc: Tensor) -> None:
    i, f, g, o = gates.to(c.dtype).chunk(4, dim=1)
    tanh_c = torch.tanh(new_c)
    of_c = torch.addcmul(dc, dh * o, 1 - tanh_c.square())
    of_i, of_f, of_g = of_c * g * i * (1 - i), of_c * c * f * (1 - f), of_c * i * (1 - g.square())
    torch.mul(of_c, f, out=dc)
    gates.copy_(torch.cat([of_i, of_f, of_g, dh * tanh_c * o * (1 - o)], dim=1))
