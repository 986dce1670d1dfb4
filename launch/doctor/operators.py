"""Checks of the model's operators on the device against the CPU in float64: forward pass and gradient, per dtype.

The weights and inputs are representable in bfloat16, so that all dtypes compute from the same numbers. The reference of
recurrent layers is the scan, a loop over frames in plain tensor operations.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ds2f import rng, tree
from ds2f.convolutions import convolutions
from ds2f.errors import InputError
from ds2f.grad import value_and_grad
from ds2f.model import layers, recurrent
from ds2f.model.batch_norm import batch_norm
from ds2f.precision import DTYPES
from ds2f.runner.device.backend import Backend
from launch.doctor.check_session import Check, Session
from launch.doctor.verdict import MISSING, OK, WRONG, Line, cause

OPERATORS = "operators"
ENGINES = ("func", "autograd")
TOLERANCE = {"fp32": 5e-3, "fp16": 2e-2, "bf16": 6e-2}  # of a tensor, relative to its norm; TF32 and HF32 have 3 digits
_FRAMES, _UTTERANCES, _UNITS = 20, 3, 32

# (params, dtype, lengths on the device) -> output, zero where it has no meaning
Forward = Callable[[tree.Tree, torch.dtype, Tensor], Tensor]


class Operator(NamedTuple):
    """An operator with its arguments."""

    name: str
    params: tree.Tree  # float32, differentiated; the input is one of them
    forward: Forward
    reference: Forward
    kernel: str = ""  # of a recurrent layer
    dtypes: tuple[str, ...] = tuple(DTYPES)


def checks() -> list[Check]:
    """A check per operator and dtype, each by both engines."""
    return [
        Check(
            OPERATORS,
            f"{operator.name} {dtype}",
            functools.partial(_compare, operator=operator, dtype=dtype),
            remedy="--model.kernel=scan"
            if operator.kernel == "fused"
            else "--apex.opt_level=O0"
            if dtype != "fp32"
            else "",
            needed=operator.name in ("convolution", "batch norm", "lstm"),
        )
        for operator in operators()
        for dtype in operator.dtypes
    ]


def operators() -> list[Operator]:
    """The operators of the model; beside the fused recurrent layers, the kernels that can replace them."""
    plain = ("fp32",)
    return [
        Operator("convolution", _convolution_params(), _convolution, _convolution),
        Operator("batch norm", _norm_params(), _norm, _norm),
        *(_recurrent(name, name, "fused", tuple(DTYPES)) for name in ("lstm", "gru")),
        _recurrent("lstm hoisted", "lstm", "hoisted", ("fp32", "bf16")),
        *(_recurrent(f"{cell} paired", cell, "paired", tuple(DTYPES)) for cell in ("lstm", "gru")),
        _recurrent("lstm scan", "lstm", "scan", plain),
    ]


def _recurrent(name: str, cell: str, kernel: str, dtypes: tuple[str, ...]) -> Operator:
    gates = recurrent.GATES[cell]
    shapes = {"w_ih": (gates * _UNITS, _UNITS), "w_hh": (gates * _UNITS, _UNITS)}
    shapes |= {"b_ih": (gates * _UNITS,), "b_hh": (gates * _UNITS,)}  # type: ignore[dict-item]
    params = {f"{name}_{way}": _draw(name, way, *shape) / 4 for way in ("0", "1") for name, shape in shapes.items()}

    def run(params: tree.Tree, dtype: torch.dtype, lengths: Tensor, kernel: str) -> Tensor:
        weights = [{name: params[f"{name}_{way}"].to(dtype) for name in shapes} for way in ("0", "1")]
        frames = layers.frames(lengths, _FRAMES)
        return recurrent.KERNELS[kernel](cell)(params["x"].to(dtype), frames, None, weights)[0]

    params["x"] = _draw("x", cell, _FRAMES, _UTTERANCES, _UNITS)
    forward, reference = (functools.partial(run, kernel=each) for each in (kernel, "scan"))
    return Operator(name, params, forward, reference, kernel, dtypes)


def _convolution_params() -> tree.Tree:
    conv = convolutions()[1]
    channels = 8  # of 32
    return {
        "weight": _draw("conv", "weight", channels, channels, *conv.kernel) / 16,
        "bias": _draw("conv", "bias", channels),
        "x": _draw("conv", "x", _UTTERANCES, channels, 41, _FRAMES),
    }


def _convolution(params: tree.Tree, dtype: torch.dtype, _: Tensor) -> Tensor:
    conv = convolutions()[1]
    return layers.conv2d(params, params["x"], stride=conv.stride, padding=conv.padding, dtype=dtype)


def _norm_params() -> tree.Tree:
    return {
        "scale": 1 + _draw("norm", "scale", _UNITS),
        "bias": _draw("norm", "bias", _UNITS),
        "x": 3 + _draw("norm", "x", _FRAMES, _UTTERANCES, _UNITS),
    }


def _norm(params: tree.Tree, dtype: torch.dtype, lengths: Tensor) -> Tensor:
    padding = layers.frames(lengths, _FRAMES).padding[..., None]
    y, _ = batch_norm(params, {}, params["x"].to(dtype), padding, axis=2, train=True, dtype=dtype)
    return layers.zero_padding(y, padding)


def _draw(name: str, use: str, *shape: int) -> Tensor:
    """Normal numbers that bfloat16 represents, as float32."""
    drawn = torch.randn(shape, generator=rng.generator(rng.fold_in(0, name, use)))
    return drawn.bfloat16().float()


def _compare(session: Session, *, operator: Operator, dtype: str) -> Iterator[Line]:
    backend = session.backend()
    if operator.kernel in ("hoisted", "paired") and operator.kernel not in backend.kernels(DTYPES[dtype]):
        return  # auto never takes it here; emulated, hoisted takes seconds
    try:
        backend.dtype(dtype if dtype != "fp32" else "auto")
    except InputError as error:
        if operator.name == "lstm":  # the reason for all operators
            yield Line(OPERATORS, dtype, MISSING, str(error), "leave --apex.dtype=auto", needed=False)
        return
    expected = _evaluate(operator.reference, operator.params, torch.float64, "autograd", torch.device("cpu"))
    for engine in ENGINES:
        needed = _is_needed(backend, operator, dtype, engine)
        line = functools.partial(Line, OPERATORS, f"{operator.name} {dtype}, {engine}", needed=needed)
        remedy = _remedy(backend, operator, dtype, engine)
        try:
            found = _evaluate(operator.forward, operator.params, DTYPES[dtype], engine, backend.device)
        except RuntimeError as error:
            verdict = MISSING if "not implemented" in str(error).lower() else WRONG
            yield line(verdict, f"fails: {cause(error)}", remedy)
            continue
        problem, figures = judge(found, expected, TOLERANCE[dtype])
        yield line(WRONG if problem else OK, problem or figures, remedy if problem else "")


def _evaluate(
    forward: Forward, params: tree.Tree, dtype: torch.dtype, engine: str, device: torch.device
) -> tuple[Tensor, tree.Tree]:
    """Output and gradients on the CPU in float64; the gradient is of a weighted sum of the outputs."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    lengths = torch.tensor([_FRAMES, 13, 7]).to(device)

    def weighted(params: tree.Tree) -> tuple[Tensor, Tensor]:
        y = forward(params, dtype, lengths)
        weights = _draw("weights", "output", *y.shape).to(device, wide)
        return (y.to(wide) * weights).sum(), y

    placed = tree.map(lambda leaf: leaf.to(device, wide), params)
    (_, y), grads = value_and_grad(weighted, has_aux=True, engine=engine)(placed)
    return y.detach().cpu().double(), tree.map(lambda leaf: leaf.detach().cpu().double(), grads)


