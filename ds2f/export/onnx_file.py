"""Files of exported ONNX graphs: what they say of themselves, and what a file from outside must not hold.

A file ends with the SHA-256 of all bytes before it, as an entry of the metadata. Protocol buffers are joined by joining
their bytes, so every reader of ONNX takes the entry. A changed byte of a weight has no other trace.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ds2f.checkpoint import exported
from ds2f.checkpoint.exported import About
from ds2f.errors import InputError
from ds2f.export.onnx_graph import OPSETS
from ds2f.export.onnx_model import OnnxOptions
from ds2f.files import json_text, read_bounded, write_atomically
from ds2f.text import shown

_GRAPH = "ds2f.graph"
_DIGEST = "ds2f.digest"  # SHA-256 of the bytes before the entry
_LARGEST = 2**31 - 1  # bytes of a protocol buffer
_MOST_VALUES = 2**28  # of an input of fixed sizes: a gigabyte
_LARGEST_NUMBER = 2**24  # of what decides about sizes within the graph
_LARGEST_PADDING = 2**12  # of a convolution; the lookahead's is its context
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_DECIDE_SIZES = ("Pad", "Range", "Reshape")
_OPERATORS = {
    "": {
        "Abs", "Add", "And", "Cast", "Clip", "Concat", "Conv", "Div", "GRU", "Gather", "GatherElements", "Identity",
        "LSTM", "Less", "Log", "LogSoftmax", "MatMul", "Mod", "Mul", "Pad", "RNN", "Range", "ReduceSum", "Reshape",
        "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
        "DynamicQuantizeLinear", "MatMulInteger",
    },
    "com.microsoft": {"DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"},
}  # fmt: skip


class Form(NamedTuple):
    """What a graph is, beside its model."""

    options: OnnxOptions
    streams: bool = False  # a block of streams, not whole utterances
    quantised: bool = False  # int8


class Opened(NamedTuple):
    """A file that was read."""

    about: About
    form: Form
    content: bytes


def metadata(about: About, form: Form) -> dict[str, str]:
    """The metadata of a file of ONNX."""
    values = attrs.asdict(form.options) | {"streams": form.streams, "quantised": form.quantised}
    return exported.to_metadata(about) | {_GRAPH: json_text(values)}


def write(path: Path, model: onnx.ModelProto) -> None:
    """Writes a graph with its metadata.

    Raises:
      InputError: it exceeds the size of a file of ONNX.
    """
    if model.ByteSize() > _LARGEST:
        raise InputError(
            f"{path}: the graph exceeds 2 GiB, which a file of ONNX cannot hold; take --format=safetensors"
        )
    content: bytes = model.SerializeToString()
    write_atomically(path, content + _tail(hashlib.sha256(content).hexdigest()))


def _tail(digest: str) -> bytes:
    """The end of a file, which has the same size for every digest."""
    tail: bytes = onnx.ModelProto(
        metadata_props=[onnx.StringStringEntryProto(key=_DIGEST, value=digest)]
    ).SerializeToString()
    return tail


def read(path: Path) -> Opened:
    """Reads a file that ``write`` wrote, and nothing else.

    The file may come from anywhere: it may hold only operators that exported graphs have, no code, no second graph,
    no weights in other files, and sizes that its own bytes bear out.

    Raises:
      InputError: it is no such file, is damaged, or of a newer version.
    """
    try:
        content = read_bounded(path, _LARGEST, remedy="Files of ONNX have at most 2 GiB.")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; check the path and its permissions") from error
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # of protobuf, which has no types
        raise InputError(f"{path}: not a file of ONNX, or a damaged one; export the model again") from error
    about = exported.from_metadata({entry.key: entry.value for entry in model.metadata_props}, str(path))
    problem = next(_problems(model), "")
    if problem:
        raise _refused(path, problem)
    _require_unchanged(path, content)
    return Opened(about, _form(model, about, path), content)


def input_shapes(model: onnx.ModelProto) -> str:
    """The sizes of a graph's inputs as ATC's ``--input_shape`` has them, such as ``features:1,161,32;lengths:1``."""
    return ";".join(
        f"{each.name}:{','.join(str(size.dim_value) for size in each.type.tensor_type.shape.dim)}"
        for each in model.graph.input
    )


def _require_unchanged(path: Path, content: bytes) -> None:
    size = len(content) - len(_tail("0" * 64))
    if content[size:] != _tail(hashlib.sha256(memoryview(content)[: max(size, 0)]).hexdigest()):
        raise InputError(
            f"{path} is damaged, or another program has changed it: its bytes are not those that were written (their "
            "SHA-256 differs). It was not run; copy the file again, or export the model again with "
            "python -m launch.export"
        )


def graph(path: Path) -> onnx.ModelProto:
    """The graph of a file that this program has just written."""
    return onnx.ModelProto.FromString(path.read_bytes())


def _form(model: onnx.ModelProto, about: About, path: Path) -> Form:
    """The form that the metadata give, if inputs and outputs of the graph agree."""
    stored = next((entry.value for entry in model.metadata_props if entry.key == _GRAPH), "")
    try:
        values = json.loads(stored)
        streams, quantised = values.pop("streams"), values.pop("quantised")
        form = Form(OnnxOptions(**values), streams is True, quantised is True)
        names = form.options.names
        if not all(isinstance(part, str) for pair in names.items() for part in pair):
            raise TypeError("names are no texts")
        sizes = [size for size in (form.options.batch, form.options.frames) if size is not None]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise TypeError("sizes are no positive numbers")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InputError) as error:
        raise _refused(path, f"its form cannot be read ({error})") from error
    if math.prod(sizes) * about.cfg.model.num_bins > _MOST_VALUES:
        raise _refused(path, "an input of more than a gigabyte")
    first = model.graph.input[0] if model.graph.input else None
    if first is None or [_size(each) for each in first.type.tensor_type.shape.dim] != _sizes(form, about):
        raise _refused(path, "an input of other sizes than its metadata tell")
    return form


def _sizes(form: Form, about: About) -> list[int | None]:
    """Sizes of the first input; None: open."""
    options = form.options
    return [options.batch, options.frames] if options.with_features else [
        options.batch, about.cfg.model.num_bins, options.frames
    ]  # fmt: skip


def _size(dimension: Any) -> int | None:
    return dimension.dim_value if dimension.HasField("dim_value") else None


def _problems(model: onnx.ModelProto) -> Iterator[str]:
    """What an exported graph does not have."""
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        yield "functions, training or sparse weights"
    versions = {each.domain: each.version for each in model.opset_import}
    if versions.get("", versions.get("ai.onnx", 0)) not in OPSETS:
        yield "an unknown opset"
    for node in graph.node:
        if node.op_type not in _OPERATORS.get(node.domain.replace("ai.onnx", ""), ()):
            yield f"the operator {node.domain}:{node.op_type}"
        if any(each.HasField("g") or each.graphs or each.HasField("t") for each in node.attribute):
            yield f"a graph or a tensor in an operator, {node.op_type}"
        pads = (size for each in node.attribute if each.name == "pads" for size in each.ints)
        if any(abs(size) > _LARGEST_PADDING for size in pads):
            yield f"a padding without measure, {node.op_type}"
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            yield "weights in another file"
        elif _bytes(tensor) != len(tensor.raw_data):
            yield f"a weight whose size is not that of its bytes, {tensor.name}"
        elif tensor.data_type in _FLOATS and not np.isfinite(numpy_helper.to_array(tensor)).all():
            yield f"a weight that is not finite, {tensor.name}"
    numbers = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT64}
    for node in graph.node:
        for name in node.input if node.op_type in _DECIDE_SIZES else ():
            if name in numbers and (abs(numpy_helper.to_array(numbers[name])) > _LARGEST_NUMBER).any():
                yield f"a size without measure, {name}"


def _bytes(tensor: TensorProto) -> int:
    """Bytes of the values of a tensor; -1 for a type that is not known."""
    try:
        return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError):
        return -1


def _refused(path: Path, problem: str) -> InputError:
    return InputError(
        f"{path}: not a graph that ds2f exported, or a damaged one: it has {shown(problem)[:300]}. It was not run; "
        "export the model again with python -m launch.export"
    )
