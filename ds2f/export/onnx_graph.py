"""Builds ONNX graphs node by node, for any opset from 11 to 18."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from ds2f.errors import InputError

OPSETS = range(11, 19)
_AXES_AS_INPUT = 13  # since this opset, axes of Squeeze, Unsqueeze and ReduceSum are an input
_LARGEST = 2**31 - 1  # bytes of a protocol buffer
# The version of the file format that came with each opset: old runtimes refuse newer ones.
_IR_VERSIONS = {11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8}
_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}

Dimension = int | str  # a size, or the name of one that is open


class Graph:
    """A graph in the making. A value is the name of a tensor; ``add`` returns the name of a node's output.

    >>> graph = Graph("double", opset=13)
    >>> doubled = graph.add("Mul", graph.input("x", "float32", ["batch"]), graph.constant(np.float32(2)))
    >>> graph.output("y", doubled, "float32", ["batch"])
    >>> [node.op_type for node in graph.model({}).graph.node]
    ['Mul', 'Identity']
    """

    def __init__(self, name: str, *, opset: int, dtype: str = "float32") -> None:
        """Begins a graph.

        Args:
          name: of the graph.
          opset: of the operators, 11 to 18.
          dtype: ``float32`` or ``float16``, of the values between inputs and outputs; ``weight`` makes constants of it.
        """
        self.opset, self.dtype = opset, dtype
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._tensors: list[onnx.TensorProto] = []
        self._bytes = 0

    def input(self, name: str, dtype: str, shape: Sequence[Dimension]) -> str:
        """Declares an input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, _TYPES[dtype], shape))
        return name

    def output(self, name: str, value: str, dtype: str, shape: Sequence[Dimension]) -> None:
        """Declares ``value`` as an output of the graph, under a name of its own."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"output_{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, _TYPES[dtype], shape))

    def weight(self, values: ArrayLike, name: str = "") -> str:
        """A constant in the graph's floating-point type."""
        return self.constant(np.asarray(values).astype(self.dtype), name)

    def constant(self, values: ArrayLike, name: str = "") -> str:
        """A constant of the type of ``values``; equal constants are stored once.

        Raises:
          InputError: all constants together do not fit into a file of ONNX.
        """
        array = np.ascontiguousarray(values)
        content = array.tobytes()
        key = (str(array.dtype), np.shape(values), content)
        if key not in self._constants:
            self._bytes += len(content)
            if self._bytes > _LARGEST:
                raise InputError("the model's weights exceed 2 GiB, which a file of ONNX cannot hold; --dtype=float16 "
                                 "halves them, --format=safetensors has no such limit")  # fmt: skip
            self._constants[key] = name or f"constant_{len(self._constants)}"
            self._tensors.append(numpy_helper.from_array(array.reshape(np.shape(values)), self._constants[key]))
        return self._constants[key]

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one output.

        Args:
          operator: of ONNX's own domain.
          inputs: values; "" for an input that is left out.
          attributes: of the node.
        """
        return self.add_many(operator, *inputs, outputs=1, **attributes)[0]

    def add_many(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Adds a node of several outputs."""
        name = f"{operator}_{len(self._nodes)}"
        names = [name if outputs == 1 else f"{name}_{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(operator, list(inputs), names, name=name, **attributes))
        return names

    def over(self, operator: str, value: str, axes: Sequence[int], **attributes: Any) -> str:
        """Squeeze, Unsqueeze or ReduceSum over axes, in the form of the opset."""
        if self.opset < _AXES_AS_INPUT:
            return self.add(operator, value, axes=list(axes), **attributes)
        return self.add(operator, value, self.constant(np.array(axes, np.int64)), **attributes)

    def slice(self, value: str, axis: int, begin: int, end: int = 2**31 - 1, step: int = 1) -> str:
        """A part of a value along one axis, with Python's meaning of the numbers."""
        numbers = [self.constant(np.array([number], np.int64)) for number in (begin, end, axis, step)]
        return self.add("Slice", value, *numbers)

    def size(self, value: str, axis: int) -> str:
        """The size of an axis: a scalar, int64."""
        return self.add("Gather", self.add("Shape", value), self.constant(np.int64(axis)), axis=0)

    def cast(self, value: str, dtype: str) -> str:
        """The value in another type."""
        return self.add("Cast", value, to=_TYPES[dtype])

    def indices(self, size: int | str) -> str:
        """0, 1, ... below a size that is known, or given by a scalar value: [size] int64."""
        if isinstance(size, int):
            return self.constant(np.arange(size))
        return self.add("Range", self.constant(np.int64(0)), size, self.constant(np.int64(1)))

    def zeroed(self, value: str, valid: str) -> str:
        """The value where ``valid`` (bool, broadcast) holds, zero elsewhere, whatever stands there."""
        return self.add("Where", valid, value, self.weight(0.0))

    def model(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The finished model, checked by ONNX's checker."""
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._tensors)
        opset = helper.make_opsetid("", self.opset)
        made = helper.make_model(graph, opset_imports=[opset], producer_name="ds2f")
        made.ir_version = _IR_VERSIONS[self.opset]
        helper.set_model_props(made, dict(metadata))
        onnx.checker.check_model(made, full_check=True)
        return made


def floats(values: Any) -> NDArray[np.float64]:
    """A tensor's values in float64, in which weights are folded."""
    return np.asarray(values.detach().cpu().double().numpy(), np.float64)
