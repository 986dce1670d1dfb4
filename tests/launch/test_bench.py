"""Tests of launch.bench and of the imperative program that it measures against."""

import json
import os
import subprocess
import sys
from functools import partial
from itertools import compress
from pathlib import Path

import attrs
import pytest
import torch

from ds2f import optim, precision, steps, tree
from ds2f.config import ApexConfig, Config, ModelConfig, OptimConfig
from ds2f.model import deepspeech2
from ds2f.types import Batch
from launch.imperative import Imperative, Network

ROOT = Path(__file__).parents[2]
SMALL = ("--model.hidden_size=8", "--model.hidden_layers=1", "--batch_size=2", "--device=cpu", "--repeats=3")


def make_batch(cfg: ModelConfig, *, lengths: tuple[int, ...] = (24, 17, 30)) -> Batch:
    generator = torch.Generator().manual_seed(3)
    size = len(lengths)
    return Batch(
        features=torch.randn(size, cfg.num_bins, max(lengths), generator=generator),
        lengths=torch.tensor(lengths),
        labels=torch.randint(1, len(cfg.labels), (size, 4), generator=generator),
        label_lengths=torch.tensor([4, 2, 3]),
        ids=torch.arange(size),
        weight=torch.tensor(1 / size),
    )


def run(*arguments: str, program: tuple[str, ...] = ("-m", "launch.bench")) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("engine", ["func", "autograd"])
@pytest.mark.parametrize(
    ("dtype", "max_norm", "tolerance"),
    [(torch.float32, 400.0, 1e-4), (torch.float32, 0.1, 1e-4), (torch.bfloat16, 400.0, 5e-2)],
    ids=["fp32", "clipped", "bf16"],
)
def test_both_styles_take_the_same_three_steps(
    engine: str, dtype: torch.dtype, max_norm: float, tolerance: float
) -> None:
    model = ModelConfig(hidden_size=8, hidden_layers=2, num_bins=41, dropout=0.1)
    cfg = Config(model=model, optim=OptimConfig(schedule="constant", learning_rate=1e-2, max_norm=max_norm))
    cfg = attrs.evolve(cfg, training=attrs.evolve(cfg.training, engine=engine))
    policy, batch = precision.policy("O2", dtype), make_batch(model)
    tx = optim.from_config(cfg.optim, cfg.optim.learning_rate)
    state = steps.init_state(cfg, tx, key=1)
    start = [leaf.clone() for leaf in tree.leaves(state.params)]
    loss = steps.objective(model, policy=policy)
    network = Network(*tree.map(torch.clone, (state.params, state.stats)), loss=loss)
    imperative = Imperative(network, cfg=cfg, policy=policy)
    step = partial(steps.train_step, loss=loss, tx=tx, cfg=cfg, donate=True)
    for key in range(3):
        state, metrics = step(state, batch, key=key)
        torch.testing.assert_close(metrics.loss, imperative.step(batch, key=key), rtol=tolerance, atol=0)
    assert (float(metrics.grad_norm) > max_norm) == (max_norm < 1), "clips where it is meant to"

    # A bias before batch norm has a true gradient of zero, and Adam makes full steps of what rounding leaves of it.
    noise = ("conv/layers/0/bias", "conv/layers/1/bias")
    paths = [path not in noise for path in tree.flatten_with_paths(state.params)]
    ours, theirs, before = (
        list(compress(leaves, paths)) for leaves in (tree.leaves(state.params), imperative.parameters(), start)
    )
    apart, way = (tree.global_norm(torch._foreach_sub(ours, others)) for others in (theirs, before))
    assert float(apart) <= tolerance * float(way)
    for path, buffer in network.named_buffers():
        if not path.startswith("conv"):
            mine = tree.flatten_with_paths(state.stats)[path]
            torch.testing.assert_close(mine, buffer, rtol=tolerance, atol=tolerance)


def test_the_imperative_step_scales_its_loss_for_fp16_and_skips_what_overflows() -> None:
    model = ModelConfig(hidden_size=4, hidden_layers=1, num_bins=41)
    cfg = Config(model=model, apex=ApexConfig(initial_scale=2.0**60), optim=OptimConfig(schedule="constant"))
    policy, start = precision.policy("O2", torch.float16), deepspeech2.init(model, key=1)
    network = Network(*tree.map(torch.clone, start), loss=steps.objective(model, policy=policy))
    imperative = Imperative(network, cfg=cfg, policy=policy)
    imperative.step(make_batch(model))
    for before, after in zip(tree.leaves(start[0]), imperative.parameters(), strict=True):
        assert torch.equal(before, after)


def test_the_table_and_the_file_hold_every_variant(tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    result = run(*SMALL, "--frames=30", "--apex.opt_level=O0", f"--json={target}")
    assert result.returncode == 0, result.stderr
    found = json.loads(target.read_text())
    assert list(found["variants"]) == ["imperative", "functional, func", "functional, autograd"]
    assert (found["torch"], found["threads"], found["dtype"]) == (torch.__version__, 1, "float32")
    assert found["frames"] == {"longest": 30, "mean": 30.0}
    assert (found["model"]["hidden_size"], found["model"]["hidden_layers"]) == (8, 1)
    reference = found["variants"]["imperative"]
    for name, variant in found["variants"].items():
        assert name in result.stdout
        ratios = [a / b for a, b in zip(variant["milliseconds"], reference["milliseconds"], strict=True)]
        assert sorted(ratios) == pytest.approx(
            [variant["ratio"][which] for which in ("min", "median", "max")], rel=1e-3
        )
        assert variant["median_ms"] == sorted(variant["milliseconds"])[1]
        assert variant["utterances_per_second"] == pytest.approx(2000 / variant["median_ms"], rel=1e-3)
        assert max(variant["parameter_difference"], variant["loss_difference"]) < 1e-5


def test_programs_that_compute_different_things_are_not_compared() -> None:
    program = (
        "from launch import bench, flags, imperative\n"
        "step = imperative.Imperative.step\n"
        "imperative.Imperative.step = lambda self, batch, *, key: 1.1 * step(self, batch, key=key)\n"
        "flags.run(bench.main)\n"
    )
    result = run(*SMALL, "--frames=30", program=("-c", program))
    assert result.returncode != 0
    assert "compute different things" in result.stderr


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    result = run(f"--json={tmp_path}/nowhere/bench.json")
    assert result.returncode == 1
    assert "there is no folder" in result.stderr
    assert "Traceback" not in result.stderr
