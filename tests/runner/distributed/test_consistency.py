"""Settings, data and parameters that all ranks share, and how a difference is named."""

import shutil

import attrs
import pytest
import torch
from threads import in_ranks

from ds2f.config import Config, DataConfig, ModelConfig, OptimConfig
from ds2f.errors import InputError
from ds2f.runner.distributed import consistency
from ds2f.runner.splits import Split, digests


def test_ranks_that_agree_go_on():
    assert in_ranks(3, lambda group: consistency.require(group, {"a": 1}, remedy="")) == [None] * 3


def test_a_difference_is_named_on_every_rank_with_flag_rank_and_both_values():
    def work(group):
        rate = 1e-3 if group.rank == 2 else 1e-4
        cfg = Config(optim=OptimConfig(learning_rate=rate, schedule="constant"), data_path=f"node{group.rank}")
        consistency.require(group, consistency.flags(cfg), remedy="Mend it.")

    errors = in_ranks(4, work)
    assert all(isinstance(error, InputError) for error in errors)
    assert len({str(error) for error in errors}) == 1
    message = str(errors[0])
    assert "rank 2 (" in message
    assert "--optim.learning_rate=0.001" in message
    assert "0.0001" in message
    assert message.endswith("Mend it.")
    assert "data_path" not in message
    assert "rank 1" not in message


@pytest.mark.parametrize(
    "change",
    [
        {"data_path": "elsewhere"},
        {"run_dir": "elsewhere"},
        {"nproc_per_node": 4},
        {"rdzv_timeout": 5.0},
        {"data": DataConfig(num_workers=7, train_manifest="x.csv")},
    ],
)
def test_where_things_lie_may_differ(change):
    assert consistency.flags(attrs.evolve(Config(), **change)) == consistency.flags(Config())


def test_every_setting_that_decides_numbers_is_compared():
    flags = consistency.flags(Config())
    for name in ("--model.hidden_size", "--training.seed", "--data.batch_size", "--apex.opt_level", "--spect.window"):
        assert name in flags


def test_other_transcripts_or_recordings_on_one_rank_are_noticed(tone_corpus, tmp_path):
    other = shutil.copytree(tone_corpus, tmp_path / "other")
    (other / "train4.txt").write_text("ABBA")

    def digest(folder):
        cfg = Config(
            data_path=str(folder),
            data=DataConfig(dataset="tones", batch_size=4, num_workers=0, cache_features=False),
            model=ModelConfig(hidden_size=8, hidden_layers=1),
        )
        splits = {name: Split.read(name, cfg, train=name == "train") for name in ("train", "val")}
        return digests(splits)

    ours, theirs = digest(tone_corpus), digest(other)
    assert ours == digest(shutil.copytree(tone_corpus, tmp_path / "same"))
    assert ours["the val utterances"] == theirs["the val utterances"]
    assert ours["the train utterances"] != theirs["the train utterances"]


def test_parameters_that_part_by_one_bit_are_noticed():
    params = {"output": {"weight": torch.ones(3, 2)}, "conv": {"bias": torch.zeros(5)}}
    assert in_ranks(2, lambda group: consistency.require_same_params(group, params)) == [None, None]

    def work(group):
        weight = params["output"]["weight"].clone()
        weight.view(torch.int32)[1, 1] += group.rank
        consistency.require_same_params(group, {**params, "output": {"weight": weight}})

    for error in in_ranks(2, work):
        assert isinstance(error, RuntimeError)
        assert "rank 1" in str(error)
        assert "output/weight" in str(error)
