"""What listens during a job, and what strangers who reach it can do: nothing is executed, read or accepted."""

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from agents import Agent, sweep, train
from job import run
from waiting import wait_for

from ds2f.runner.distributed import process_group
from ds2f.runner.distributed.job_store import PeerLost

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc/net")

LISTEN = "0A"
LOOPBACK = {"0100007F"}


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path):
    yield
    sweep(tmp_path)


def descendants(pid):
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += descendants(int(child))
    return found


def listening(pid):
    """The addresses, in the kernel's hexadecimal spelling, and ports at which a process and its children listen."""
    inodes = set()
    for process in descendants(pid):
        for link in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    found = set()
    for family in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (family.startswith("udp") or fields[3] == LISTEN):
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_on_one_machine_ranks_and_agent_listen_on_loopback_alone(tmp_path, ranks):
    agent = Agent.of_toys(tmp_path, nproc_per_node=ranks, steps=10**6, variables={"TIMEOUT": "60"})
    found = set()
    while agent.output.count("is process") < ranks:
        found |= listening(agent.process.pid)
    assert wait_for(lambda: len(listening(agent.process.pid)) >= (ranks if ranks > 1 else 0))
    found |= listening(agent.process.pid)
    assert {address for address, _ in found} <= LOOPBACK
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


class Stranger:
    """Connects to every port at which a process and its children come to listen, as soon as it is there, once.

    ``messages`` are sent over a connection each, and all connections stay open.
    """

    def __init__(self, pid, messages):
        self._pid, self._messages, self._before = pid, messages, listening(pid)
        self.attacked, self.answers, self._connections = set(), [], []
        self._thread = threading.Thread(target=self._attack, daemon=True)
        self._going_on = True

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._going_on = False
        self._thread.join()
        for connection in self._connections:
            connection.setblocking(False)
            try:
                self.answers.append(connection.recv(2**16))
            except OSError:
                self.answers.append(b"")
            connection.close()

    def _attack(self):
        while self._going_on:
            try:
                ports = {port for address, port in listening(self._pid) - self._before if address in LOOPBACK}
            except OSError:
                continue
            for port in ports - self.attacked:
                self.attacked.add(port)
                for message in self._messages:
                    try:
                        connection = socket.create_connection(("127.0.0.1", port), 1)
                        connection.sendall(message)
                        self._connections.append(connection)
                    except OSError:
                        continue
            time.sleep(0.005)


JUNK = [b"", os.urandom(64), os.urandom(2**16), b"GET / HTTP/1.0\r\n\r\n", bytes(64)]


# gloo numbers the connections to a port from 0, and takes the first one that names the right number for a rank's.
GUESSES = [number.to_bytes(8, "little") + bytes(56) for number in range(8)]
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
    with Stranger(agent.process.pid, messages) as stranger:
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
    with Stranger(os.getpid(), GUESSES) as stranger:
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
