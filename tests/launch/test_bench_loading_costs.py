"""Tests of the part scale's costs of loading."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from ds2f.config import Config, DataConfig, ModelConfig
from ds2f.runner.splits import Split
from launch.bench import corpus_scale, loading_costs

FOUND = {
    "seconds": 9.0,
    "loader": {"recording: open, decode": 0.001, "spectrogram": 0.003},
    "rank": {"plan of the epoch": 1e-6, "batch: receive, give back": 4e-6},
    "memory": [{"rank": 300_000_000, "loaders": 100_000_000}] * 4,
}


def test_the_verdict_is_the_cost_of_an_utterance_times_the_rate() -> None:
    assert loading_costs.verdict(FOUND) == pytest.approx((12.0, 0.015))
    console = Console(width=200)
    with console.capture() as capture:
        loading_costs.show(FOUND, console)
    shown = " ".join(capture.get().split())
    assert "12.0 loader cores" in shown
    assert "1.50 % of the rank's time" in shown
    assert "3,000 times real time" in shown


def test_stages_of_a_small_corpus_are_measured_and_memory_is_looked_at_four_times(tmp_path: Path) -> None:
    corpus_scale.draw(tmp_path, 60)
    data = DataConfig(train_manifest=str(tmp_path / "train.jsonl"), cache_features=False, batch_size=6, num_workers=1)
    cfg = Config(data_path=str(tmp_path), data=data, model=ModelConfig(hidden_size=4))
    loader = Split.read("train", cfg, train=True).load(cfg)
    try:
        found = loading_costs.measure(loader, batch_size=6, epoch=1)
    finally:
        loader.close()
    assert 1 < found["seconds"] < 17
    assert all(seconds > 0 for place in ("loader", "rank") for seconds in found[place].values())
    assert found["loader"]["spectrogram"] > found["loader"]["manifest row"]
    assert sum(found["loader"].values()) > 10 * sum(found["rank"].values())
    assert len(found["memory"]) == 4
    assert all(each["rank"] > 10_000_000 for each in found["memory"])
    assert loading_costs.proportional("self") == pytest.approx(loading_costs.proportional(os.getpid()), rel=0.05)
