"""The training loop on a corpus of tones: what it leaves behind, going on, and what it reports."""

import json
import shutil

import attrs
import pytest
import torch

from ds2f import checkpoint, tree
from ds2f.config import (
    ApexConfig,
    CheckpointingConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainingConfig,
    VisualizationConfig,
    resolve,
)
from ds2f.errors import InputError
from ds2f.runner.telemetry import Telemetry, claim_run_dir
from ds2f.runner.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:os.fork")


def config(data_path, **sections):
    base = Config(
        data_path=str(data_path),
        device="cpu",
        data=DataConfig(dataset="tones", batch_size=4, num_workers=0, cache_features=False),
        model=ModelConfig(hidden_size=8, hidden_layers=1, dropout=0.1),
        optim=OptimConfig(schedule="constant", learning_rate=0.01),
        apex=ApexConfig(opt_level="O0"),
        training=TrainingConfig(epochs=2, log_every=2, evaluate_test=True),
        visualization=VisualizationConfig(tensorboard=False, progress=False),
    )
    return resolve(attrs.evolve(base, **sections))


def claim(run_dir, cfg, **how):
    return claim_run_dir(run_dir, cfg, lambda _: "", **how)


def run(cfg, run_dir):
    cfg = claim(run_dir, cfg)
    with Telemetry(run_dir, cfg) as telemetry:
        return Trainer(cfg, run_dir, telemetry).run()


def test_a_run_leaves_its_results_its_settings_and_its_best_model(tone_corpus, tmp_path):
    cfg = config(tone_corpus)
    results = run(cfg, tmp_path / "run")
    assert results == json.loads((tmp_path / "run/results.json").read_text())
    assert (results["ranks"], results["epochs"], results["steps"], results["skipped_steps"]) == (1, 2, 6, 0)
    assert results["test"]["chars"] == sum(
        len((tone_corpus / f"test{index}.txt").read_text().split()[0]) for index in range(3)
    )
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert kinds.count("epoch") == 2
    assert kinds.count("train") == 4  # every second step and the end of each epoch of three
    loaded, params, _ = checkpoint.load_model(tmp_path / "run")
    assert loaded == attrs.evolve(cfg, data=attrs.evolve(cfg.data, global_batch_size=4))
    assert tree.all_finite(params)
    assert "epoch 2/2" in (tmp_path / "run/log.txt").read_text()


def test_a_run_stopped_in_mid_epoch_and_resumed_ends_with_the_same_bits(tone_corpus, tmp_path):
    cfg = config(tone_corpus)
    run(cfg, tmp_path / "whole")
    run(attrs.evolve(cfg, training=attrs.evolve(cfg.training, max_steps=4)), tmp_path / "halved")
    resumed = attrs.evolve(cfg, checkpointing=CheckpointingConfig(load_auto_checkpoint=True))
    results = run(resumed, tmp_path / "halved")
    assert results["steps"] == 6
    whole, halved = (checkpoint.load_model(tmp_path / name, which="last")[1:] for name in ("whole", "halved"))
    for path, leaf in tree.flatten_with_paths(whole).items():
        assert torch.equal(leaf, tree.flatten_with_paths(halved)[path]), path


def test_a_folder_that_holds_a_run_is_not_written_over(tone_corpus, tmp_path):
    cfg = config(tone_corpus)
    claim(tmp_path, cfg)
    claim(tmp_path, cfg)  # nothing was trained yet
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(InputError, match="load_auto_checkpoint"):
        claim(tmp_path, attrs.evolve(cfg, device="auto"))
    other = attrs.evolve(
        cfg,
        model=attrs.evolve(cfg.model, hidden_size=9),
        checkpointing=CheckpointingConfig(load_auto_checkpoint=True),
    )
    with pytest.raises(InputError, match=r"model\.hidden_size"):
        claim(tmp_path, other)
    assert (tmp_path / "config.json").read_bytes() == before


