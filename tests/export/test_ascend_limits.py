"""The documented limits of ATC, each violated by a small graph."""

import attrs
import numpy as np
import pytest
from onnx import TensorProto, defs, helper, numpy_helper
from speaking_model import BOTH_WAYS, CFG

from ds2f.export import onnx_model, onnx_streaming
from ds2f.export.ascend_limits import OPERATORS, problems
from ds2f.model import deepspeech2

FLOAT, HALF, INT32, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64


def value(name, shape, dtype=FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def model(nodes, inputs, outputs, *, constants=(), opset=13, ir=8, domains=()):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(constants))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def lstm(*, dtype=np.float16, lengths=INT32, opset=13, operator="LSTM", **options):
    """A bidirectional layer: 7 frames, 2 utterances, 3 channels, 4 units."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = [
        constant("W", np.zeros((2, gates * 4, 3), dtype)),
        constant("R", np.zeros((2, gates * 4, 4), dtype)),
        constant("B", np.zeros((2, gates * 8), dtype)),
    ]
    node = helper.make_node(
        operator, ["x", "W", "R", "B", "n"], ["y"], hidden_size=4, direction="bidirectional", name="layer"
    )
    inputs = [value("x", [7, 2, 3], kind), value("n", [2], lengths)]
    return model([node], inputs, [value("y", [7, 2, 2, 4], kind)], constants=weights, opset=opset, **options)


def conv(*, x=(1, 1, 161, 621), w=(32, 1, 41, 11), **attributes):
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="first", **attributes)
    weights = constant("w", np.zeros(w, np.float32))
    return model([node], [value("x", x)], [value("y", None)], constants=[weights])


def test_a_half_precision_layer_of_fixed_shape_has_no_problems():
    assert problems(lstm()) == []
    assert problems(lstm(operator="GRU")) == []


def test_a_convolution_of_the_models_size_has_no_problems():
    assert problems(conv(strides=[2, 2], pads=[20, 5, 20, 5])) == []


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_every_float_tensor_of_a_recurrent_layer_must_have_half_precision(operator):
    found = problems(lstm(dtype=np.float32, operator=operator))
    assert found == [f"{operator} layer: X, W, R, B are float, and may be float16; pass --dtype=float16"]


def test_lengths_of_a_recurrent_layer_must_be_int32():
    assert problems(lstm(lengths=INT64)) == ["LSTM layer: sequence_lens is int64, and may be int32; add a Cast"]


@pytest.mark.parametrize(
    ("opset", "operator", "expected"),
    [
        (16, "LSTM", []),
        (17, "LSTM", ["opset 17: LSTM may have 8 to 16 (older CANN: 11 to 13); pass --opset=13"]),
        (8, "LSTM", ["opset 8: graphs may have 9 to 18 (older CANN: 11 to 13); pass --opset=13"]),
        (18, "GRU", []),
        (11, "LSTM", []),
    ],
)
def test_opsets(opset, operator, expected):
    assert problems(lstm(opset=opset, operator=operator)) == expected


def test_an_opset_beyond_all_is_named_once_for_the_graph_and_once_for_the_layer():
    found = problems(lstm(opset=20))
    assert [line.partition(" may")[0] for line in found] == ["opset 20: graphs", "opset 20: LSTM"]


def test_a_file_format_newer_than_cann_reads():
    assert problems(lstm(ir=9)) == ["IR version 9: CANN is built for ONNX 1.12, IR version 8; set ir_version to 8"]


def test_an_operator_that_is_not_listed():
    assert problems(lstm(operator="RNN")) == ["1 x RNN: not in CANN's list of ONNX operators; express it by others"]


def test_a_domain_of_another_runtime():
    node = helper.make_node("DynamicQuantizeLSTM", ["x"], ["y"], domain="com.microsoft")
    found = problems(model([node], [value("x", [1])], [value("y", [1])], domains=["com.microsoft"]))
    assert found[0].startswith("operators of the domain com.microsoft")
    assert found[1].startswith("1 x DynamicQuantizeLSTM")


def test_control_flow_is_found_also_inside_control_flow():
    scalar = [value("flag", [], TensorProto.BOOL)]
    inner = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [value("i", [], INT64), value("go", [], TensorProto.BOOL), value("v", [2])],
        [value("go_on", [], TensorProto.BOOL), value("w", [2])],
    )
    times = constant("times", np.int64(3))
    loop = helper.make_node("Loop", ["times", "flag", "x"], ["z"], body=inner)
    branch = helper.make_graph([loop], "then", [], [value("z", [2])])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["u"])], "else", [], [value("u", [2])])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=other)
    found = problems(model([node], [*scalar, value("x", [2])], [value("y", [2])], constants=[times]))
    assert [line.partition(":")[0] for line in found] == ["1 x If", "1 x Loop"]


def test_values_whose_shape_is_open_are_counted_and_named():
    nodes = [helper.make_node("Relu", [before], [after]) for before, after in ("xa", "ab", "by")]
    found = problems(model(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 4])]))
    assert found == [
        "4 values without a fixed shape (x [batch, 4], a [batch, 4], b [batch, 4], ...): build the graph with a batch "
        "and a number of frames"
    ]


def test_a_shape_that_only_shape_inference_knows_is_fixed():
    node = [helper.make_node("Relu", ["x"], ["hidden"]), helper.make_node("Relu", ["hidden"], ["y"])]
    assert problems(model(node, [value("x", [2, 4])], [value("y", [2, 4])])) == []


def test_a_value_without_elements():
    found = problems(model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [0, 4])], [value("y", [0, 4])]))
    assert found == ["2 values without elements (x [0, 4], y [0, 4]): leave them out"]


def ranged(limit):
    nodes = [helper.make_node("Range", ["zero", limit, "one"], ["y"], name="frames")]
    numbers = [constant("zero", np.int64(0)), constant("one", np.int64(1)), constant("five", np.int64(5))]
    return model(nodes, [value("n", [], INT64)], [value("y", [5], INT64)], constants=numbers)


def test_a_range_of_computed_length_is_refused_and_one_of_constants_is_not():
    assert problems(ranged("five")) == []
    assert problems(ranged("n")) == [
        "Range frames: its limits are computed, so that its length is open; use a constant"
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"x": (1, 1, 161, 4097)}, "its input is 4,097 wide, and may be 4,096; pass --shapes with fewer frames"),
        ({"w": (2, 1, 2, 300)}, "its kernel is 300, and may be 255; CANN has no larger convolutions"),
        ({"pads": [0, 256, 0, 0]}, "its padding is 256, and may be 255; CANN has no larger convolutions"),
        ({"strides": [1, 64]}, "its stride is 64, and may be 63; CANN has no larger convolutions"),
        (
            {"x": (1, 4, 9, 9), "w": (4, 1, 3, 3), "group": 4},
            "it has 4 groups, and CANN documents 1; use MatMul, or a sum of products",
        ),
        ({"x": (1, 4, 9), "w": (4, 4, 3)}, "its input has 3 dimensions, and may have 4 or 5; add one of size 1"),
    ],
)
def test_sizes_of_a_convolution(options, expected):
    assert problems(conv(**options)) == [f"Conv first: {expected}"]


def test_a_choice_between_64_bit_integers_is_not_documented():
    node = helper.make_node("Where", ["c", "x", "y"], ["z"], name="mask")
    inputs = [value("c", [2], TensorProto.BOOL), value("x", [2], INT64), value("y", [2], INT64)]
    found = problems(model([node], inputs, [value("z", [2], INT64)]))
    assert found == [
        "Where mask: input 1, input 2 are int64, and may be float16 or float or uint8 or int8 or int32; add a Cast"
    ]


def test_nodes_with_the_same_fault_share_a_line():
    nodes = [helper.make_node("Where", ["c", "x", "x"], [f"z{index}"], name=f"mask{index}") for index in range(5)]
    inputs = [value("c", [2], TensorProto.BOOL), value("x", [2], INT64)]
    (found,) = problems(model(nodes, inputs, [value("z4", [2], INT64)]))
    assert found.startswith("Where mask0, mask1, mask2, ...: input 1, input 2 are int64")


def test_listed_operators_are_operators_of_onnx_but_for_one():
    known = {schema.name for schema in defs.get_all_schemas_with_history() if schema.domain == ""}
    assert OPERATORS - known == {"AdaptiveAvgPool2D"}, "CANN's own"
    assert not OPERATORS & {"Loop", "Scan", "If", "RNN", "DFT", "STFT"}


SHAPE = {"batch": 2, "frames": 101}


def built(cfg, **options):
    params, stats = deepspeech2.init(cfg.model, key=0)
    return problems(onnx_model.build(cfg, params, stats, onnx_model.OnnxOptions(**options)))


@pytest.mark.parametrize("cfg", [BOTH_WAYS, CFG], ids=["both", "forward"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("opset", [11, 13, 16])
def test_our_graph_of_a_fixed_shape_in_half_precision_has_no_problems(opset, cell, cfg):
    cfg = attrs.evolve(cfg, model=attrs.evolve(cfg.model, rnn_type=cell))
    assert built(cfg, opset=opset, dtype="float16", **SHAPE) == []


def test_a_stream_of_a_fixed_shape_has_no_problems():
    params, stats = deepspeech2.init(CFG.model, key=0)
    options = onnx_model.OnnxOptions(opset=13, dtype="float16", batch=2, frames=32)
    assert problems(onnx_streaming.build(CFG, params, stats, options)) == []


def test_our_other_graphs_break_the_limits_that_their_options_name():
    (single,) = built(BOTH_WAYS, opset=13, dtype="float32", **SHAPE)
    assert single.endswith("X, W, R, B are float, and may be float16; pass --dtype=float16")
    (newer,) = built(BOTH_WAYS, opset=17, dtype="float16", **SHAPE)
    assert newer.startswith("opset 17: LSTM may have 8 to 16")
    shapeless, ranged = built(BOTH_WAYS, opset=13, dtype="float16")
    assert "without a fixed shape (features [batch, 21, frames], lengths [batch]" in shapeless
    assert ranged.startswith("Range")
