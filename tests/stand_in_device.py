"""A device without hardware: its tensors lie on the CPU, and it notices every wait of the host, as CUDA would have it.

torch's own hook for Python back ends makes a device type of any name (``make``), once per process: a test that needs
one runs in a process of its own (``in_its_own_process``). Values are computed by the CPU's operators, so that they can
be compared with a CPU's.

What counts as a wait, after CUDA's programming guide and torch's CUDA operators: a value or a shape that the host
needs; a copy to the host; a copy to the device that is not ``non_blocking``; and such a copy of more than 64 KiB from
memory that is not page-locked, for which the driver may wait.
"""

import contextlib
import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch.utils import _pytree, backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing

ROOT = Path(__file__).parents[1]
SMALL_COPY = 64 * 1024  # bytes; CUDA copies as many from any memory without a wait

# Their result, or its shape, is needed on the host.
WAITED_FOR = {
    *(
        "_local_scalar_dense",
        "is_nonzero",
        "equal",
        "nonzero",
        "nonzero_numpy",
        "argwhere",
        "masked_select",
        "bincount",
    ),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave", "_assert_scalar"),
}
INDEXED = ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")
# torch's CTC on CUDA copies the lengths to the device and waits; nothing else of a step may.
EXCUSED = ("_ctc_loss", "_ctc_loss_backward")


class HostWaited(Exception):
    """The host waited for the device where it must not."""


class OnDevice(torch.Tensor):
    """A tensor of the device: it refuses operations with CPU tensors, and notes the operators applied to it."""

    name: ClassVar = ""  # of the device type
    done: ClassVar = []  # in order: operator, tensors on the device, tensors on the CPU, whether the host waits for it
    streams: ClassVar = []  # in the same order: the current stream
    current_stream: ClassVar = staticmethod(lambda: None)
    unpinned: ClassVar = []  # bytes of every copy to the device from memory that is not page-locked
    excused: ClassVar = []  # operators of EXCUSED that ran while waits were refused
    refused: ClassVar = False
    recorded: ClassVar = []  # (tensor, stream) of record_stream

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=f"{cls.name}:0",
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    @property
    def is_cuda(self):
        return self.name != "npu"

    def record_stream(self, stream):
        OnDevice.recorded.append((self, stream))

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return on_device(operator, args, kwargs or {})


def on_device(operator, args, kwargs):
    """Computes with the tensors on the CPU, and notes what the device would have done."""

    def inner(value):
        if isinstance(value, torch.device) and value.type == OnDevice.name:
            return torch.device("cpu")
        return value.inner if isinstance(value, OnDevice) else value

    tensors = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    here, there = ([x for x in tensors if isinstance(x, OnDevice) is wanted] for wanted in (True, False))
    full_name = operator.name().removeprefix("aten::")
    name = full_name.partition(".")[0]
    target = kwargs.get("device")
    wait = _wait(name, args, kwargs, here, there)
    OnDevice.done.append((full_name, here, there, bool(wait)))
    OnDevice.streams.append(OnDevice.current_stream())
    if wait and OnDevice.refused:
        raise HostWaited(f"{name}: {wait}")
    if OnDevice.refused and name in EXCUSED:
        OnDevice.excused.append(name)
    if here and any(x.ndim for x in there) and name not in ("copy_", "_copy_from", *EXCUSED):
        raise RuntimeError(f"{name} got tensors on the {OnDevice.name.upper()} and on the CPU")
    if name == "_copy_from":
        inner(args[1]).copy_(inner(args[0]))
        return args[1]
    result = operator(*_pytree.tree_map(inner, args), **_pytree.tree_map(inner, kwargs))
    if name == "copy_":
        return args[0]
    if here if target is None else torch.device(target).type == OnDevice.name:
        result = _pytree.tree_map(lambda leaf: OnDevice(leaf) if isinstance(leaf, torch.Tensor) else leaf, result)
    return return_and_correct_aliasing(operator, args, kwargs, result) if here else result


def _wait(name, args, kwargs, here, there):
    """Why the host waits for an operator; empty if it does not."""
    if name in WAITED_FOR and kwargs.get("output_size") is None:
        return "its result, or its shape, is needed on the host"
    if name in INDEXED and any(x.dtype in (torch.bool, torch.uint8) for x in _indices(args)):
        return "a mask as an index has a shape that depends on its values"
    if name not in ("copy_", "_copy_from", "_to_copy"):
        return ""
    target = kwargs.get("device")
    destination = args[0] if name == "copy_" else args[1] if name == "_copy_from" else None
    to_host = torch.device(target).type == "cpu" if target is not None else here and destination in _identity(there)
    if to_host:
        return "a copy to the host"
    if not there:
        return ""
    blocking = not (kwargs.get("non_blocking") or (name != "_to_copy" and len(args) > 2 and args[2]))
    source = args[0] if name == "_copy_from" else there[0]
    if blocking:
        return f"a copy to the device that is not non_blocking, of {source.nbytes} bytes"
    if source not in _identity(there) or is_pinned(source):
        return ""
    OnDevice.unpinned.append(source.nbytes)
    return "" if source.nbytes <= SMALL_COPY else f"{source.nbytes} bytes that are not in page-locked memory"


