"""The checks of exported models find what differs, and where."""

import attrs
import drawn_models as models
import pytest
import torch

from ds2f import tree
from ds2f.errors import InputError
from ds2f.export import onnx_model, onnx_session, verification
from ds2f.export.onnx_file import Form
from ds2f.export.onnx_model import OnnxOptions
from ds2f.inference.engine import TorchEngine
from ds2f.runner.device.backend import open_backend


def engines(*, change: float = 0.0, **model: object) -> tuple[TorchEngine, onnx_session.OnnxEngine, object]:
    """The engine of a model, and onnxruntime with a changed one."""
    cfg, params, stats = models.drawn(**model)
    exact = attrs.evolve(cfg, apex=attrs.evolve(cfg.apex, opt_level="O0"))
    changed = tree.map(lambda x: x * (1 + change), params)
    return TorchEngine(exact, params, stats, backend=open_backend("cpu")), onnx_session.from_params(
        cfg, changed, stats
    ), exact  # fmt: skip


def test_equal_models_pass_and_changed_ones_do_not() -> None:
    run, made, cfg = engines(bidirectional=False)
    assert 0 < verification.logits(run, made, cfg, batch=None, tolerance=1e-4, file="m") < 1e-4
    assert 0 < verification.streams(run, made, cfg, block=8, tolerance=1e-4, file="m") < 1e-4
    run, made, cfg = engines(bidirectional=False, change=1e-3)
    where = r"m: not written: .* more than 0.0001: drawn utterance \d of \d, frame \d+ of \d+, label '.'"
    with pytest.raises(InputError, match=where):
        verification.logits(run, made, cfg, batch=None, tolerance=1e-4, file="m")
    with pytest.raises(InputError, match=where):
        verification.streams(run, made, cfg, block=8, tolerance=1e-4, file="m")


def test_a_value_that_is_no_number_is_a_difference() -> None:
    run, _, cfg = engines()
    plain, params, stats = models.drawn()
    params["output"]["weight"] = params["output"]["weight"] * float("nan")
    broken = onnx_session.from_params(plain, params, stats)
    with pytest.raises(InputError, match="by inf"):
        verification.logits(run, broken, cfg, batch=None, tolerance=1e9, file="m")


def test_graphs_that_take_samples_are_compared_with_the_features() -> None:
    cfg, params, stats = models.drawn(hidden_layers=1)
    exact = attrs.evolve(cfg, apex=attrs.evolve(cfg.apex, opt_level="O0"))
    run = TorchEngine(exact, params, stats, backend=open_backend("cpu"))
    for options in (OnnxOptions(with_features=True), OnnxOptions(with_features=True, batch=5, frames=9000)):
        model = onnx_model.build(cfg, params, stats, options)
        graph = onnx_session.Compiled(model.SerializeToString(), Form(options), "m")
        assert 0 < verification.samples(run, graph, exact, tolerance=1e-4, file="m") < 1e-4
    other = onnx_model.build(cfg, tree.map(lambda x: 1.01 * x, params), stats, options)
    graph = onnx_session.Compiled(other.SerializeToString(), Form(options), "m")
    with pytest.raises(InputError, match="more than"):
        verification.samples(run, graph, exact, tolerance=1e-4, file="m")


def test_texts_are_counted() -> None:
    run, made, cfg = engines(bidirectional=True)
    _, other, _ = engines(bidirectional=True, change=0.5)
    given = models.batch(cfg, [200, 150])._replace(ids=torch.tensor([3, 1]))
    references = {1: "ONE", 3: "TWO"}
    same = verification.texts(run, made, [given], references, cfg.model.labels)
    assert (same.utterances, same.differing) == (2, 0)
    assert same.before == same.after
    assert same.before.words == 2
    differing = verification.texts(run, other, [given], references, cfg.model.labels)
    assert (differing.utterances, differing.before) == (2, same.before)
    assert differing.differing > 0


def test_texts_of_utterances_that_are_too_long_are_left_out() -> None:
    cfg, params, stats = models.drawn()
    run, _, exact = engines()
    options = OnnxOptions(batch=2, frames=150)
    content = onnx_model.build(cfg, params, stats, options).SerializeToString()
    made = onnx_session.OnnxEngine(cfg, [onnx_session.Compiled(content, Form(options), "m")])
    given = models.batch(cfg, [200, 150, 151])._replace(ids=torch.tensor([3, 1, 2]))
    found = verification.texts(run, made, [given], {1: "ONE", 2: "TWO", 3: "TWO"}, exact.model.labels)
    assert (found.utterances, found.differing, found.before.words) == (1, 0, 1)


def test_speed_is_time_by_time() -> None:
    run, _, cfg = engines()
    found = verification.speed(run, cfg, batch=2)
    assert found.seconds == pytest.approx(12.02)
    assert 0 < found.real_time_factor < 10