def test_an_utterance_too_short_for_its_transcript_is_left_out_and_named(tone_corpus, tmp_path):
    data = shutil.copytree(tone_corpus, tmp_path / "data")
    (data / "train3.txt").write_text("ABC" * 30)
    cfg = config(data)
    results = run(cfg, tmp_path / "run")
    log = (tmp_path / "run/log.txt").read_text()
    assert log.count("left out of the loss, too short for the transcript") == 1
    assert "train3.wav" in log
    assert results["skipped_steps"] == 0


def test_a_step_with_nan_is_skipped_and_its_utterance_named(tone_corpus, tmp_path, monkeypatch):
    cfg = config(tone_corpus)
    claim(tmp_path / "run", cfg)
    with Telemetry(tmp_path / "run", cfg) as telemetry:
        trainer = Trainer(cfg, tmp_path / "run", telemetry)
        loader = trainer._data["train"].loader
        load = loader.epoch

        def poisoned(epoch, *, start=0):
            for index, batch in enumerate(load(epoch, start=start)):
                if epoch == 0 and index == 1:
                    batch.features[2, 5, 5] = float("nan")
                    poisoned.row = int(batch.ids[2])
                yield batch

        monkeypatch.setattr(loader, "epoch", poisoned)
        results = trainer.run()
    assert (results["skipped_steps"], results["steps"]) == (1, 5)
    line = next(line for line in (tmp_path / "run/log.txt").read_text().splitlines() if "skipped" in line)
    assert f"train{poisoned.row}.wav" in line


def test_a_global_batch_above_what_a_card_takes_comes_in_micro_batches(tone_corpus, tmp_path):
    base = config(tone_corpus)
    results = run(attrs.evolve(base, data=attrs.evolve(base.data, global_batch_size=8)), tmp_path / "run")
    assert (results["batch_size"], results["ranks"], results["steps"]) == (8, 1, 4)
    assert "2 steps of 8 an epoch in 2 shares" in (tmp_path / "run/log.txt").read_text()


def test_the_global_batch_of_a_run_is_kept_when_it_goes_on_with_fewer_ranks(tone_corpus, tmp_path):
    cfg = config(tone_corpus)
    assert claim(tmp_path, cfg, ranks=8).data.global_batch_size == 32
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    going_on = attrs.evolve(cfg, checkpointing=CheckpointingConfig(load_auto_checkpoint=True))
    assert claim(tmp_path, going_on, ranks=2).data.global_batch_size == 32
    other = attrs.evolve(going_on, data=attrs.evolve(cfg.data, global_batch_size=16))
    with pytest.raises(InputError, match="global batch is 32"):
        claim(tmp_path, other, ranks=2)


def test_a_job_knows_the_folder_that_it_wrote_before(tone_corpus, tmp_path):
    cfg = config(tone_corpus)
    assert not claim(tmp_path, cfg, job="night").checkpointing.load_auto_checkpoint
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert claim(tmp_path, cfg, job="night").checkpointing.load_auto_checkpoint
    assert claim(tmp_path, cfg, restarted=True).checkpointing.load_auto_checkpoint
    for job in ("day", ""):
        with pytest.raises(InputError, match="already holds a run"):
            claim(tmp_path, cfg, job=job)


def test_starting_from_another_runs_weights(tone_corpus, tmp_path):
    cfg = config(tone_corpus, training=TrainingConfig(epochs=1))
    run(cfg, tmp_path / "first")
    with_weights = attrs.evolve(cfg, checkpointing=CheckpointingConfig(continue_from=str(tmp_path / "first")))
    claim(tmp_path / "second", with_weights)
    with Telemetry(tmp_path / "second", cfg) as telemetry:
        started = Trainer(with_weights, tmp_path / "second", telemetry)
        _, params, _ = checkpoint.load_model(tmp_path / "first")
        assert torch.equal(started._state.params["output"]["weight"], params["output"]["weight"])
        wider = attrs.evolve(with_weights, model=attrs.evolve(cfg.model, hidden_size=9))
        with pytest.raises(InputError, match="another model"):
            Trainer(wider, tmp_path / "second", telemetry)
