"""Tests of the training loop on a corpus of tones: files of a run, continuing a run, messages."""

import errno
import itertools
import json
import os
import shutil
import signal

import attrs
import pytest
import torch
from etils import epath
from killing import differences, last_checkpoint, metrics
from training import claim_run, open_trainer, run_training

from ds2f import checkpoint, ctc, tree
from ds2f.checkpoint import integrity
from ds2f.config import (
    ApexConfig,
    AugmentationConfig,
    CheckpointingConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    SpectConfig,
    TrainingConfig,
    VisualizationConfig,
    resolve,
)
from ds2f.errors import InputError
from ds2f.runner import health
from ds2f.runner.device.backend import open_backend
from ds2f.runner.distributed import consistency
from ds2f.runner.distributed.signals import Stopped
from ds2f.runner.evaluator import evaluate
from ds2f.runner.splits import Split
from ds2f.runner.stops import StopRequested
from ds2f.runner.telemetry import Telemetry
from ds2f.steps import Objective
from ds2f.types import Averages
from launch import flags


def opened(cfg, run_dir):
    """Claims the folder and returns a trainer for it."""
    return open_trainer(claim_run(run_dir, cfg), run_dir)


pytestmark = pytest.mark.filterwarnings("ignore:os.fork")


def config(data_path, **sections):
    base = Config(
        data_path=str(data_path),
        device="cpu",
        data=DataConfig(dataset="tones", batch_size=4, num_workers=0, cache_features=False),
        spect=SpectConfig(num_mels=16),  # a tenth of the convolutions' work
        model=ModelConfig(hidden_size=8, hidden_layers=1, dropout=0.1),
        optim=OptimConfig(schedule="constant", learning_rate=0.01),
        apex=ApexConfig(opt_level="O0"),
        training=TrainingConfig(epochs=2, log_every=2, evaluate_test=True),
        visualization=VisualizationConfig(tensorboard=False, progress=False),
    )
    return resolve(attrs.evolve(base, **sections))


def test_a_run_leaves_its_results_its_settings_and_its_best_model(tone_corpus, tmp_path):
    cfg = config(tone_corpus)
    results = run_training(cfg, tmp_path / "run")
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


def add_wall_seconds(folder, seconds):
    """Adds to the wall-clock time that a checkpoint stores with its validation."""
    path = epath.Path(folder)
    values = integrity.added(path)
    position = values["position"]
    assert 0 < position["wall_seconds"] < 100
    position = position | {"wall_seconds": position["wall_seconds"] + seconds}
    integrity.add(path, values | {"position": position})


def test_a_run_stopped_in_mid_epoch_and_resumed_ends_with_the_same_bits(tone_corpus, tmp_path):
    cfg = config(tone_corpus)
    run_training(cfg, tmp_path / "whole")
    run_training(attrs.evolve(cfg, training=attrs.evolve(cfg.training, max_steps=4)), tmp_path / "halved")
    add_wall_seconds(tmp_path / "halved/checkpoints/4", 1000)
    resumed = attrs.evolve(cfg, checkpointing=CheckpointingConfig(load_auto_checkpoint=True))
    results = run_training(resumed, tmp_path / "halved")
    assert results["steps"] == 6
    assert 1000 < results["wall_seconds"] < 2000
    whole, halved = (checkpoint.load_model(tmp_path / name, which="last")[1:] for name in ("whole", "halved"))
    for path, leaf in tree.flatten_with_names(whole).items():
        assert torch.equal(leaf, tree.flatten_with_names(halved)[path]), path


AVERAGED = OptimConfig(schedule="constant", learning_rate=0.01, average_decay=0.9)


