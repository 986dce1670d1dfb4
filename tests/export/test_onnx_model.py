"""ONNX graphs against the model itself, in onnxruntime and ONNX's own reference implementation."""

import drawn_models as models
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from ds2f.errors import InputError
from ds2f.export.onnx_model import OnnxOptions, build

CELLS = [(cell, both) for cell in ("lstm", "gru", "rnn") for both in (True, False)]
# Of log-probabilities, natural log. float16 has 11 bits: 5e-4 of values of around 4, after five layers.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2}


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def difference(model, cfg, params, stats, lengths) -> float:
    given = models.batch(cfg, lengths)
    feeds = {"features": given.features.numpy(), "lengths": given.lengths.numpy().astype(np.int32)}
    found, counts = run(model, feeds)
    expected = models.log_probs(cfg, params, stats, given)
    assert counts.tolist() == [len(each) for each in expected]
    assert (counts.dtype, found.dtype) == (np.int32, np.float32)
    return max(
        float((torch.from_numpy(row[: len(each)]) - each).abs().max()) if len(each) else 0.0
        for row, each in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(("cell", "both"), CELLS)
@pytest.mark.parametrize("opset", [11, 13, 16, 18])
def test_every_opset_and_cell_gives_the_models_log_probabilities(opset: int, cell: str, both: bool) -> None:
    cfg, params, stats = models.drawn(rnn_type=cell, bidirectional=both)
    for dtype, tolerance in TOLERANCES.items():
        model = build(cfg, params, stats, OnnxOptions(opset=opset, dtype=dtype))
        for lengths in ([20], [97, 1, 40, 96, 97, 3, 0]):
            assert difference(model, cfg, params, stats, lengths) < tolerance


@pytest.mark.long
@pytest.mark.parametrize(("cell", "both"), CELLS)
@pytest.mark.parametrize("opset", [11, 13, 16, 18])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_long_utterances_and_many(opset: int, cell: str, both: bool, dtype: str) -> None:
    cfg, params, stats = models.drawn(rnn_type=cell, bidirectional=both, hidden_size=64, hidden_layers=3)
    model = build(cfg, params, stats, OnnxOptions(opset=opset, dtype=dtype))
    for lengths in ([20], [3000], [3000, 20, 500, 1999, 2, 777, 64]):
        assert difference(model, cfg, params, stats, lengths) < {"float32": 1e-4, "float16": 5e-2}[dtype]


@pytest.mark.parametrize(("time_stride", "frequency_stride"), [(2, 4), (4, 6), (6, 8), (8, 16)])
@pytest.mark.parametrize("both", [True, False])
def test_all_strides(time_stride: int, frequency_stride: int, both: bool) -> None:
    cfg, params, stats = models.drawn(
        time_stride=time_stride, frequency_stride=frequency_stride, bidirectional=both, lookahead_context=3
    )
    model = build(cfg, params, stats, OnnxOptions())
    assert difference(model, cfg, params, stats, [50, 49, 7]) < TOLERANCES["float32"]


@pytest.mark.parametrize("both", [True, False])
def test_fixed_sizes_leave_no_size_open(both: bool) -> None:
    cfg, params, stats = models.drawn(bidirectional=both)
    model = build(cfg, params, stats, OnnxOptions(opset=13, batch=3, frames=61))
    assert difference(model, cfg, params, stats, [61, 20, 1]) < TOLERANCES["float32"]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        assert all(size.HasField("dim_value") for size in value.type.tensor_type.shape.dim), value.name
    assert not {"Range", "Shape"} & {node.op_type for node in model.graph.node}


def test_padding_has_no_influence_whatever_it_holds() -> None:
    cfg, params, stats = models.drawn(bidirectional=False)
    model = build(cfg, params, stats, OnnxOptions())
    given = models.batch(cfg, [60, 31])
    features = given.features.numpy()
    plain = run(model, {"features": features, "lengths": np.array([60, 31], np.int32)})[0]
    features[1, :, 31:] = np.nan
    found = run(model, {"features": features, "lengths": np.array([60, 31], np.int32)})[0]
    assert np.array_equal(found[0], plain[0])
    assert np.array_equal(found[1, :16], plain[1, :16])


def test_names_and_precision_are_chosen() -> None:
    cfg, params, stats = models.drawn()
    chosen = {"features": "spect", "lengths": "n", "log_probs": "out", "output_lengths": "m"}
    model = build(cfg, params, stats, OnnxOptions(dtype="float16", names=chosen), metadata={"key": "value"})
    assert [each.name for each in (*model.graph.input, *model.graph.output)] == ["spect", "n", "out", "m"]
    assert {each.data_type for each in model.graph.initializer} <= {
        onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64, onnx.TensorProto.INT32
    }  # fmt: skip
    assert {each.key: each.value for each in model.metadata_props} == {"key": "value"}
    full = build(cfg, params, stats, OnnxOptions())
    assert model.ByteSize() < 0.55 * full.ByteSize()


def test_onnx_reference_agrees() -> None:
    """The specification's own implementation, of one utterance: its LSTM has no lengths."""
    cfg, params, stats = models.drawn(bidirectional=False, hidden_layers=1)
    model = build(cfg, params, stats, OnnxOptions(opset=16))
    for node in model.graph.node:
        if node.op_type == "LSTM":
            node.input[4] = ""
    given = models.batch(cfg, [24])
    feeds = {"features": given.features.numpy(), "lengths": np.array([24], np.int32)}
    found = ReferenceEvaluator(model).run(None, feeds)[0]
    expected = models.log_probs(cfg, params, stats, given)[0]
    assert float((torch.from_numpy(found[0]) - expected).abs().max()) < 1e-4


@pytest.mark.parametrize(("wrong", "message"), [({"opset": 10}, "opset 10"), ({"dtype": "int8"}, "dtype int8")])
def test_unknown_forms_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OnnxOptions(**wrong)
