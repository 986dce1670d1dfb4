"""What Huawei documents as limits of ATC, the compiler of Ascend's offline models, checked on a graph of ONNX.

Without CANN nobody can tell whether ATC takes a graph. Its documents rule some graphs out, and these are found here,
before anybody carries a file to a machine with an NPU.

Sources (public pages of hiascend.com, as of CANN 8.0 to 9.0):

- "Supported ONNX Operators" (``API/aolapi/operatorlist_00176`` and ``..._00177``): the operators below, ONNX 1.12.0
  (so IR version 8), opsets per operator. The page of ATC of CANN 7.0 (``atctool/atlasatc_16_0201``) sums them up as 9
  to 18; CANN 5.0 and 6.0 (``atlasatc_16_0164``) end at 13, and the published example of this very model, in
  Ascend/ModelZoo-PyTorch, has 11.
- ``aolapi/atlasoxol_09_0090`` (LSTM): float16 tensors, ``sequence_lens`` int32, opsets 8 to 16; ``..._0072`` (GRU):
  the same types, opsets 8 to 18; ``..._0040`` (Conv): sizes; ``..._0086`` (LogSoftmax), ``..._0117`` (Range),
  ``..._0127`` (ReduceSum), ``..._0170`` (Where): types.
- ``caselibrary/detail/atc_case_00013``: ATC does not support Loop.
- "Parameter Overview" of ATC (``atctool/atlasatc_16_0038``): no dimension is 0.

Two pages are stricter than what ATC is known to take, and are not followed. ``..._0169`` has Unsqueeze up to opset 12,
but CANN's published parser of it registers 13 to 18. The overview has float inputs only, but the example of this model
has an integer input of lengths.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

_LISTED = """
    Abs Acos Acosh AdaptiveAvgPool2D Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool
    BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu Clip Compress Concat Constant
    ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace Det Div Dropout Einsum Elu Equal Erf Exp Expand
    EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GRU Hardmax HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool LRN LSTM MatMul Max MaxPool
    MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mod Mul Multinomial Neg NonMaxSuppression NonZero Not OneHot
    Or Pad Pow PRelu RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RoiAlign Round Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
    Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh TfIdfVectorizer
    ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
OPERATORS = frozenset(_LISTED.split())  # without If, which the list has: a graph of one shape has nothing to decide
_FLOATS = (TensorProto.FLOAT16, TensorProto.FLOAT)
_HALF = (TensorProto.FLOAT16,)
_COUNTS = (*_FLOATS, TensorProto.INT32, TensorProto.INT64)
_TYPES: Mapping[str, tuple[tuple[int, ...], ...]] = {  # of the inputs in their order
    "LSTM": (_HALF, _HALF, _HALF, _HALF, (TensorProto.INT32,), _HALF, _HALF, _HALF),
    "GRU": (_HALF, _HALF, _HALF, _HALF, (TensorProto.INT32,), _HALF),
    "LogSoftmax": (_FLOATS,),
    "Range": (_COUNTS, _COUNTS, _COUNTS),
    "ReduceSum": (_FLOATS,),
    "Where": ((TensorProto.BOOL,), *2 * ((*_FLOATS, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32),)),
}
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")  # of LSTM and, but the last two, of GRU
_OPSETS = {"LSTM": (8, 16), "GRU": (8, 18)}
_ALL_OPSETS = (9, 18)
_NEWEST_IR = 8  # of ONNX 1.12.0
_WIDTH, _KERNEL, _PADDING, _STRIDE = 4096, 255, 255, 63  # largest of a convolution
_NAMED = 3  # values or nodes that a line names