def test_an_averaged_run_of_two_views_stopped_in_mid_epoch_and_resumed_ends_with_the_same_state(tone_corpus, tmp_path):
    two_views = ModelConfig(hidden_size=8, hidden_layers=1, dropout=0.1, consistency=0.2)
    masks = AugmentationConfig(frequency_masks=2, time_masks=2)
    cfg = config(tone_corpus, optim=AVERAGED, model=two_views, augmentation=masks)
    whole = opened(cfg, tmp_path / "whole")
    whole.run()
    run_training(attrs.evolve(cfg, training=attrs.evolve(cfg.training, max_steps=4)), tmp_path / "halved")
    resumed = attrs.evolve(cfg, checkpointing=CheckpointingConfig(load_auto_checkpoint=True))
    halved = opened(resumed, tmp_path / "halved")
    halved.run()
    states = [tree.flatten_with_names(trainer._state) for trainer in (whole, halved)]
    assert any(path.startswith("average/stats/") for path in states[0])
    for path, leaf in states[0].items():
        assert torch.equal(leaf, states[1][path]), path
    unmasked = opened(attrs.evolve(cfg, augmentation=AugmentationConfig()), tmp_path / "unmasked")
    unmasked.run()
    assert not torch.equal(unmasked._state.params["output"]["weight"], whole._state.params["output"]["weight"])


def validation_loss(cfg, model):
    split = Split.read("val", cfg)
    backend = open_backend("cpu")
    batches, policy = split.load(cfg).epoch(), backend.policy(cfg.apex)
    return evaluate(
        *model, batches, split.references, cfg=cfg.model, policy=policy, backend=backend, criterion=ctc.native
    ).loss


def test_the_average_is_validated_stored_and_loaded(tone_corpus, tmp_path):
    cfg = config(tone_corpus, optim=AVERAGED, training=TrainingConfig(epochs=1))
    trainer = opened(cfg, tmp_path / "run")
    trainer.run()
    state = trainer._state
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    (found,) = [line["val_loss"] for line in lines if line["kind"] == "epoch"]
    assert found == pytest.approx(validation_loss(cfg, state.average))
    assert abs(found - validation_loss(cfg, (state.params, state.stats))) > 0.01
    for which in ("best", "last", 3):
        _, *model = checkpoint.load_model(tmp_path / "run", which=which)
        for path, leaf in tree.flatten_with_names(state.average).items():
            assert torch.equal(leaf, tree.flatten_with_names(Averages(*model))[path]), path


def test_ranks_compare_their_averages_too(tone_corpus, tmp_path, monkeypatch):
    compared = []
    monkeypatch.setattr(consistency, "require_same_params", lambda group, params: compared.append(params))
    trainer = opened(config(tone_corpus, optim=AVERAGED), tmp_path / "run")
    trainer.run()
    ours = {leaf.data_ptr() for leaf in tree.leaves((trainer._state.params, trainer._state.average))}
    assert {leaf.data_ptr() for leaf in tree.leaves(compared[-1])} == ours


def test_averages_of_a_run_that_starts_from_another_start_at_its_weights(tone_corpus, tmp_path):
    run_training(config(tone_corpus, training=TrainingConfig(epochs=1)), tmp_path / "first")
    start = CheckpointingConfig(continue_from=str(tmp_path / "first"))
    trainer = opened(config(tone_corpus, optim=AVERAGED, checkpointing=start), tmp_path / "second")
    _, *weights = checkpoint.load_model(tmp_path / "first")
    for held in ((trainer._state.params, trainer._state.stats), trainer._state.model):
        for path, leaf in tree.flatten_with_names(tuple(weights)).items():
            assert torch.equal(leaf, tree.flatten_with_names(held)[path]), path


def test_a_folder_that_holds_a_run_is_not_written_over(tone_corpus, tmp_path):
    cfg = config(tone_corpus)
    claim_run(tmp_path, cfg)
    claim_run(tmp_path, cfg)  # nothing was trained yet
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(InputError, match="load_auto_checkpoint"):
        claim_run(tmp_path, attrs.evolve(cfg, device="auto"))
    other = attrs.evolve(
        cfg,
        model=attrs.evolve(cfg.model, hidden_size=9),
        checkpointing=CheckpointingConfig(load_auto_checkpoint=True),
    )
    with pytest.raises(InputError, match=r"model\.hidden_size"):
        claim_run(tmp_path, other)
    assert (tmp_path / "config.json").read_bytes() == before


