"""The graph of a stream against ``model.streaming``, block by block."""

import drawn_models as models
import numpy as np
import onnxruntime
import pytest
import torch

from ds2f.errors import InputError
from ds2f.export import onnx_streaming
from ds2f.export.onnx_model import OnnxOptions
from ds2f.model import streaming


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize(("opset", "time_stride", "context"), [(11, 2, 20), (13, 4, 1), (18, 8, 5)])
def test_blocks_are_those_of_the_model(opset: int, cell: str, time_stride: int, context: int) -> None:
    cfg, params, stats = models.drawn(
        rnn_type=cell, bidirectional=False, time_stride=time_stride, lookahead_context=context
    )
    for dtype, tolerance in {"float32": 1e-5, "float16": 2e-2}.items():
        model = onnx_streaming.build(cfg, params, stats, OnnxOptions(opset=opset, dtype=dtype))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected_state = found_state = streaming.init(cfg.model, stats, streams=2, block=4)
        lengths = torch.tensor([41, streaming.ENDLESS])
        compared = 0
        for block in range(24):
            features = torch.randn(2, 161, 4 * time_stride, generator=torch.Generator().manual_seed(block))
            feeds = {"features": features, "lengths": lengths, "position": found_state.position}
            feeds |= onnx_streaming.state_parts(found_state)
            names = [each.name for each in session.get_outputs()]
            values = session.run(names, {name: value.numpy() for name, value in feeds.items()})
            found = {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}
            expected_state, logits = streaming.step(params, stats, expected_state, features, lengths, cfg=cfg.model)
            found_state = onnx_streaming.from_parts(
                {name.removeprefix("next_"): value for name, value in found.items()}, like=found_state
            )
            assert found["begin"].tolist() == logits.begin.tolist()
            assert found_state.position.tolist() == expected_state.position.tolist()
            for row, (begin, end) in enumerate(streaming.output_range(logits, lengths, cfg=cfg.model).tolist()):
                own, other = found["log_probs"][row, begin:end], logits.values[row, begin:end].log_softmax(dim=1)
                compared += own.numel()
                assert torch.allclose(own, other, atol=tolerance, rtol=0)
        assert compared > 50 * len(cfg.model.labels)


def test_sizes_may_be_fixed() -> None:
    cfg, params, stats = models.drawn(bidirectional=False)
    model = onnx_streaming.build(cfg, params, stats, OnnxOptions(opset=13, batch=2, frames=32))
    assert not {"Range", "Shape"} & {node.op_type for node in model.graph.node}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    state = streaming.init(cfg.model, stats, streams=2)
    feeds = {"features": torch.ones(2, 161, 32), "lengths": torch.full((2,), streaming.ENDLESS)}
    feeds |= {"position": state.position, **onnx_streaming.state_parts(state)}
    found = session.run(["log_probs"], {name: value.numpy() for name, value in feeds.items()})[0]
    assert found.shape == (2, 16, 29)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("both", "options", "message"),
    [
        (True, OnnxOptions(), "bidirectional model cannot stream"),
        (False, OnnxOptions(frames=33), "such as 34"),
        (False, OnnxOptions(with_features=True), "takes features, not samples"),
    ],
)
def test_what_has_no_stream_is_refused(both: bool, options: OnnxOptions, message: str) -> None:
    cfg, params, stats = models.drawn(bidirectional=both)
    with pytest.raises(InputError, match=message):
        onnx_streaming.build(cfg, params, stats, options)
