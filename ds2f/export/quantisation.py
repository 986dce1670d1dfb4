"""int8 graphs: recurrent and linear layers whose weights are rounded to 8 bits, and whose inputs are on the way."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import numpy_helper

from ds2f.config import ModelConfig
from ds2f.errors import InputError
from ds2f.extras import import_extra

_OPERATORS = ["LSTM", "MatMul"]  # convolutions in int8 are slower than in float32


def quantise(model: onnx.ModelProto, cfg: ModelConfig) -> onnx.ModelProto:
    """The graph with int8 weights, by onnxruntime's dynamic quantisation. Convolutions stay in float32.

    Args:
      model: of ``onnx_model.build`` or ``onnx_streaming.build``, in float32.
      cfg: the ``model`` section.

    Raises:
      InputError: the cell is none that onnxruntime computes in int8.
    """
    if cfg.rnn_type != "lstm":
        raise InputError(
            f"--quantize=int8: onnxruntime computes LSTM in int8, not {cfg.rnn_type.upper()}; export without it"
        )
    quantization = import_extra(
        "onnxruntime.quantization", need="int8 needs onnxruntime", remedy="pip install 'ds2f[export]'"
    )
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder, "source.onnx"), Path(folder, "target.onnx")
        source.write_bytes(model.SerializeToString())
        quantization.quantize_dynamic(source, target, op_types_to_quantize=_OPERATORS)
        made = onnx.ModelProto.FromString(target.read_bytes())
    for tensor in made.graph.initializer:  # all values as raw bytes, of whose number ``onnx_file.read`` is sure
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    made.producer_name, made.producer_version = "ds2f", ""
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, {entry.key: entry.value for entry in model.metadata_props})
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice to prepare the graph, which was made for it."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
