"""onnxruntime as an engine: the log-probabilities of torch's, for any batch, fixed sizes and streams."""

import re
from pathlib import Path

import attrs
import drawn_models as models
import pytest
import torch

from ds2f.checkpoint.exported import About, weights_digest
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.export import onnx_file, onnx_model, onnx_session, onnx_streaming
from ds2f.export.onnx_file import Form
from ds2f.export.onnx_model import OnnxOptions
from ds2f.inference import stream as streams
from ds2f.inference.engine import Engine, TorchEngine
from ds2f.runner.device.backend import open_backend
from ds2f.types import Params, Stats

LENGTHS = [60, 7, 31, 60, 1]


def written(folder: Path, model: tuple[Config, Params, Stats], *forms: Form) -> Path:
    cfg, params, stats = model
    about = About(cfg, weights_digest(params, stats), "run", "best", {})
    for number, form in enumerate(forms):
        build = onnx_streaming.build if form.streams else onnx_model.build
        graph = build(cfg, params, stats, form.options, metadata=onnx_file.metadata(about, form))
        onnx_file.write(folder / f"{number}.onnx", graph)
    return folder


def torch_engine(cfg: Config, params: Params, stats: Stats) -> TorchEngine:
    exact = attrs.evolve(cfg, apex=attrs.evolve(cfg.apex, opt_level="O0"))
    return TorchEngine(exact, params, stats, backend=open_backend("cpu"))


def same_logits(engine: Engine, model: tuple[Config, Params, Stats], lengths: list[int]) -> None:
    batch = models.batch(model[0], lengths)
    found = engine.logits(batch)
    expected = models.log_probs(*model, batch)
    assert found.lengths.tolist() == [len(each) for each in expected]
    for row, each in zip(found.values, expected, strict=True):
        assert torch.allclose(row[: len(each)], each, atol=1e-4)


@pytest.mark.parametrize("both", [True, False])
def test_weights_become_an_engine(both: bool) -> None:
    model = models.drawn(bidirectional=both)
    engine = onnx_session.from_params(*model)
    assert (engine.longest, engine.about) == (None, None)
    same_logits(engine, model, LENGTHS)
    same_logits(engine, model, [0, 3])


def test_graphs_of_fixed_sizes_take_any_number_of_utterances(tmp_path: Path) -> None:
    model = models.drawn()
    forms = [Form(OnnxOptions(batch=batch, frames=frames)) for batch, frames in ((1, 61), (3, 20), (4, 61))]
    engine = onnx_session.open_path(written(tmp_path, model, *forms))
    assert engine.longest == 61
    assert engine.about is not None
    assert onnx_session.describe(tmp_path) == (engine.about, 61)
    assert engine.about.cfg.model == model[0].model
    same_logits(engine, model, LENGTHS)
    same_logits(engine, model, [20])
    with pytest.raises(InputError, match="shorter pieces"):
        engine.logits(models.batch(model[0], [62]))


@pytest.mark.parametrize("sizes", [OnnxOptions(), OnnxOptions(batch=2, frames=16)])
def test_streams_are_those_of_torch(tmp_path: Path, sizes: OnnxOptions) -> None:
    model = models.drawn(bidirectional=False, time_stride=4)
    engines = [torch_engine(*model), onnx_session.open_path(written(tmp_path, model, Form(sizes, streams=True)))]
    samples = 0.1 * torch.randn(3, 30_000, generator=torch.Generator().manual_seed(2))
    found = []
    for engine in engines:
        states = [engine.begin(block=4) for _ in samples]
        texts: list[list[torch.Tensor]] = [[] for _ in samples]
        for begin in range(0, 30_000, 5_001):
            states = [
                streams.push(state, row[None, begin : begin + 5_001], cfg=model[0])
                for state, row in zip(states, samples, strict=True)
            ]
            while all(streams.ready(state, cfg=model[0]) for state in states):
                states, values = engine.advance(states)
                for text, each in zip(texts, values, strict=True):
                    text.append(each[0].log_softmax(dim=1))
        found.append([torch.cat(text) for text in texts])
    for expected, other in zip(*found, strict=True):
        assert len(expected) > 15
        assert torch.allclose(expected, other, atol=1e-4)


def test_what_an_export_does_not_have_is_told(tmp_path: Path) -> None:
    model = models.drawn(bidirectional=False)
    for folder in ("whole", "stream", "samples", "empty"):
        (tmp_path / folder).mkdir()
    whole = onnx_session.open_path(written(tmp_path / "whole", model, Form(OnnxOptions())))
    stream = onnx_session.open_path(written(tmp_path / "stream", model, Form(OnnxOptions(frames=32), streams=True)))
    samples = onnx_session.open_path(written(tmp_path / "samples", model, Form(OnnxOptions(with_features=True))))
    with pytest.raises(InputError, match=re.escape("no stream's graph")):
        whole.begin()
    with pytest.raises(InputError, match="transcribe with --stream"):
        stream.logits(models.batch(model[0], [3]))
    with pytest.raises(InputError, match=r"blocks of 0\.32 seconds, not 0\.16: give --stream_block=0\.32"):
        stream.begin(block=8)
    with pytest.raises(InputError, match="takes samples"):
        samples.logits(models.batch(model[0], [3]))
    with pytest.raises(InputError, match=r"samples: .*takes samples"):
        onnx_session.describe(tmp_path / "samples")
    assert [onnx_session.describe(tmp_path / name)[1] for name in ("whole", "stream")] == [None, None]
    with pytest.raises(InputError, match="cannot stream"):
        onnx_session.from_params(*models.drawn()).begin()
    with pytest.raises(InputError, match="no files of ONNX"):
        onnx_session.open_path(tmp_path / "empty")


def test_files_of_several_models_are_refused(tmp_path: Path) -> None:
    written(tmp_path, models.drawn(), Form(OnnxOptions()))
    (tmp_path / "0.onnx").rename(tmp_path / "a.onnx")
    written(tmp_path, models.drawn(hidden_size=8), Form(OnnxOptions()))
    with pytest.raises(InputError, match="of different models"):
        onnx_session.open_path(tmp_path)


def stream_after(engine: Engine, cfg: Config) -> streams.StreamState:
    """A stream that is ready, after a second of noise."""
    samples = 0.1 * torch.randn(1, cfg.spect.sample_rate, generator=torch.Generator().manual_seed(3))
    return streams.push(engine.begin(), samples, cfg=cfg)


@pytest.mark.parametrize("of_streams", [False, True])
def test_outputs_of_other_shapes_are_refused(of_streams: bool) -> None:
    cfg, params, stats = models.drawn(bidirectional=False)
    form = Form(OnnxOptions(), streams=of_streams)
    graph = (onnx_streaming if of_streams else onnx_model).build(cfg, params, stats, form.options)
    outputs = {each.name: each for each in graph.graph.output}
    ends = outputs["begin" if of_streams else "output_lengths"]
    for forged in (outputs["log_probs"], ends):
        other = next(node for node in graph.graph.node if node.output[0] == forged.name)
        before = other.input[0]
        other.input[0] = next(node.input[0] for node in graph.graph.node if node.op_type == "Unsqueeze")
        forged.ClearField("type")
        content = graph.SerializeToString()
        other.input[0] = before
        graph_of_file = onnx_session.Compiled(content, form, "m", labels=len(cfg.model.labels))
        engine = onnx_session.OnnxEngine(cfg, [graph_of_file])
        states = [stream_after(engine, cfg)] if of_streams else []
        with pytest.raises(InputError, match="other shapes"):
            engine.advance(states) if of_streams else engine.logits(models.batch(cfg, [30, 7]))
