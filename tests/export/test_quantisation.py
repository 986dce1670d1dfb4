"""int8 graphs: as close as 8 bits allow, and a quarter of the size."""

import drawn_models as models
import numpy as np
import onnxruntime
import pytest

from ds2f import tree
from ds2f.errors import InputError
from ds2f.export import onnx_model, onnx_streaming, quantisation
from ds2f.export.onnx_model import OnnxOptions


@pytest.mark.parametrize("both", [True, False])
def test_layers_are_in_int8_and_stay_close(both: bool) -> None:
    cfg, params, stats = models.drawn(bidirectional=both, hidden_size=128)
    plain = onnx_model.build(cfg, params, stats, OnnxOptions(), metadata={"key": "value"})
    made = quantisation.quantise(plain, cfg.model)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("DynamicQuantizeLSTM") == 2
    assert kinds.count("LSTM") == 0
    assert kinds.count("Conv") == 3 - both
    assert {each.key: each.value for each in made.metadata_props} == {"key": "value"}
    recurrent = sum(leaf.numel() for index in range(2) for leaf in tree.leaves(params[f"rnn_{index}"]))
    assert plain.ByteSize() - made.ByteSize() > 0.95 * 3 * recurrent  # bytes: 4 became 1
    given = models.batch(cfg, [120, 33])
    feeds = {"features": given.features.numpy(), "lengths": np.array([120, 33], np.int32)}
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, feeds)[0]
    for row, expected in zip(found, models.log_probs(cfg, params, stats, given), strict=True):
        difference = np.abs(row[: len(expected)] - expected.numpy())
        assert 0 < difference.mean() < 0.05 * expected.std()


def test_a_stream_can_be_quantised() -> None:
    cfg, params, stats = models.drawn(bidirectional=False)
    made = quantisation.quantise(onnx_streaming.build(cfg, params, stats, OnnxOptions()), cfg.model)
    assert [node.op_type for node in made.graph.node].count("DynamicQuantizeLSTM") == 2
    onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_other_cells_are_refused(cell: str) -> None:
    cfg, params, stats = models.drawn(rnn_type=cell)
    with pytest.raises(InputError, match=f"not {cell.upper()}; export without"):
        quantisation.quantise(onnx_model.build(cfg, params, stats, OnnxOptions()), cfg.model)
