"""Tests of a run's first lines."""

from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import torch

from ds2f.config import Config, ModelConfig, OptimConfig
from ds2f.runner import program
from ds2f.runner.device.backend import Backend
from ds2f.runner.summary import Summary

FUSED = ModelConfig(kernel="fused")  # so that no kernels are timed


def greeting(fast_dtype, requested, schedule="constant"):
    cfg = Config(optim=OptimConfig(schedule=schedule))
    cfg = attrs.evolve(cfg, apex=attrs.evolve(cfg.apex, opt_level="O2", dtype=requested))
    backend = Backend("cpu", torch.device("cpu"), "CPU (some)", fast_dtype)
    train = SimpleNamespace(dataset=SimpleNamespace(examples=[None] * 60), seconds=120.0, manifest="mine.csv")
    summary = Summary(program.build(attrs.evolve(cfg, model=FUSED), backend), Path("runs/mine"))
    return summary.greeting({"train": train}, parameters=1_400_000, steps=3)


@pytest.mark.parametrize(
    ("fast_dtype", "requested"),
    [(torch.bfloat16, "auto"), (torch.bfloat16, "bf16"), (torch.float32, "auto"), (torch.float16, "bf16")],
)
def test_what_is_trained_and_on_what_takes_three_lines(fast_dtype, requested):
    first, second, third = greeting(fast_dtype, requested)
    assert first.startswith("runs/mine: 5 x 1024 bidirectional lstm, 1.4 M parameters, O2 ")
    assert "60 utterances (2 min)" in second
    assert "3 steps of" in second
    assert third == "manifests: train mine.csv"


def test_a_run_that_ends_before_the_peak_of_the_learning_rate_is_told_of_with_figures():
    *_, last = greeting(torch.float32, "auto", schedule="noam")
    assert last.startswith("optim.schedule=noam warms up for 4,000 steps, and the run has 210: ")
    assert "5.2 % of its peak" in last
    assert "--optim.warmup=0.1" in last


@pytest.mark.parametrize("requested", ["bf16", "fp16"])
def test_half_precision_where_it_is_slow_is_told_of_with_the_way_out(requested):
    *_, last = greeting(torch.float32, requested)
    assert last.startswith(f"{requested} is slower than fp32 on this processor")
    assert "--apex.dtype=auto" in last