def problems(model: ModelProto) -> list[str]:
    """Lists what ATC's documents rule out in a graph; each entry names the place, the limit and a remedy.

    Args:
      model: a graph of one fixed shape, as ``onnx_model.build`` makes it with a batch, frames and float16.

    Returns:
      Sentences without a full stop, in the order of the graph; none where the documents rule nothing out. That proves
      nothing about ATC: see the module.

    >>> from onnx import helper
    >>> value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    >>> graph = helper.make_graph(
    ...     [helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", [1, "T"])], [value("y", [1, "T"])]
    ... )
    >>> problems(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    ['2 values without a fixed shape (x [1, T], y [1, T]): build the graph with a batch and a number of frames']
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    values = _values(inferred.graph)
    return [
        *_versions(model),
        *_operators(model.graph),
        *_shapes(values, inferred.graph),
        *_tensors(model.graph, values),
    ]


def _versions(model: ModelProto) -> Iterator[str]:
    opsets = {each.domain or "ai.onnx": each.version for each in model.opset_import}
    for domain in sorted(opsets.keys() - {"ai.onnx"}):
        yield f"operators of the domain {domain}, which ATC does not know: build the graph without them"
    opset = opsets.get("ai.onnx", 0)
    used = {node.op_type for node in _nodes(model.graph)}
    for what, (low, high) in {
        "graphs": _ALL_OPSETS,
        **{name: _OPSETS[name] for name in _OPSETS if name in used},
    }.items():
        if not low <= opset <= high:
            yield f"opset {opset}: {what} may have {low} to {high} (older CANN: 11 to 13); pass --opset=13"
    if model.ir_version > _NEWEST_IR:
        yield (
            f"IR version {model.ir_version}: CANN is built for ONNX 1.12, IR version {_NEWEST_IR}; set ir_version to "
            f"{_NEWEST_IR}"
        )


def _operators(graph: GraphProto) -> Iterator[str]:
    for name, times in sorted(Counter(node.op_type for node in _nodes(graph)).items()):
        if name in ("Loop", "Scan"):
            yield f"{times} x {name}: ATC does not support loops; use one LSTM node for each layer"
        elif name == "If":
            yield f"{times} x If: a graph of fixed shapes has nothing to decide; fold the condition"
        elif name not in OPERATORS:
            yield f"{times} x {name}: not in CANN's list of ONNX operators; express it by others"


def _shapes(values: Mapping[str, ValueInfoProto], graph: GraphProto) -> Iterator[str]:
    """Values whose shapes are open, or have a dimension 0."""
    names = [each.name for each in graph.input] + [name for node in graph.node for name in node.output if name]
    shapes = {name: _shape(values.get(name)) for name in dict.fromkeys(names)}
    unknown = [name for name, shape in shapes.items() if shape is None or not all(isinstance(n, int) for n in shape)]
    if unknown:
        remedy = "build the graph with a batch and a number of frames"
        yield f"{len(unknown)} values without a fixed shape ({_listed(unknown, shapes)}): {remedy}"
    if empty := [name for name, shape in shapes.items() if shape and 0 in shape]:
        yield f"{len(empty)} values without elements ({_listed(empty, shapes)}): leave them out"


def _tensors(graph: GraphProto, values: Mapping[str, ValueInfoProto]) -> Iterator[str]:
    """Types and sizes of operators; nodes with the same fault share a line."""
    constants, found = _constants(graph), defaultdict[tuple[str, str], list[str]](list)
    for node in graph.node:
        for fault in (*_types(node, values), *_sizes(node, values, constants)):
            found[node.op_type, fault].append(node.name or next(iter(node.output), ""))
    for (operator, fault), names in found.items():
        yield f"{operator} {', '.join(names[:_NAMED])}{', ...' * (len(names) > _NAMED)}: {fault}"


def _types(node: NodeProto, values: Mapping[str, ValueInfoProto]) -> Iterator[str]:
    """Inputs of types that are not documented, those of one type together."""
    wrong = defaultdict[tuple[int, tuple[int, ...]], list[str]](list)
    for index, (name, allowed) in enumerate(zip(node.input, _TYPES.get(node.op_type, ()), strict=False)):
        kind = values[name].type.tensor_type.elem_type if name in values else 0
        if kind and kind not in allowed:
            wrong[kind, allowed].append(_INPUTS[index] if node.op_type in _OPSETS else f"input {index}")
    for (kind, allowed), names in wrong.items():
        remedy = "pass --dtype=float16" if allowed == _HALF else "add a Cast"
        be = "is" if len(names) == 1 else "are"
        yield f"{', '.join(names)} {be} {_type(kind)}, and may be {' or '.join(map(_type, allowed))}; {remedy}"


def _sizes(node: NodeProto, values: Mapping[str, ValueInfoProto], constants: frozenset[str]) -> Iterator[str]:
    if node.op_type == "Range" and not set(node.input) <= constants:
        yield "its limits are computed, so that its length is open; use a constant"
    if node.op_type == "Conv":
        yield from _convolution(node, values)


def _convolution(node: NodeProto, values: Mapping[str, ValueInfoProto]) -> Iterator[str]:
    """Sizes of a convolution, each against its limit."""
    given = {each.name: each for each in node.attribute}
    x, w = (_shape(values.get(name)) or () for name in node.input[:2])
    if x and len(x) not in (4, 5):
        yield f"its input has {len(x)} dimensions, and may have 4 or 5; add one of size 1"
    if len(x) > 3 and isinstance(x[-1], int) and x[-1] > _WIDTH:
        yield f"its input is {x[-1]:,} wide, and may be {_WIDTH:,}; pass --shapes with fewer frames"
    sizes = {"kernel": (w[2:], _KERNEL), "padding": (given["pads"].ints if "pads" in given else (), _PADDING)}
    sizes["stride"] = (given["strides"].ints if "strides" in given else (), _STRIDE)
    sizes["dilation"] = (given["dilations"].ints if "dilations" in given else (), 255)
    for what, (numbers, most) in sizes.items():
        if largest := max((number for number in numbers if isinstance(number, int) and number > most), default=0):
            yield f"its {what} is {largest:,}, and may be {most}; CANN has no larger convolutions"
    if (groups := given["group"].i if "group" in given else 1) != 1:
        yield f"it has {groups:,} groups, and CANN documents 1; use MatMul, or a sum of products"


def _values(graph: GraphProto) -> dict[str, ValueInfoProto]:
    """Type and shape of every value that shape inference knows, initializers included."""
    found = {each.name: each for each in (*graph.input, *graph.value_info, *graph.output)}
    for tensor in graph.initializer:
        found[tensor.name] = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
    return found


def _constants(graph: GraphProto) -> frozenset[str]:
    folded = (name for node in graph.node if node.op_type == "Constant" for name in node.output)
    return frozenset([*(tensor.name for tensor in graph.initializer), *folded])


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes, those of inner graphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            for each in inner:
                yield from _nodes(each)


def _shape(value: ValueInfoProto | None) -> tuple[int | str, ...] | None:
    """The dimensions, numbers or names; None where even their number is unknown."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or "?"
        for dimension in value.type.tensor_type.shape.dim
    )


def _listed(names: Iterable[str], shapes: Mapping[str, tuple[int | str, ...] | None]) -> str:
    def described(name: str) -> str:
        shape = shapes[name]
        return f"{name} of unknown rank" if shape is None else f"{name} [{', '.join(map(str, shape))}]"

    listed = list(names)
    return ", ".join(map(described, listed[:_NAMED])) + ", ..." * (len(listed) > _NAMED)


def _type(number: int) -> str:
    return TensorProto.DataType.Name(number).lower()
