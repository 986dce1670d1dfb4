"""What --model.kernel=auto means, and that a run keeps it."""

import time

import attrs
import pytest
import torch

from ds2f import config
from ds2f.config import ApexConfig, CheckpointingConfig, Config, ModelConfig
from ds2f.errors import InputError
from ds2f.model import recurrent
from ds2f.runner.device import autotune
from ds2f.runner.device.backend import Backend
from ds2f.runner.run_dir import claim_run_dir

FAST_HALF = Backend("cpu", torch.device("cpu"), "CPU with fast bf16", torch.bfloat16, "func")
PLAIN = attrs.evolve(FAST_HALF, fast_dtype=torch.float32)
MODEL = ModelConfig(hidden_size=512, hidden_layers=2)
SHAPE = {"batch_size": 2, "dtype": torch.bfloat16}


@pytest.fixture
def speeds(monkeypatch):
    """Sets what a measurement finds; without it, measuring is an error."""

    def found(**seconds):
        monkeypatch.setattr(
            autotune, "_measure", lambda candidates, *_, **__: {name: seconds[name] for name in candidates}
        )

    found()
    return found


@pytest.mark.parametrize("kernel", recurrent.KERNELS)
def test_a_kernel_that_was_asked_for_is_taken_unmeasured(speeds, kernel):
    assert autotune.choose(attrs.evolve(MODEL, kernel=kernel), backend=FAST_HALF, **SHAPE) == kernel


@pytest.mark.parametrize(
    ("model", "backend", "dtype"),
    [
        (MODEL, PLAIN, torch.float32),
        (MODEL, PLAIN, torch.bfloat16),  # asked for where it is emulated
        (MODEL, FAST_HALF, torch.float32),
        (MODEL, attrs.evolve(FAST_HALF, name="cuda"), torch.bfloat16),
        (attrs.evolve(MODEL, rnn_type="gru"), FAST_HALF, torch.bfloat16),
        (attrs.evolve(MODEL, hidden_size=256), FAST_HALF, torch.bfloat16),
    ],
)
def test_without_a_rival_the_fused_operator_is_taken_unmeasured(speeds, model, backend, dtype):
    assert autotune.choose(model, batch_size=2, dtype=dtype, backend=backend) == "fused"


def test_the_hoisted_kernel_must_win_clearly(speeds):
    speeds(fused=1.0, hoisted=0.9)
    assert autotune.choose(MODEL, backend=FAST_HALF, **SHAPE) == "hoisted"
    speeds(fused=1.0, hoisted=0.98)
    assert autotune.choose(MODEL, backend=FAST_HALF, **SHAPE) == "fused"


def test_the_measurement_sees_which_kernel_is_slow(monkeypatch):
    def slow(rnn_type):
        def kernel(*arguments):
            time.sleep(0.2)
            return recurrent.fused(rnn_type)(*arguments)

        return kernel

    monkeypatch.setitem(recurrent.KERNELS, "hoisted", slow)
    found = autotune._measure(("fused", "hoisted"), MODEL, batch_size=1, dtype=torch.float32, backend=PLAIN)
    assert found["hoisted"] > max(0.2, found["fused"])


def test_a_kernel_that_does_not_run_here_is_left_aside_and_named(monkeypatch, caplog):
    def broken(rnn_type):
        def kernel(*arguments):
            raise RuntimeError("no such operator")

        return kernel

    monkeypatch.setitem(recurrent.KERNELS, "hoisted", broken)
    assert autotune.choose(MODEL, batch_size=1, dtype=torch.bfloat16, backend=FAST_HALF) == "fused"
    assert "hoisted does not run here and is left aside: no such operator" in caplog.text


def claimed(run_dir, *, finds, **model):
    cfg = Config(
        model=attrs.evolve(MODEL, **model),
        apex=ApexConfig(opt_level="O0"),
        checkpointing=CheckpointingConfig(load_auto_checkpoint=True),
    )
    return claim_run_dir(run_dir, cfg, lambda _: "", choose_kernel=lambda cfg: cfg.model.kernel.replace("auto", finds))


def test_a_run_records_its_kernel_and_keeps_it_when_another_would_be_found_later(tmp_path):
    assert claimed(tmp_path, finds="hoisted").model.kernel == "hoisted"
    assert config.load(tmp_path / "config.json").model.kernel == "hoisted"
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert claimed(tmp_path, finds="fused").model.kernel == "hoisted"


def test_a_run_may_go_on_with_recomputation_but_not_as_another_model(tmp_path):
    claimed(tmp_path, finds="fused")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert claimed(tmp_path, finds="fused", remat=True).model.remat
    with pytest.raises(InputError, match=r"model\.hidden_layers differ"):
        claimed(tmp_path, finds="fused", hidden_layers=3)