def test_an_utterance_too_short_for_its_transcript_is_excluded_and_named(tone_corpus, tmp_path):
    data = shutil.copytree(tone_corpus, tmp_path / "data")
    (data / "train3.txt").write_text("ABC" * 30)
    cfg = config(data)
    results = run_training(cfg, tmp_path / "run")
    log = (tmp_path / "run/log.txt").read_text()
    assert log.count("excluded from the loss, too short for the transcript") == 1
    assert "train3.wav" in log
    assert results["skipped_steps"] == 0


def test_a_step_with_nan_is_skipped_and_its_utterance_named(tone_corpus, tmp_path, monkeypatch):
    cfg = config(tone_corpus)
    claim_run(tmp_path / "run", cfg)
    with Telemetry(tmp_path / "run", cfg) as telemetry:
        trainer = open_trainer(cfg, tmp_path / "run", telemetry)
        loader = trainer._loaders["train"]
        load = loader.epoch

        def poisoned(epoch, *, start=0, **_):
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


class NanGradient(torch.autograd.Function):
    """The identity with a NaN gradient."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, cotangent):
        return torch.full_like(cotangent, float("nan"))


def test_a_step_whose_gradient_alone_is_nan_is_skipped_and_its_batch_named(tone_corpus, tmp_path):
    trainer = opened(config(tone_corpus), tmp_path / "run")
    plain, calls = trainer._program.loss, iter(range(100))

    def stages(stats, batch, *, key=None):
        *chain, losses = plain.stages(stats, batch, key=key)
        if next(calls) != 1:
            return [*chain, losses]
        return [*chain, losses._replace(fn=lambda params, x: losses.fn(params, NanGradient.apply(x)))]

    trainer._program = attrs.evolve(trainer._program, loss=Objective(stages))
    results = trainer.run()
    assert (results["skipped_steps"], results["steps"]) == (1, 5)
    line = next(line for line in log_of(tmp_path / "run").splitlines() if "skipped" in line)
    assert "the losses are finite" in line
    assert line.count(".wav") == 4
    assert tree.all_finite(trainer._state.params)


def test_a_global_batch_above_the_limit_of_a_device_comes_in_micro_batches(tone_corpus, tmp_path):
    base = config(tone_corpus)
    results = run_training(attrs.evolve(base, data=attrs.evolve(base.data, global_batch_size=8)), tmp_path / "run")
    assert (results["batch_size"], results["ranks"], results["steps"]) == (8, 1, 4)
    assert "2 steps of 8 per epoch in 2 shards" in (tmp_path / "run/log.txt").read_text()


def test_the_global_batch_of_a_run_is_kept_when_it_goes_on_with_fewer_ranks(tone_corpus, tmp_path):
    cfg = config(tone_corpus)
    assert claim_run(tmp_path, cfg, ranks=8).data.global_batch_size == 32
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    going_on = attrs.evolve(cfg, checkpointing=CheckpointingConfig(load_auto_checkpoint=True))
    assert claim_run(tmp_path, going_on, ranks=2).data.global_batch_size == 32
    other = attrs.evolve(going_on, data=attrs.evolve(cfg.data, global_batch_size=16))
    with pytest.raises(InputError, match="global batch is 32"):
        claim_run(tmp_path, other, ranks=2)


def test_a_run_that_never_began_decides_nothing_for_the_next(tone_corpus, tmp_path):
    cfg = config(tone_corpus, checkpointing=CheckpointingConfig(load_auto_checkpoint=True))
    assert claim_run(tmp_path, cfg, ranks=8).data.global_batch_size == 32
    assert claim_run(tmp_path, cfg, ranks=2).data.global_batch_size == 8
    assert claim_run(tmp_path, cfg, ranks=1, restarted=True).data.global_batch_size == 8, "a machine has left the job"


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("spect", "window", "hann"), ("training", "seed", 7), ("checkpointing", "folder", "elsewhere")],
)
def test_the_data_and_seed_of_a_run_cannot_change_in_the_middle(tone_corpus, tmp_path, section, name, value):
    cfg = config(tone_corpus, checkpointing=CheckpointingConfig(load_auto_checkpoint=True))
    claim_run(tmp_path, cfg)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    other = attrs.evolve(cfg, **{section: attrs.evolve(getattr(cfg, section), **{name: value})})
    with pytest.raises(InputError, match=rf"{section}\.{name} = .* cannot become \S*{value}'? in the middle"):
        claim_run(tmp_path, other)
    assert claim_run(tmp_path, cfg).spect == cfg.spect


def test_flags_that_change_in_the_middle_are_logged(tone_corpus, tmp_path):
    logged: list[str] = []

    def begin(cfg):
        claim_run(tmp_path, cfg, flags_text=flags.flagfile_text, log=logged.append)

    begin(config(tone_corpus))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    on = CheckpointingConfig(load_auto_checkpoint=True)
    begin(config(tone_corpus, checkpointing=on))
    assert logged == []
    begin(config(tone_corpus, checkpointing=on, training=TrainingConfig(epochs=9, log_every=2, evaluate_test=True)))
    assert logged == [f"{tmp_path} goes on with other flags than before: --training.epochs=9 (was 2)"]


def test_a_continued_run_takes_the_static_loss_scale_of_the_flag(tone_corpus, tmp_path):
    scale = {"opt_level": "O0", "loss_scale": "8"}
    run_training(config(tone_corpus, apex=ApexConfig(**scale)), tmp_path / "run")
    more = TrainingConfig(epochs=3, log_every=2)
    on = CheckpointingConfig(load_auto_checkpoint=True)
    run_training(
        config(tone_corpus, apex=ApexConfig(**scale | {"loss_scale": "4"}), training=more, checkpointing=on),
        tmp_path / "run",
    )
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    scales = {line["iteration"]: line["loss_scale"] for line in lines if line["kind"] == "train"}
    assert (scales[6], scales[9]) == (8, 4)


def test_a_run_that_could_write_no_checkpoint_still_has_results(tone_corpus, tmp_path, monkeypatch):
    def refuse(folder, size):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr("ds2f.checkpoint.storage.require_free", refuse)
    cfg = config(tone_corpus, training=TrainingConfig(epochs=1, evaluate_test=True))
    results = run_training(cfg, tmp_path / "run")
    log = log_of(tmp_path / "run")
    assert "checkpoint 3 was not written: No space left on device" in log
    assert "the results are those of the last step's weights" in log
    monkeypatch.undo()
    assert results == run_training(cfg, tmp_path / "other") | {
        name: results[name] for name in results if "seconds" in name or "per_second" in name or name == "name"
    }


def test_a_job_knows_the_folder_that_it_wrote_before(tone_corpus, tmp_path):
    cfg = config(tone_corpus)
    assert not claim_run(tmp_path, cfg, job="night").checkpointing.load_auto_checkpoint
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert claim_run(tmp_path, cfg, job="night").checkpointing.load_auto_checkpoint
    assert claim_run(tmp_path, cfg, restarted=True).checkpointing.load_auto_checkpoint
    for job in ("day", ""):
        with pytest.raises(InputError, match="already holds a run"):
            claim_run(tmp_path, cfg, job=job)


def test_starting_from_another_runs_weights(tone_corpus, tmp_path):
    cfg = config(tone_corpus, training=TrainingConfig(epochs=1))
    run_training(cfg, tmp_path / "first")
    with_weights = attrs.evolve(cfg, checkpointing=CheckpointingConfig(continue_from=str(tmp_path / "first")))
    claim_run(tmp_path / "second", with_weights)
    with Telemetry(tmp_path / "second", cfg) as telemetry:
        started = open_trainer(with_weights, tmp_path / "second", telemetry)
        _, params, _ = checkpoint.load_model(tmp_path / "first")
        assert torch.equal(started._state.params["output"]["weight"], params["output"]["weight"])
        wider = attrs.evolve(with_weights, model=attrs.evolve(cfg.model, hidden_size=9))
        with pytest.raises(InputError, match=r"model\.hidden_size is 9 and was 8"):
            open_trainer(wider, tmp_path / "second", telemetry)
        louder = attrs.evolve(with_weights, spect=attrs.evolve(cfg.spect, full_scale=1000.0))
        with pytest.raises(InputError, match=r"other spectrograms: give --spect\.full_scale=1\.0 as well"):
            open_trainer(louder, tmp_path / "second", telemetry)


def test_finetuning_takes_other_labels_and_says_which_are_new(tone_corpus, tmp_path):
    cfg = config(tone_corpus, training=TrainingConfig(epochs=1))
    run_training(cfg, tmp_path / "first")
    _, params, _ = checkpoint.load_model(tmp_path / "first")
    labels = ("_", "A", "B", "C", "Z", "!")
    other = attrs.evolve(
        cfg,
        model=attrs.evolve(cfg.model, labels=labels),
        checkpointing=CheckpointingConfig(continue_from=str(tmp_path / "first")),
    )
    with pytest.raises(InputError, match=r"--training\.finetune"):
        opened(other, tmp_path / "second")
    tuned = attrs.evolve(other, training=TrainingConfig(epochs=1, finetune=True))
    trainer = opened(tuned, tmp_path / "second")
    assert "the output layer is new for '!'" in log_of(tmp_path / "second")
    weight = trainer._state.params["output"]["weight"]
    assert torch.equal(weight[1], params["output"]["weight"][cfg.model.labels.index("A")])
    assert torch.equal(trainer._state.params["rnn_0"]["forward"]["w_hh"], params["rnn_0"]["forward"]["w_hh"])
    assert trainer.run()["steps"] == 3


def test_finetuning_makes_a_streaming_model_of_a_bidirectional_one(tone_corpus, tmp_path):
    cfg = config(tone_corpus, training=TrainingConfig(epochs=1))
    run_training(cfg, tmp_path / "first")
    _, params, _ = checkpoint.load_model(tmp_path / "first")
    streaming = attrs.evolve(
        cfg,
        model=attrs.evolve(cfg.model, bidirectional=False, lookahead_context=4),
        spect=attrs.evolve(cfg.spect, normalize="bins"),
        checkpointing=CheckpointingConfig(continue_from=str(tmp_path / "first")),
    )
    with pytest.raises(InputError, match=r"give --spect\.normalize=utterance as well, or --training\.finetune"):
        opened(streaming, tmp_path / "second")
    trainer = opened(attrs.evolve(streaming, training=TrainingConfig(epochs=1, finetune=True)), tmp_path / "second")
    ours = trainer._state.params
    assert torch.equal(ours["rnn_0"]["forward"]["w_hh"], params["rnn_0"]["forward"]["w_hh"])
    assert "backward" not in ours["rnn_0"]
    assert trainer.run()["steps"] == 3


def test_recordings_that_vanish_while_training_are_excluded_and_listed_at_the_end(tone_corpus, tmp_path):
    data = shutil.copytree(tone_corpus, tmp_path / "data")
    trainer = opened(config(data), tmp_path / "run")
    (data / "train2.wav").unlink()
    results = trainer.run()
    assert (results["steps"], results["skipped_steps"]) == (6, 0)
    log = log_of(tmp_path / "run")
    assert "1 recording excluded, could not be read" in log
    assert "train2.wav" in log.rpartition("could not be read")[2]


def log_of(run_dir):
    return (run_dir / "log.txt").read_text()


def test_a_loss_that_jumps_turns_the_run_back_to_the_newest_checkpoint_and_on_with_the_data(
    tone_corpus, tmp_path, monkeypatch
):
    cfg = config(
        tone_corpus,
        training=TrainingConfig(epochs=2, log_every=1, rollback_spike=3.0),
        checkpointing=CheckpointingConfig(checkpoint_per_iteration=1),
    )
    trainer = opened(cfg, tmp_path / "run")
    spikes = iter([False, True])
    monkeypatch.setattr(health, "spiked", lambda *_: next(spikes, False))
    results = trainer.run()
    assert "back to the state of checkpoint 1" in log_of(tmp_path / "run")
    assert results["steps"] == 5  # one of six was undone
    assert results["epochs"] == 2


def test_a_run_without_a_finite_gradient_stops_with_a_diagnosis_and_keeps_its_checkpoint(tone_corpus, tmp_path):
    cfg = config(tone_corpus, training=TrainingConfig(epochs=9, log_every=1, max_skipped_steps=2))
    trainer = opened(cfg, tmp_path / "run")
    loader = trainer._loaders["train"]
    load = loader.epoch

    def poisoned(epoch, *, start=0, **_):
        for batch in load(epoch, start=start):
            if epoch > 0:
                batch.features[:, 5, 5] = float("nan")
            yield batch

    loader.epoch = poisoned
    with pytest.raises(InputError, match="last 2 steps had no finite gradient"):
        trainer.run()
    trainer._checkpoints.close()
    assert tree.all_finite(checkpoint.load_model(tmp_path / "run", which="last")[1])


def test_a_request_during_validation_keeps_the_epoch_that_is_done(tone_corpus, tmp_path):
    cfg = config(tone_corpus)
    run_training(cfg, tmp_path / "whole")
    trainer = opened(cfg, tmp_path / "halved")
    loader = trainer._loaders["val"]
    load = loader.epoch

    def interrupted(*arguments, **settings):
        for batch in load(*arguments, **settings):
            os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    loader.epoch = interrupted
    with pytest.raises(Stopped) as stopped:
        trainer.run()
    assert stopped.value.status == 143
    resumed = attrs.evolve(cfg, checkpointing=CheckpointingConfig(load_auto_checkpoint=True))
    results = run_training(resumed, tmp_path / "halved")
    assert results["steps"] == 6
    assert log_of(tmp_path / "halved").count("epoch 1/2") == 1
    assert_same_end(tmp_path / "whole", tmp_path / "halved")


def test_a_step_that_is_done_has_its_line_wherever_the_wait_after_it_ends(tone_corpus, tmp_path, monkeypatch):
    cfg = config(tone_corpus, training=TrainingConfig(epochs=2, log_every=1, evaluate_test=True))
    run_training(cfg, tmp_path / "whole")
    trainer = opened(cfg, tmp_path / "halved")
    votes, vote = itertools.count(1), trainer._stops.vote

    def wait_in_vain(*counts):
        if next(votes) == 2:
            raise StopRequested(agreed=False)
        return vote(*counts)

    monkeypatch.setattr(trainer._stops, "vote", wait_in_vain)
    with pytest.raises(Stopped):
        trainer.run()
    steps = [line["iteration"] for line in metrics(tmp_path / "halved")]
    assert steps == [1, 2]
    assert last_checkpoint(tmp_path / "halved")[1]["iteration"] == 2
    resumed = attrs.evolve(cfg, checkpointing=CheckpointingConfig(load_auto_checkpoint=True))
    run_training(resumed, tmp_path / "halved")
    assert differences(tmp_path / "whole", tmp_path / "halved") == []


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_error_in_the_validation_costs_nothing(tone_corpus, tmp_path, epoch):
    cfg = config(tone_corpus)
    run_training(cfg, tmp_path / "whole")
    trainer = opened(cfg, tmp_path / "halved")
    loader = trainer._loaders["val"]
    load, calls = loader.epoch, itertools.count()

    def fail(*arguments, **settings):
        if next(calls) == epoch:
            raise InputError("val0.wav cannot be read")
        return load(*arguments, **settings)

    loader.epoch = fail
    with pytest.raises(InputError, match="cannot be read"):
        trainer.run()
    trainer._checkpoints.close()
    newest = checkpoint.Checkpoints(tmp_path / "halved", read_only=True)
    assert newest.find("last") == 3 * (epoch + 1)
    newest.close()
    resumed = attrs.evolve(cfg, checkpointing=CheckpointingConfig(load_auto_checkpoint=True))
    run_training(resumed, tmp_path / "halved")
    assert differences(tmp_path / "whole", tmp_path / "halved") == []


@pytest.mark.parametrize("evaluation", [1, 2])  # the last validation, the best model's
def test_a_run_stopped_by_max_steps_in_its_last_validation_validates_when_it_goes_on(tone_corpus, tmp_path, evaluation):
    cfg = config(tone_corpus, training=TrainingConfig(epochs=2, max_steps=4, log_every=2, evaluate_test=True))
    run_training(cfg, tmp_path / "whole")
    trainer = opened(cfg, tmp_path / "halved")
    loader = trainer._loaders["val"]
    load, calls = loader.epoch, itertools.count()

    def interrupted(*arguments, **settings):
        if next(calls) == evaluation:
            os.kill(os.getpid(), signal.SIGTERM)
        yield from load(*arguments, **settings)

    loader.epoch = interrupted
    with pytest.raises(Stopped):
        trainer.run()
    resumed = attrs.evolve(cfg, checkpointing=CheckpointingConfig(load_auto_checkpoint=True))
    run_training(resumed, tmp_path / "halved")
    assert differences(tmp_path / "whole", tmp_path / "halved") == []


def assert_same_end(first, second):
    ends = [checkpoint.load_model(folder, which="last")[1:] for folder in (first, second)]
    for path, leaf in tree.flatten_with_names(ends[0]).items():
        assert torch.equal(leaf, tree.flatten_with_names(ends[1])[path]), path


def test_a_checkpoint_is_due_by_the_clock(tone_corpus, tmp_path):
    every_step = CheckpointingConfig(checkpoint_per_minutes=1e-9, save_n_recent_models=9)
    run_training(config(tone_corpus, checkpointing=every_step), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == list("123456")


def test_the_end_may_be_the_mean_of_the_best_models(tone_corpus, tmp_path):
    cfg = config(tone_corpus, checkpointing=CheckpointingConfig(average_models=2))
    trainer = opened(cfg, tmp_path / "run")
    trainer.run()
    _, mean, _ = checkpoint.load_model(tmp_path / "run", which="best:2")
    parts = [checkpoint.load_model(tmp_path / "run", which=number)[1] for number in (3, 6)]
    weights = [part["output"]["weight"] for part in parts]
    assert not torch.equal(*weights)
    torch.testing.assert_close(mean["output"]["weight"], (weights[0] + weights[1]) / 2)


def both_sets(tone_corpus, *, epochs=3, evaluate_test=True, **sections):
    cfg = config(tone_corpus, training=TrainingConfig(epochs=epochs, log_every=2, evaluate_test=evaluate_test))
    cfg = attrs.evolve(cfg, data=attrs.evolve(cfg.data, train_on_val=True))
    return attrs.evolve(cfg, checkpointing=CheckpointingConfig(average_models=2), **sections)


def test_training_on_both_sets_validates_nothing_and_ends_with_the_last_models_mean(tone_corpus, tmp_path, monkeypatch):
    evaluated = []

    def recording(*model_and_data, **how):
        evaluated.append(model_and_data[:2])
        return evaluate(*model_and_data, **how)

    monkeypatch.setattr("ds2f.runner.split_evaluator.evaluate", recording)
    results = run_training(both_sets(tone_corpus), tmp_path / "run")
    assert "val" not in results
    assert results["test"]["words"] > 0
    assert results["steps"] == 3 * 4  # of 13 utterances, 4 a step
    log = log_of(tmp_path / "run")
    assert "13 utterances (" in log
    assert "the validation set included; no validation" in log
    assert not [line for line in log.splitlines() if "epoch 3/3" in line and ("val" in line or "*" in line)]
    assert "val_loss" not in (tmp_path / "run/metrics.jsonl").read_text()
    (model,) = evaluated
    expected = tree.mean(checkpoint.load_model(tmp_path / "run", which=number)[1:] for number in (8, 12))
    handed_out = checkpoint.load_model(tmp_path / "run", which="best:2")[1:]
    for path, leaf in tree.flatten_with_names(expected).items():
        assert torch.equal(leaf, tree.flatten_with_names(model)[path]), path
        assert torch.equal(leaf, tree.flatten_with_names(handed_out)[path]), path
    best, last = (checkpoint.load_model(tmp_path / "run", which=which)[1] for which in ("best", 12))
    assert torch.equal(best["output"]["weight"], last["output"]["weight"])


def test_a_checkpoint_in_mid_epoch_is_none_of_the_last_models_of_a_run_without_validation(tone_corpus, tmp_path):
    cfg = both_sets(tone_corpus, epochs=2, evaluate_test=False)
    assert "test" not in run_training(cfg, tmp_path / "whole")
    trainer = opened(cfg, tmp_path / "halved")
    loader = trainer._loaders["train"]
    load = loader.epoch

    def interrupted(epoch, *, start=0, **_):
        for index, batch in enumerate(load(epoch, start=start)):
            if (epoch, index) == (1, 2):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    loader.epoch = interrupted
    with pytest.raises(Stopped):
        trainer.run()
    assert (tmp_path / "halved/checkpoints/7").exists()
    load_auto = attrs.evolve(cfg.checkpointing, load_auto_checkpoint=True)
    run_training(attrs.evolve(cfg, checkpointing=load_auto), tmp_path / "halved")
    ends = [checkpoint.load_model(tmp_path / name, which="best:2")[1:] for name in ("whole", "halved")]
    for path, leaf in tree.flatten_with_names(ends[0]).items():
        assert torch.equal(leaf, tree.flatten_with_names(ends[1])[path]), path


def test_rows_of_both_sets_have_numbers_of_their_own(tone_corpus):
    cfg = both_sets(tone_corpus)
    split = Split.read("train", cfg, train=True)
    assert [each.id for each in split.utterances] == list(range(13))
    assert [example.row for example in split.dataset.examples] == list(range(13))
    assert [each.audio.stem for each in split.utterances[9:]] == ["train9", "val0", "val1", "val2"]
    seen = sorted(row for batch in split.load(cfg).epoch(0) for row in batch.ids.tolist())
    assert seen == list(range(13))


def test_an_utterance_of_the_validation_set_that_is_trained_on_is_named(tone_corpus, tmp_path):
    data = shutil.copytree(tone_corpus, tmp_path / "data")
    (data / "val1.txt").write_text("ABC" * 30)
    run_training(both_sets(data, epochs=1, evaluate_test=False), tmp_path / "run")
    line = next(line for line in log_of(tmp_path / "run").splitlines() if "excluded from the loss" in line)
    assert line.endswith("val1.wav")


@pytest.mark.parametrize(
    ("name", "before", "after"), [("train_on_val", False, True), ("train_on_val", True, False), ("max_frames", 0, 900)]
)
def test_a_run_goes_on_with_the_batches_that_it_began_with(tone_corpus, tmp_path, name, before, after):
    cfg = config(tone_corpus)
    first, second = (attrs.evolve(cfg, data=attrs.evolve(cfg.data, **{name: value})) for value in (before, after))
    claim_run(tmp_path, first)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=rf"data\.{name} = {before}, which cannot become {after}"):
        claim_run(tmp_path, attrs.evolve(second, checkpointing=CheckpointingConfig(load_auto_checkpoint=True)))