def judge(found: tuple[Tensor, tree.Tree], expected: tuple[Tensor, tree.Tree], tolerance: float) -> tuple[str, str]:
    """What is wrong with an output and its gradients, or nothing; and the relative errors as a figure."""
    forward = relative_error(found[0], expected[0])
    gradients = tree.flatten_with_names(tree.map(relative_error, found[1], expected[1]))
    worst = max(gradients, key=lambda name: gradients[name])
    zeros = [name for name, leaf in tree.flatten_with_names(found[1]).items() if not bool(leaf.any())]
    if not forward <= tolerance:
        return f"forward pass is off by {forward:.1e}", ""
    if len(zeros) > len(gradients) // 2:
        return "the gradient is zero, without an error", ""
    if not gradients[worst] <= tolerance:
        return f"gradient of {worst} is off by {gradients[worst]:.1e}", ""
    return "", f"forward {forward:.0e}, gradient {gradients[worst]:.0e}"


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The distance of two tensors, relative to the second; infinite where something is not finite."""
    error = float((found - expected).norm() / expected.norm().clamp(min=1e-12))
    return error if error == error else float("inf")


def _is_needed(backend: Backend, operator: Operator, dtype: str, engine: str) -> bool:
    taken = DTYPES[dtype] in (torch.float32, backend.fast_dtype)
    return taken and engine == backend.engine and operator.kernel not in ("scan", "paired") and operator.name != "gru"


def _remedy(backend: Backend, operator: Operator, dtype: str, engine: str) -> str:
    if engine != backend.engine:
        return f"leave --training.engine=auto, which takes {backend.engine} here"
    if DTYPES[dtype] not in (torch.float32, backend.fast_dtype):
        return "leave --apex.dtype=auto, which takes another type"
    if operator.kernel == "fused":
        return "--model.kernel=scan"
    if operator.kernel:
        return "--model.kernel=fused"
    return "--apex.opt_level=O0" if dtype != "fp32" else "--device=cpu"
