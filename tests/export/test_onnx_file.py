"""Files of ONNX: what they say of themselves, and files that are refused."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import drawn_models as models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ds2f.checkpoint.exported import About, weights_digest
from ds2f.errors import InputError
from ds2f.export import onnx_file, onnx_model, onnx_streaming, quantisation
from ds2f.export.onnx_file import Form
from ds2f.export.onnx_model import OnnxOptions


def made(form: Form = Form(OnnxOptions()), **model: object) -> tuple[onnx.ModelProto, About]:  # noqa: B008
    cfg, params, stats = models.drawn(**{"hidden_size": 4, "hidden_layers": 1, "bidirectional": False} | model)
    about = About(cfg, weights_digest(params, stats), "run", "best", {"test": {"wer": 4.5}})
    build = onnx_streaming.build if form.streams else onnx_model.build
    graph = build(cfg, params, stats, form.options, metadata=onnx_file.metadata(about, form))
    return (quantisation.quantise(graph, cfg.model) if form.quantised else graph), about


@pytest.mark.parametrize(
    "form",
    [
        Form(OnnxOptions()),
        Form(OnnxOptions(opset=13, dtype="float16", batch=2, frames=40, names={"features": "spect"})),
        Form(OnnxOptions(with_features=True, batch=1, frames=3000)),
        Form(OnnxOptions(), streams=True),
        Form(OnnxOptions(), quantised=True),
        Form(OnnxOptions(), streams=True, quantised=True),
    ],
)
def test_what_is_written_is_read(tmp_path: Path, form: Form) -> None:
    graph, about = made(form)
    path = tmp_path / "model.onnx"
    onnx_file.write(path, graph)
    opened = onnx_file.read(path)
    assert opened.form == form
    assert opened.content == path.read_bytes()
    assert (opened.about.cfg.model, opened.about.weights, opened.about.results) == (
        about.cfg.model, about.weights, about.results
    )  # fmt: skip


def _node(operator: str, domain: str = "", **attributes: object) -> Callable[[onnx.ModelProto], None]:
    def change(graph: onnx.ModelProto) -> None:
        graph.graph.node.append(helper.make_node(operator, ["features"], ["more"], domain=domain, **attributes))
        if domain:
            graph.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def _external(graph: onnx.ModelProto) -> None:
    tensor = graph.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def _large_weight(graph: onnx.ModelProto) -> None:
    next(each for each in graph.graph.initializer if each.dims).dims[0] = 2**40


def _large_padding(graph: onnx.ModelProto) -> None:
    graph.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 2**40], np.int64), "pads"))
    graph.graph.node.append(helper.make_node("Pad", ["features", "pads"], ["padded"]))


def _last_weight(value: float) -> Callable[[onnx.ModelProto], None]:
    def change(graph: onnx.ModelProto) -> None:
        tensor = next(each for each in graph.graph.initializer if each.data_type == TensorProto.FLOAT and each.dims)
        tensor.raw_data = tensor.raw_data[:-4] + np.float32(value).tobytes()

    return change


def _padding_of_a_convolution(graph: onnx.ModelProto) -> None:
    node = next(each for each in graph.graph.node if each.op_type == "Conv")
    next(each for each in node.attribute if each.name == "pads").ints[1] = 2**40


def _other_sizes(graph: onnx.ModelProto) -> None:
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 40


def _entry(name: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(graph: onnx.ModelProto) -> None:
        next(each for each in graph.metadata_props if each.key == name).value = value

    return change


def _foreign(graph: onnx.ModelProto) -> None:
    del graph.metadata_props[:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_foreign, "not a model that ds2f exported"),
        (_entry("ds2f.format", "2"), "newer version"),
        (_entry("ds2f.config", "{"), "damaged"),
        (_entry("ds2f.graph", "[]"), "its form cannot be read"),
        (_entry("ds2f.graph", '{"streams": false, "quantised": false, "batch": 99999, "frames": 99999}'), "gigabyte"),
        (_entry("ds2f.graph", '{"streams": false, "quantised": false, "batch": -1}'), "no positive numbers"),
        (_entry("ds2f.graph", '{"streams": false, "quantised": false, "names": {"a": 1}}'), "no texts"),
        (_entry("ds2f.graph", '{"streams": false, "quantised": false, "frames": 7}'), "other sizes"),
        (_node("Loop"), "the operator :Loop"),
        (_node("PyOp", domain="ai.onnx.contrib"), "the operator ai.onnx.contrib:PyOp"),
        (_node("Expand"), "the operator :Expand"),
        (_node("Identity", then_branch=helper.make_graph([], "g", [], [])), "a graph or a tensor in an operator"),
        (_external, "weights in another file"),
        (_large_weight, "size is not that of its bytes"),
        (_large_padding, "a size without measure"),
        (_last_weight(float("nan")), "a weight that is not finite"),
        (_last_weight(float("-inf")), "a weight that is not finite"),
        (_padding_of_a_convolution, "a padding without measure, Conv"),
        (_other_sizes, "other sizes than its metadata"),
    ],
)
def test_a_changed_file_is_refused(tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str) -> None:
    graph, _ = made()
    change(graph)
    path = tmp_path / "model.onnx"
    onnx_file.write(path, graph)
    with pytest.raises(InputError, match=message) as error:
        onnx_file.read(path)
    assert str(path) in str(error.value)


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    """Most bytes are of weights, whose change nothing else would tell."""
    graph, _ = made()
    path = tmp_path / "model.onnx"
    onnx_file.write(path, graph)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in [*generator.integers(0, len(whole), 100).tolist(), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(InputError):
            onnx_file.read(path)


def test_a_file_that_another_program_wrote_again_is_refused(tmp_path: Path) -> None:
    graph, _ = made()
    path = tmp_path / "model.onnx"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(InputError, match="its bytes are not those that were written"):
        onnx_file.read(path)


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def test_other_files_are_refused_and_nothing_is_executed(tmp_path: Path) -> None:
    graph, _ = made()
    whole = graph.SerializeToString()
    contents = {
        "pickle.onnx": pickle.dumps(_Touch(tmp_path / "executed")),
        "empty.onnx": b"",
        "text.onnx": b"not a model",
        "cut.onnx": whole[: len(whole) // 2],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            onnx_file.read(tmp_path / name)
    with pytest.raises(InputError, match=r"missing\.onnx"):
        onnx_file.read(tmp_path / "missing.onnx")
    assert not (tmp_path / "executed").exists()
