"""A silent rendezvous does not end ranks that are well before their next checkpoint."""

import pytest

from ds2f.errors import InputError
from ds2f.runner.distributed.announcements import Silence

LOST = InputError("the rendezvous at etcd:2379 does not answer any more: its server has ended. Start again.")


def test_a_silent_rendezvous_ends_the_job_at_the_next_checkpoint_and_is_told_once():
    told, checkpoints = [], [4]
    silence = Silence(lambda: checkpoints[-1], told.append)
    for _ in range(3):
        silence.bear(LOST)
    assert len(told) == 1
    assert told[0].startswith("the rendezvous at etcd:2379 does not answer any more. The ranks go on to the next")
    checkpoints.append(8)
    with pytest.raises(InputError, match=r"etcd:2379 does not answer.*written checkpoint 8\."):
        silence.bear(LOST)


def test_a_rendezvous_that_answers_again_in_time_costs_nothing():
    told, checkpoints = [], [-1]
    silence = Silence(lambda: checkpoints[-1], told.append)
    silence.end()
    assert told == []
    silence.bear(LOST)
    silence.end()
    silence.end()
    assert told[1:] == ["the rendezvous answers again; the job goes on"]
    checkpoints.append(8)
    silence.bear(LOST)  # another silence, which waits for another checkpoint
    checkpoints.append(12)
    with pytest.raises(InputError, match="checkpoint 12"):
        silence.bear(LOST)
