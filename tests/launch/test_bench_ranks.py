"""Tests of the part ranks of launch.bench: several ranks on one machine beside one process."""

import pytest
import torch
from rich.console import Console

from ds2f.config import Config, DataConfig, ModelConfig, OptimConfig
from launch.bench import ranks
from launch.bench.options import Options
from launch.bench.ranks import Phases
from launch.synthetic_batches import make_batch

CFG = Config(
    device="cpu",
    nproc_per_node=2,
    model=ModelConfig(hidden_size=8, hidden_layers=1),
    data=DataConfig(batch_size=2),
    optim=OptimConfig(schedule="constant", learning_rate=1e-3),
)


@pytest.mark.alone
def test_ranks_take_the_step_of_one_process_and_its_phases_are_timed_apart() -> None:
    result = ranks.measure(CFG, Options(rounds=1, warmup=1))
    assert (result["ranks"], result["rounds"], result["preset"], result["batch_size"]) == (2, 1, "1x8", 2)
    seconds = result["seconds"]
    for found in seconds.values():
        assert min(found.values()) >= 0
        assert found["whole"] == pytest.approx(found["compute"] + found["sums"] + found["update"])
        assert found["compute"] > found["update"] > 0
    assert seconds["one"]["sums"] == 0 < seconds["ranks"]["sums"]
    one, together = seconds["one"], seconds["ranks"]
    assert result["compared"]["median"] == pytest.approx(
        (together["compute"] + one["update"]) / (one["compute"] + one["update"])
    )
    assert result["whole"]["median"] == pytest.approx(seconds["overlapped"]["whole"] / one["whole"])
    console = Console(width=100)
    with console.capture() as capture:
        ranks.show([result], console)
    text = capture.get()
    assert f"{together['sums']:.3f}" in text
    assert f"{result['compared']['median']:.3f} times" in text


def test_the_comparison_leaves_out_all_reduces_and_all_updates_but_one() -> None:
    taken = {
        "ranks": [Phases(11.0, 7.0, 8.0, 20.0, 1.0)],
        "overlapped": [Phases(12.0, 5.0, 7.0, 20.0, 1.0)],
        "one": [Phases(10.0, 0.0, 2.0, 22.0, 1.0)],
    }
    result = ranks.summary(taken)
    assert result["compared"]["median"] == pytest.approx(13 / 12)
    assert result["whole"]["median"] == pytest.approx(2)
    assert result["processors_ratio"]["median"] == pytest.approx(20 / 22)


def test_ranks_with_another_gradient_are_refused() -> None:
    alike = {"ranks": Phases(1, 1, 1, 1, 2.0), "one": Phases(1, 0, 1, 1, 2.0001)}
    ranks._require_agreement(alike)
    for norm in (2.1, float("nan")):
        with pytest.raises(RuntimeError, match="gradient has norm"):
            ranks._require_agreement(alike | {"ranks": Phases(1, 1, 1, 1, norm)})


def test_the_shards_are_the_global_batch() -> None:
    lengths = [90, 80, 70, 60, 50]
    shards = ranks._shards(CFG, lengths, 2)
    assert [shard.lengths.tolist() for shard in shards] == [[90, 70, 50], [80, 60]]
    assert all(float(shard.weight) == pytest.approx(1 / 5) for shard in shards)
    assert torch.equal(shards[0].features, make_batch(CFG, [90, 70, 50], key=0).features)
