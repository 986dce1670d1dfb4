"""What listens during a job, and what strangers who reach it can do: nothing is executed, read or accepted."""

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from agents import Agent, steps_done, sweep, train
from job import run
from other_user import attempts
from strangers import GUESSES, JUNK, LOOPBACK, Stranger, listening
from waiting import wait_for

from ds2f.runner.distributed import process_group
from ds2f.runner.distributed.job_store import PeerLost

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc/net")


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path):
    yield
    sweep(tmp_path)


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_on_one_machine_ranks_and_agent_listen_on_loopback_alone(tmp_path, ranks):
    agent = Agent.of_toys(tmp_path, nproc_per_node=ranks, steps=10**6, variables={"TIMEOUT": "60"})
    found = set()
    while agent.output.count("is process") < ranks:
        found |= listening(agent.process.pid)
    assert wait_for(lambda: len(listening(agent.process.pid)) >= (ranks if ranks > 1 else 0))
    found |= listening(agent.process.pid)
    assert {address for address, _ in found} <= {LOOPBACK}
    agent.signal(signal.SIGINT)
    agent.end(30)


def test_a_training_of_one_rank_listens_nowhere(tone_corpus, tmp_path):
    run_ = train(tone_corpus, tmp_path / "run", ranks=1, epochs=1)
    found = set()
    while run_.process.poll() is None:
        try:
            found |= listening(run_.process.pid)
        except OSError:  # it has ended
            break
        time.sleep(0.02)
    assert run_.end() == 0, run_.output
    assert found == set()


@pytest.fixture
def shared_temporary():
    """A folder for temporary files that everybody may enter and write, as /tmp; with a file that everybody may read."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o1777)
    (folder / "control").touch(mode=0o644)
    yield folder
    sweep(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_another_user_of_the_machine_reads_writes_and_learns_nothing(tmp_path, shared_temporary, ranks):
    temporary = {"TMPDIR": str(shared_temporary), "TIMEOUT": "60"}
    agent = Agent.of_toys(tmp_path, nproc_per_node=ranks, steps=10**6, variables=temporary)
    agent.until("is process", times=ranks)
    made = list(shared_temporary.rglob("*"))
    found = attempts(agent.process.pid, [shared_temporary])
    assert len(made) > ranks, "the store and the heartbeats lie there"
    assert found["read"] == [str(shared_temporary / "control")]
    assert (found["written"], found["answered"]) == ([], [])
    assert found["connected"], "gloo listens on loopback"
    assert agent.output.count("is process") == ranks, "no rank was disturbed"
    agent.signal(signal.SIGINT)
    agent.end(30)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_another_user_of_the_machine_does_not_disturb_a_training_and_its_loaders(
    tone_corpus, tmp_path, shared_temporary
):
    run_ = train(tone_corpus, tmp_path / "run", ranks=2, epochs=1000, environment={"TMPDIR": str(shared_temporary)})
    assert wait_for(lambda: steps_done(tmp_path / "run") > 3, limit=60), run_.output
    found = attempts(run_.process.pid, [shared_temporary, "/dev/shm"])
    assert [name for name in found["read"] if "/dev/shm" not in name] == [str(shared_temporary / "control")]
    assert (found["written"], found["answered"]) == ([], [])
    done = steps_done(tmp_path / "run")
    assert wait_for(lambda: steps_done(tmp_path / "run") > done + 3, limit=60), run_.output
    assert "starting all ranks again" not in run_.output
    run_.signal(signal.SIGTERM)
    assert run_.end(30) == 143


CONNECT_LATE = """
if job.restarts == 0 and os.environ["RANK"] == "1":
    import torch.distributed as dist
    connect = dist.init_process_group
    dist.init_process_group = lambda *args, **kwargs: (time.sleep(2), connect(*args, **kwargs))
"""


@pytest.mark.parametrize("messages", [JUNK, GUESSES], ids=["junk", "guesses"])
def test_strangers_at_the_ports_of_a_start_do_not_delay_the_first_step_beyond_a_minute(tmp_path, messages):
    started = time.monotonic()
    agent = Agent.of_toys(tmp_path, nproc_per_node=2, steps=100, variables={"TIMEOUT": "1800", "EARLY": CONNECT_LATE})
    with Stranger([agent.process.pid], messages) as stranger:
        wait_for(lambda: "starting all ranks again" in agent.output or agent.output.count("is process") == 2, limit=60)
    restarts = agent.output.count("starting all ranks again")
    agent.until("is process", times=2)
    assert time.monotonic() - started < 60
    assert agent.end() == 0, agent.output
    assert stranger.attacked
    if not restarts:  # half of the guesses meet a rank that waits for connections
        assert not any(stranger.answers)


def connect_in_turns():
    process_group.CONNECT_TIMEOUT = 4.0
    connect = dist.init_process_group

    def late(*args, **kwargs):
        time.sleep(0.3 * int(os.environ["RANK"]))
        connect(*args, **kwargs)

    dist.init_process_group = late


def test_a_stranger_who_takes_a_ranks_connection_gets_a_token_and_no_data(tmp_path):
    with Stranger([os.getpid()], GUESSES) as stranger:
        errors = run(use_the_group, ranks=6, folder=tmp_path, prepare=connect_in_turns)
    assert any("the ranks did not connect to each other within 4 s" in str(error) for error in errors), errors
    assert all(isinstance(error, PeerLost) for error in errors), errors
    assert max(map(len, stranger.answers)) < 256, "more than gloo's header and a token"


def take_a_connection():
    if os.environ["RANK"] == "1":
        process_group._agree_on_key = lambda store, rank: store.get("key")[::-1]


def use_the_group(group):
    return group.sum([1.0])


def test_a_peer_that_cannot_read_the_store_is_not_taken_for_a_rank(tmp_path):
    for error in run(use_the_group, ranks=3, folder=tmp_path, prepare=take_a_connection):
        assert isinstance(error, PeerLost)
        assert "a connection between ranks was taken by another program" in str(error)
