"""Tests of the baselines: they take the same training steps as ds2f, with none of its computing code."""

import ast
from pathlib import Path

import attrs
import pytest
import torch
from reference_model import ReferenceModel

from ds2f.config import ApexConfig, Config, ModelConfig, OptimConfig
from ds2f.runner.device.backend import open_backend
from launch.bench import baselines, comparison
from launch.bench.baselines import Baseline, Network
from launch.synthetic_batches import make_batch

OPTIM = OptimConfig(schedule="constant", learning_rate=0.1, eps=0.1, max_norm=5.0, weight_decay=0.1)
CFG = Config(model=ModelConfig(hidden_size=12, hidden_layers=2, num_bins=41), optim=OPTIM)
FULL, BF16 = torch.float32, torch.bfloat16


def baseline(cfg: Config, *, packed: bool, dtype: torch.dtype = FULL, fused: bool = False) -> Baseline:
    torch.manual_seed(0)  # the layers of torch draw from the global generator, whose state depends on earlier tests
    return Baseline(cfg, packed=packed, dtype=dtype, fused=fused)


@pytest.mark.parametrize("rnn_type", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_all_implementations_take_the_same_steps(rnn_type: str, bidirectional: bool) -> None:
    model = attrs.evolve(CFG.model, rnn_type=rnn_type, bidirectional=bidirectional)
    apart = comparison.require_agreement(attrs.evolve(CFG, model=model), open_backend("cpu"))
    assert set(apart) == {"ours", "usual", "best", "amp"}
    assert 0 < max(apart.values()) < comparison.TOLERANCE


@pytest.mark.parametrize("fault", ["clipping", "loss", "direction"])
def test_a_baseline_that_computes_something_else_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "clipping":
        monkeypatch.setattr(baselines, "clip_grad_norm_", lambda parameters, norm: None)
    elif fault == "loss":
        step = Baseline.step
        monkeypatch.setattr(Baseline, "step", lambda self, batch: 1.01 * step(self, batch))
    else:
        recur = baselines.PaddedLayer.recur
        straight = torch.arange(32 * 3)
        monkeypatch.setattr(
            baselines.PaddedLayer, "recur", lambda self, x, ends: recur(self, x, ends._replace(reversed=straight))
        )
    with pytest.raises(RuntimeError, match="compute different things"):
        comparison.require_agreement(CFG, open_backend("cpu"))


def test_packed_and_padded_sequences_agree_on_a_batch_with_padding() -> None:
    batch = make_batch(CFG, [71, 58, 40, 39])
    packed, padded = baseline(CFG, packed=True), baseline(CFG, packed=False, fused=True)
    start = {name: value.clone() for name, value in packed.weights().items()}
    padded.load(start)
    for _ in range(2):
        torch.testing.assert_close(packed.step(batch), padded.step(batch), rtol=1e-4, atol=0)
    for name, expected in packed.weights().items():
        if expected.is_floating_point():
            apart, way = padded.weights()[name] - expected, expected - start[name]
            assert float(way.norm()) > 0, name
            assert float(apart.norm() / way.norm()) < 2e-3, name


def test_autocast_computes_in_half_precision_and_nearly_the_same() -> None:
    batch = make_batch(CFG, [64, 64])
    full, half = baseline(CFG, packed=False), baseline(CFG, packed=False, dtype=BF16)
    half.load(full.weights())
    losses = full.step(batch), half.step(batch)
    assert losses[0] != losses[1]
    torch.testing.assert_close(*losses, rtol=0.03, atol=0)


def test_the_scaler_skips_a_step_that_overflows_in_fp16() -> None:
    cfg = attrs.evolve(CFG, apex=ApexConfig(initial_scale=2.0**60))
    half = baseline(cfg, packed=False, dtype=torch.float16)
    parameters = [parameter.detach().clone() for parameter in half.network.parameters()]
    half.step(make_batch(cfg, [40, 40]))
    for before, after in zip(parameters, half.network.parameters(), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_baselines_have_the_model_of_deepspeech_pytorch(packed: bool, bidirectional: bool) -> None:
    model = attrs.evolve(CFG.model, bidirectional=bidirectional)
    reference, one = ReferenceModel(model), baseline(attrs.evolve(CFG, model=model), packed=packed)
    reference.load_state_dict(one.weights())
    batch = make_batch(CFG, [64, 64, 64])
    with torch.no_grad():
        expected, _ = reference.train()(batch.features, batch.lengths)
        found, lengths = one.network(batch.features, batch.lengths)
    torch.testing.assert_close(found.transpose(0, 1), expected, rtol=1e-4, atol=1e-5)
    assert lengths.tolist() == [32, 32, 32]


def test_packed_layers_are_one_call_and_padded_ones_a_call_per_direction() -> None:
    def sizes(packed: bool) -> list[int]:
        modules = Network(CFG.model, packed=packed).modules()
        return [1 + module.bidirectional for module in modules if isinstance(module, torch.nn.LSTM)]

    assert (sizes(True), sizes(False)) == ([2, 2], [1, 1, 1, 1])


def test_the_baselines_use_none_of_the_computing_code() -> None:
    source = ast.parse(Path(baselines.__file__).read_text())
    modules = {node.module for node in ast.walk(source) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(source) if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in modules if name and name.split(".")[0] in ("ds2f", "launch")} == {
        "ds2f.config",
        "ds2f.types",
    }