def _indices(args):
    return [x for x in (args[1] if len(args) > 1 else ()) if isinstance(x, torch.Tensor)]


class _identity(list):  # a list that compares its tensors by identity
    def __contains__(self, x):
        return any(x is each for each in self)


@contextlib.contextmanager
def refusing():
    """Raises ``HostWaited`` where the host would wait for the device; yields the operators that were excused."""
    for log in (OnDevice.done, OnDevice.streams, OnDevice.unpinned, OnDevice.excused, OnDevice.recorded):
        log.clear()
    OnDevice.refused = True
    try:
        yield OnDevice.excused
    finally:
        OnDevice.refused = False


_pinned: "weakref.WeakSet[torch.UntypedStorage]" = weakref.WeakSet()


def is_pinned(x, device=None):
    """Whether a tensor lies in memory that ``pin`` has made."""
    return x.untyped_storage().data_ptr() in {storage.data_ptr() for storage in _pinned}


def pin(x, device=None):
    """A copy in memory that counts as page-locked."""
    copy = x.detach().clone()
    _pinned.add(copy.untyped_storage())
    return copy


class Recurrent(torch.autograd.Function):
    """torch's recurrent operator as a device's library has it: one call with a derivative of its own."""

    @staticmethod
    def forward(ctx, operator, hidden, options, *tensors):
        assert all(isinstance(x, OnDevice) for x in tensors)
        assert len({x.dtype for x in tensors}) == 1
        ctx.call = operator, hidden, options
        ctx.save_for_backward(*tensors)
        return tuple(OnDevice(y.detach()) for y in Recurrent.on_cpu(ctx.call, tensors)[1])

    @staticmethod
    def backward(ctx, *cotangents):
        inputs, outputs = Recurrent.on_cpu(ctx.call, ctx.saved_tensors)
        given = [x.inner if x is not None else torch.zeros_like(y) for x, y in zip(cotangents, outputs, strict=True)]
        return None, None, None, *map(OnDevice, torch.autograd.grad(outputs, inputs, given))

    @staticmethod
    def on_cpu(call, tensors):
        operator, hidden, options = call
        inputs = [x.inner.detach().requires_grad_() for x in tensors]
        x, state, weights = inputs[0], inputs[1 : 1 + hidden], inputs[1 + hidden :]
        with torch.enable_grad():
            return inputs, operator(x, state if hidden > 1 else state[0], weights, *options)


def lstm(x, state, weights, *options):
    """``torch.lstm``."""
    return Recurrent.apply(torch.lstm, 2, options, x, *state, *weights)


def gru(x, state, weights, *options):
    """``torch.gru``."""
    return Recurrent.apply(torch.gru, 1, options, x, state, *weights)


def rnn_tanh(x, state, weights, *options):
    """``torch.rnn_tanh``."""
    return Recurrent.apply(torch.rnn_tanh, 1, options, x, state, *weights)


def make(name, **operators):
    """Makes the device type, with other recurrent operators if they are given; returns what must be kept alive.

    Args:
      name: the device type.
      **operators: ``lstm``, ``gru``, ``rnn_tanh``.
    """
    OnDevice.name = name
    backend_registration._setup_privateuseone_for_python_backend(name)
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(lambda operator, *args, **kwargs: on_device(operator, args, kwargs), "PrivateUse1")
    aten = torch.library.Library("aten", "IMPL")
    for operator, stand_in in ({"lstm": lstm, "gru": gru, "rnn_tanh": rnn_tanh} | operators).items():
        aten.impl(f"{operator}.input", stand_in, "AutogradPrivateUse1")
    return everything, aten  # which end with their last reference


class Stream(SimpleNamespace):
    """A stream that notes which streams it waits for."""

    def wait_stream(self, other):
        self.waits.append(other.name)


def make_streams():
    """Puts streams in the place of CUDA's, and refuses to wait for all; returns the open ones, the current one last."""
    streams = [Stream(name="compute", waits=[])]

    @contextlib.contextmanager
    def within(stream):
        streams.append(stream)
        yield
        streams.pop()

    def synchronize(*_):
        if OnDevice.refused:
            raise HostWaited("synchronize")

    OnDevice.current_stream = lambda: streams[-1]
    torch.accelerator.synchronize = synchronize
    torch.cuda.Stream = lambda device: Stream(name="copies", waits=[])
    torch.cuda.stream, torch.cuda.current_stream = within, lambda *_: streams[-1]
    return streams


def in_its_own_process(module, call):
    """Runs ``module.call`` of a test module in a process of its own; returns what it printed."""
    folder = Path(sys.modules[module].__file__).parent
    paths = f"{ROOT}:{ROOT / 'tests'}:{folder}"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", f"import {module}; {module}.{call}"]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout
