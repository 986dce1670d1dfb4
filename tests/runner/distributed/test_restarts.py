"""Restarts are limited, and given back after progress: a newer checkpoint, some time after the last restart."""

import itertools
import os
import signal

import pytest
from agents import steps_done, sweep, train
from waiting import wait_for

from ds2f.runner.distributed.restarts import Restarts


class Job:
    """A job whose clock and newest checkpoint a test sets."""

    def __init__(self, most, window):
        self.seconds, self.newest = 0.0, -1
        self.restarts = Restarts(most, window=window, newest=lambda: self.newest, clock=lambda: self.seconds)


@pytest.mark.parametrize("window", [0.0, 10.0])
def test_without_progress_there_are_no_more_restarts_than_asked_for(window):
    job = Job(3, window)
    assert [job.restarts.take() for _ in range(5)] == [2, 1, 0, -1, -1]
    job.seconds = 1e6  # time alone is no progress
    assert job.restarts.take() == -1
    assert job.restarts.total == 3


def test_a_newer_checkpoint_gives_all_restarts_back_after_the_window():
    job = Job(2, 10.0)
    for newest in (5, 10, 11):
        assert [job.restarts.take(), job.restarts.take()] == [1, 0]
        job.seconds += 10
        job.newest = newest
    assert job.restarts.take() == 1
    assert job.restarts.total == 7


@pytest.mark.parametrize(("seconds", "newest"), [(9.9, 6), (100.0, 5), (100.0, 4), (100.0, -1)])
def test_neither_time_nor_a_checkpoint_alone_gives_restarts_back(seconds, newest):
    job = Job(1, 10.0)
    job.newest = 5
    assert job.restarts.take() == 0
    job.seconds, job.newest = seconds, newest
    assert job.restarts.take() == -1


def test_a_job_that_is_always_killed_after_the_same_checkpoint_ends():
    job = Job(3, 10.0)
    taken = 0
    for _ in itertools.takewhile(lambda _: job.restarts.take() >= 0, itertools.count()):
        job.seconds, job.newest, taken = job.seconds + 100, 7, taken + 1
        assert taken < 10
    assert taken == 4  # the first one reached the checkpoint


def test_a_window_of_zero_never_gives_restarts_back():
    job = Job(1, 0.0)
    assert job.restarts.take() == 0
    job.seconds, job.newest = 1e6, 100
    assert job.restarts.take() == -1


def test_machines_agree_on_the_count_of_those_that_were_there_and_saw_progress():
    job = Job(3, 10.0)
    job.restarts.agree([{"restarts": 7, "used": 3}, {"restarts": 7, "used": 1}, {"restarts": 0, "used": 0}])
    assert job.restarts.values() == {"restarts": 7, "used": 1}
    job.restarts.give_back()
    assert job.restarts.values() == {"restarts": 6, "used": 0}


def test_a_training_gets_its_restart_back_with_a_newer_checkpoint(tone_corpus, tmp_path):
    agent = train(tone_corpus, tmp_path / "run", ranks=2, epochs=1000, max_restarts=1, restart_window=0.5)

    def kill_after_progress():
        done = steps_done(tmp_path / "run")
        assert wait_for(lambda: steps_done(tmp_path / "run") > done + 7, limit=60), agent.output
        os.kill(agent.ranks[1], signal.SIGKILL)

    for times in (1, 2):
        kill_after_progress()
        agent.until("starting all ranks again from the newest checkpoint, 0 restarts left", times=times)
    assert wait_for(lambda: len(agent.ranks) == 2, limit=30)
    os.kill(agent.ranks[0], signal.SIGKILL)  # before another checkpoint
    assert agent.end(30) == 1
    assert "was killed by SIGKILL. No restarts are left of --max_restarts=1." in agent.output
    sweep(tmp_path)
