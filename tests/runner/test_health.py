"""Tests of the limits at which a diverged run stops or returns to a checkpoint."""

import pytest

from ds2f.config import ApexConfig, Config, TrainingConfig
from ds2f.runner import health
from ds2f.runner.progress import TrainProgress


def config(**apex):
    return Config(training=TrainingConfig(max_skipped_steps=10), apex=ApexConfig(**apex))


def test_skipped_steps_are_borne_up_to_the_limit_and_then_diagnosed():
    health.require_progress(TrainProgress(skipped_in_a_row=9), 64.0, config())
    with pytest.raises(health.DivergedError, match=r"last 10 steps .*loss scale is 64\..*learning_rate"):
        health.require_progress(TrainProgress(iteration=70, skipped_in_a_row=10), 64.0, config())


def test_a_loss_scale_at_its_floor_is_no_cure_any_more():
    floor = config(min_scale=2.0)
    health.require_progress(TrainProgress(skipped_in_a_row=4), 2.0, floor)
    health.require_progress(TrainProgress(skipped_in_a_row=9), 4.0, floor)
    with pytest.raises(health.DivergedError, match="loss scale is 2, its floor"):
        health.require_progress(TrainProgress(skipped_in_a_row=5), 2.0, floor)
    health.require_progress(TrainProgress(skipped_in_a_row=9), 1.0, config(loss_scale="1"))  # static: it has no floor


def test_no_limit_never_stops():
    unlimited = Config(training=TrainingConfig(max_skipped_steps=0))
    assert health.require_progress(TrainProgress(skipped_in_a_row=10**6), 1.0, unlimited) is None


def test_a_spike_is_a_multiple_of_the_median_of_late_once_there_are_enough():
    progress = TrainProgress()
    assert not health.spiked(progress, 100.0, 3.0)  # nothing to compare with
    for step in range(9):
        assert not health.spiked(progress, 10.0 + step % 2, 3.0)
    assert not health.spiked(progress, 30.0, 3.0)
    assert health.spiked(progress, 33.1, 3.0)
    assert progress.recent_losses == []  # the history starts again
    for _ in range(30):
        assert not health.spiked(progress, 1.0, 3.0)
    assert len(progress.recent_losses) == 20
    assert not health.spiked(progress, 1e6, 0.0)


def test_a_line_without_a_loss_leaves_what_is_usual_as_it_was():
    progress = TrainProgress(recent_losses=[10.0] * 12)
    assert not health.spiked(progress, float("nan"), 3.0)
    assert progress.recent_losses == [10.0] * 12
    assert health.spiked(progress, 31.0, 3.0)
