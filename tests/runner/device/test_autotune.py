"""What --model.kernel=auto means, and that a run keeps it."""

import json
import time
from pathlib import Path

import attrs
import pytest
import torch

from ds2f import config
from ds2f.config import ApexConfig, CheckpointingConfig, Config, ModelConfig
from ds2f.errors import InputError
from ds2f.model import recurrent
from ds2f.runner.device import autotune
from ds2f.runner.device.backend import Backend
from ds2f.runner.run_dir import claim, settle

FAST_HALF = Backend("cpu", torch.device("cpu"), "CPU with fast bf16", torch.bfloat16, "func")
PLAIN = attrs.evolve(FAST_HALF, fast_dtype=torch.float32)
CARD = attrs.evolve(FAST_HALF, name="cuda", description="a card")
MODEL = ModelConfig(hidden_size=512, hidden_layers=2)
SHAPE = {"batch_size": 2, "dtype": torch.bfloat16}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """The file that keeps times, of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ds2f" / "kernels.json"


@pytest.fixture
def speeds(monkeypatch, cache):
    """Sets what a measurement finds, and forgets earlier ones; without it, measuring is an error."""

    def found(**seconds):
        cache.unlink(missing_ok=True)
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
        (attrs.evolve(MODEL, bidirectional=False), CARD, torch.bfloat16),
        (attrs.evolve(MODEL, rnn_type="rnn"), CARD, torch.bfloat16),
        (MODEL, attrs.evolve(CARD, name="npu"), torch.float16),
        (attrs.evolve(MODEL, rnn_type="gru"), FAST_HALF, torch.bfloat16),
        (attrs.evolve(MODEL, hidden_size=256), FAST_HALF, torch.bfloat16),
    ],
)
def test_without_another_candidate_the_fused_operator_is_taken_unmeasured(speeds, model, backend, dtype):
    assert autotune.choose(model, batch_size=2, dtype=dtype, backend=backend) == "fused"


def test_the_hoisted_kernel_must_win_clearly(speeds):
    speeds(fused=1.0, hoisted=0.9)
    assert autotune.choose(MODEL, backend=FAST_HALF, **SHAPE) == "hoisted"
    speeds(fused=1.0, hoisted=0.98)
    assert autotune.choose(MODEL, backend=FAST_HALF, **SHAPE) == "fused"


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_on_a_card_two_directions_in_one_call_must_win_clearly(speeds, rnn_type, cache):
    model = attrs.evolve(MODEL, rnn_type=rnn_type)
    speeds(fused=1.0, paired=0.9)
    assert autotune.choose(model, backend=CARD, **SHAPE) == "paired"
    (key,) = json.loads(cache.read_text())
    assert key.startswith("cuda, a card, driver")
    speeds(fused=1.0, paired=0.98)
    assert autotune.choose(model, backend=CARD, **SHAPE) == "fused"
    assert autotune.choose(model, backend=attrs.evolve(CARD, description="another"), **SHAPE) == "fused"
    assert len(json.loads(cache.read_text())) == 2


def test_on_a_card_a_short_run_takes_what_an_examination_has_timed(speeds):
    speeds(fused=1.0, paired=0.5)
    assert autotune.choose(MODEL, backend=CARD, steps=10, **SHAPE) == "fused"
    assert autotune.measure(MODEL, backend=CARD, **SHAPE) == {"fused": 1.0, "paired": 0.5}
    assert autotune.choose(MODEL, backend=CARD, steps=10, **SHAPE) == "paired"


@pytest.mark.parametrize("names", [("fused", "hoisted"), ("fused", "paired")])
def test_a_kernel_that_computes_something_else_is_skipped_and_named(monkeypatch, caplog, names):
    def another(rnn_type):
        kernel = recurrent.fused(rnn_type)
        return lambda x, frames, state, weights: kernel(1 - x, frames, state, weights)

    assert set(autotune._measure(names, MODEL, batch_size=2, dtype=torch.float32, backend=PLAIN)) == set(names)
    monkeypatch.setitem(recurrent.KERNELS, names[1], another)
    found = autotune._measure(names, MODEL, batch_size=2, dtype=torch.float32, backend=PLAIN)
    assert set(found) == {"fused"}
    assert f"{names[1]} does not run here and is skipped: its outputs are off by" in caplog.text


def test_the_measurement_sees_which_kernel_is_slow(monkeypatch):
    def slow(rnn_type):
        def kernel(*arguments):
            time.sleep(0.2)
            return recurrent.fused(rnn_type)(*arguments)

        return kernel

    monkeypatch.setitem(recurrent.KERNELS, "hoisted", slow)
    found = autotune._measure(("fused", "hoisted"), MODEL, batch_size=1, dtype=torch.float32, backend=PLAIN)
    assert found["hoisted"] > max(0.2, found["fused"])


def test_a_kernel_that_does_not_run_here_is_skipped_and_named(monkeypatch, caplog):
    def broken(rnn_type):
        def kernel(*arguments):
            raise RuntimeError("no such operator")

        return kernel

    monkeypatch.setitem(recurrent.KERNELS, "hoisted", broken)
    assert autotune.choose(MODEL, batch_size=1, dtype=torch.bfloat16, backend=FAST_HALF) == "fused"
    assert "hoisted does not run here and is skipped: no such operator" in caplog.text


def forbid_timing(monkeypatch):
    def measure(*_, **__):
        raise AssertionError("timed again")

    monkeypatch.setattr(autotune, "_measure", measure)


def test_what_was_timed_once_is_remembered_for_this_processor_and_shape(speeds, monkeypatch):
    speeds(fused=1.0, hoisted=0.5)
    assert autotune.choose(MODEL, backend=FAST_HALF, **SHAPE) == "hoisted"
    forbid_timing(monkeypatch)
    assert autotune.choose(MODEL, backend=FAST_HALF, **SHAPE) == "hoisted"
    for other in (
        {"batch_size": 3},
        {"dtype": torch.float16, "backend": attrs.evolve(FAST_HALF, fast_dtype=torch.float16)},
    ):
        with pytest.raises(AssertionError, match="timed again"):
            autotune.choose(MODEL, **({"backend": FAST_HALF} | SHAPE | other))
    with pytest.raises(AssertionError, match="timed again"):
        autotune.choose(attrs.evolve(MODEL, hidden_size=513), backend=FAST_HALF, **SHAPE)
    for variable, module in (("name", autotune.processor), ("capability", autotune.processor)):
        with monkeypatch.context() as other:
            other.setattr(module, variable, lambda: "another")
            with pytest.raises(AssertionError, match="timed again"):
                autotune.choose(MODEL, backend=FAST_HALF, **SHAPE)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with pytest.raises(AssertionError, match="timed again"):
        autotune.choose(MODEL, backend=FAST_HALF, **SHAPE)


DAMAGED = ("", "[]", "{", '{"KEY": 3}', '{"KEY": {"fused": "fast"}}', '{"KEY": {"hoisted": 1.0}}')


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_cache_costs_time_alone(speeds, cache, content):
    speeds(fused=1.0, hoisted=0.5)
    cache.parent.mkdir(parents=True, exist_ok=True)
    key = autotune._key(MODEL, batch_size=2, dtype=torch.bfloat16, backend=FAST_HALF)
    cache.write_text(content.replace("KEY", key))
    assert autotune.choose(MODEL, backend=FAST_HALF, **SHAPE) == "hoisted"
    assert json.loads(cache.read_text())[key] == {"fused": 1.0, "hoisted": 0.5}


def test_a_cache_that_cannot_be_written_costs_time_alone(speeds, monkeypatch, tmp_path):
    speeds(fused=1.0, hoisted=0.5)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/none")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        assert autotune.choose(MODEL, backend=FAST_HALF, **SHAPE) == "hoisted"


def test_a_user_without_a_home_folder_costs_time_alone(speeds, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    speeds(fused=1.0, hoisted=0.5)
    assert autotune.choose(MODEL, backend=FAST_HALF, **SHAPE) == "hoisted"


def test_a_run_too_short_to_repay_the_timing_does_without(speeds, monkeypatch):
    with monkeypatch.context() as patch:
        forbid_timing(patch)
        assert autotune.choose(MODEL, backend=FAST_HALF, steps=99, **SHAPE) == "fused"
    speeds(fused=1.0, hoisted=0.5)
    assert autotune.choose(MODEL, backend=FAST_HALF, steps=100, **SHAPE) == "hoisted"
    assert autotune.choose(MODEL, backend=FAST_HALF, steps=99, **SHAPE) == "hoisted", "the cache knows"


def claimed(run_dir, *, finds, **model):
    cfg = Config(
        model=attrs.evolve(MODEL, **model),
        apex=ApexConfig(opt_level="O0"),
        checkpointing=CheckpointingConfig(load_auto_checkpoint=True),
    )
    cfg = settle(run_dir, cfg)
    cfg = attrs.evolve(cfg, model=attrs.evolve(cfg.model, kernel=cfg.model.kernel.replace("auto", finds)))
    claim(run_dir, cfg, lambda _: "")
    return cfg


def test_a_run_records_its_kernel_and_keeps_it_when_another_would_be_found_later(tmp_path):
    assert claimed(tmp_path, finds="hoisted").model.kernel == "hoisted"
    assert config.load(tmp_path / "config.json").model.kernel == "hoisted"
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert claimed(tmp_path, finds="fused").model.kernel == "hoisted"


def test_a_run_may_go_on_with_recomputation_but_not_as_another_model(tmp_path):
    claimed(tmp_path, finds="fused")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert claimed(tmp_path, finds="fused", remat=True).model.remat
    with pytest.raises(InputError, match=r"model\.hidden_layers was 2 and is 3"):
        claimed(tmp_path, finds="fused", hidden_layers=3)
