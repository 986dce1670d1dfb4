"""Two machines with addresses of their own, as network namespaces: they join, leave, come back and finish together."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid

import pytest
from agents import Agent, steps_done, sweep, train
from commands import ROOT
from killing import differences
from strangers import JUNK, Stranger, poison
from waiting import wait_for

from ds2f.runner.distributed.tunnel import GREETING, NONCE_BYTES

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("ip") is None,
    reason="network namespaces need Linux, root and the ip command (apt-get install iproute2)",
)

PORT = 29555


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Machines:
    """Namespaces on one bridge: ``addresses[i]`` is reached from all others, and nothing outside is."""

    def __init__(self, count):
        name = f"n{uuid.uuid4().hex[:6]}"
        self.names = [f"{name}-{index}" for index in range(count)]
        self.addresses = [f"10.83.7.{index + 1}" for index in range(count)]
        self._bridge = f"{name}-br"

    def __enter__(self):
        try:
            ip("link", "add", self._bridge, "type", "bridge")
            ip("link", "set", self._bridge, "up")
            for name, address in zip(self.names, self.addresses, strict=True):
                ip("netns", "add", name)
                ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "net0", "netns", name)
                ip("link", "set", f"{name}v", "master", self._bridge, "up")
                ip("-n", name, "address", "add", f"{address}/24", "dev", "net0")
                ip("-n", name, "link", "set", "net0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            self.__exit__()
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)

    def prefix(self, index):
        """The start of a command line that runs a command on a machine."""
        return ("ip", "netns", "exec", self.names[index])


@pytest.fixture
def machines(tmp_path):
    with Machines(2) as found:
        try:
            yield found
        finally:
            sweep(tmp_path)


@contextlib.contextmanager
def etcd(machines, folder, *, index=0):
    """An etcd server on a machine, reached at the port PORT of its address."""
    if shutil.which("etcd") is None:
        pytest.skip("no etcd here (apt-get install etcd-server)")
    pytest.importorskip("etcd", reason="python-etcd is not installed (pip install python-etcd)")
    url, peers = f"http://{machines.addresses[index]}:{PORT}", f"http://{machines.addresses[index]}:{PORT + 1}"
    command = ["etcd", "--enable-v2", "--data-dir", folder / "etcd", "--listen-client-urls", url]
    command += ["--advertise-client-urls", url, "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]
    command += ["--initial-cluster", f"default={peers}"]
    server = subprocess.Popen([*machines.prefix(index), *command], stderr=subprocess.DEVNULL)
    try:
        probe = f"import socket; socket.create_connection(({machines.addresses[index]!r}, {PORT}), 1)"
        ready = [*machines.prefix(index), sys.executable, "-c", probe]
        assert wait_for(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0)
        yield
    finally:
        server.kill()
        server.wait()


def start(machines, index, folder, *, name, steps=10**6, **settings):
    """The agent of a machine, with one toy rank."""
    where = {"rdzv_endpoint": f"{machines.addresses[0]}:{PORT}", "rdzv_id": "toys", "rdzv_timeout": 60.0}
    return Agent.of_toys(folder, steps=steps, name=name, network=machines.names[index], **where, **settings)


def test_a_job_goes_on_without_a_machine_and_takes_it_back(machines, tmp_path):
    settings = {"nnodes": "1:2", "rdzv_backend": "etcd-v2", "max_restarts": 1, "steps": 400}
    with etcd(machines, tmp_path):
        stays = start(machines, 0, tmp_path, name="stays", **settings)
        leaves = start(machines, 1, tmp_path, name="leaves", **settings)
        stays.until("rank 0 of 2 is process")
        leaves.until("rank 1 of 2 is process")
        leaves.signal(signal.SIGKILL)
        stays.until("rank 0 of 1 is process")
        assert "toy: 1 machine, 1 rank; on this machine (10.83.7.1): rank 0" in stays.output
        back = start(machines, 1, tmp_path, name="back", **settings)
        back.until("rank 1 of 2 is process")
        assert (stays.end(), back.end()) == (0, 0), stays.output + back.output
    assert "another machine asks for a new rendezvous" in stays.output
    assert stays.output.count("after 0 restarts") == 3, "machines that leave and join are no failures"
    assert "rank 1 of 2 is done" in back.output


def test_machines_restart_together_and_report_when_the_host_of_the_rendezvous_is_gone(machines, tmp_path):
    mischief = "if group.rank == 1 and step == 5 and not job.restarts: os.kill(os.getpid(), signal.SIGKILL)"
    hosts, joins = (
        start(machines, index, tmp_path, name=f"{index}", nnodes="2", variables={"MISCHIEF": mischief})
        for index in (0, 1)
    )
    joins.until("rank 1 of 2 is process", times=2)
    hosts.until("after 1 restarts")
    assert "was killed by SIGKILL; starting all ranks again from the newest checkpoint, 2 restarts left" in joins.output
    assert "another machine asks for a new rendezvous" in hosts.output
    hosts.signal(signal.SIGKILL)
    assert joins.end(30) == 1
    assert joins.output.splitlines()[-1].startswith(f"toy: the rendezvous at 10.83.7.1:{PORT} does not answer any more")
    assert "Traceback" not in hosts.output + joins.output


def test_a_mistake_on_one_machine_ends_the_job_on_all(machines, tmp_path):
    mischief = "if group.rank == 1: raise InputError('x.csv is missing here.')"
    hosts, errs = (
        start(machines, index, tmp_path, name=f"{index}", nnodes="2", variables={"MISCHIEF": mischief})
        for index in (0, 1)
    )
    assert (errs.end(30), hosts.end(30)) == (1, 1)
    assert errs.output.splitlines()[-1] == f"toy: rank 1 ({socket.gethostname()}): x.csv is missing here."
    assert "toy: the job --rdzv_id=toys at 10.83.7.1:29555 has ended: another of its machines" in hosts.output
    assert "Traceback" not in hosts.output + errs.output


def test_strangers_on_the_network_of_a_job_have_nothing_executed_and_no_value_accepted(tmp_path):
    made = tmp_path / "made"
    messages = [*JUNK, poison("toys", made), *[b""] * 20]
    with Machines(3) as machines:
        started, agents = time.monotonic(), []
        with Stranger([], messages, network=machines.names[2], every=1.0) as stranger:
            for index in (0, 1):
                agents.append(start(machines, index, tmp_path, name=f"{index}", nnodes="2", steps=300))
                stranger.pids.append(agents[-1].process.pid)
                time.sleep(2)  # the stranger is there before the second machine
            for agent in agents:
                agent.until("of 2 is process")
            assert time.monotonic() - started < 60
            assert [agent.end() for agent in agents] == [0, 0], agents[0].output + agents[1].output
        sweep(tmp_path)
    assert (machines.addresses[0], PORT) in stranger.attacked
    assert len(stranger.attacked) >= 4, "endpoint, store and gloo's ports"
    assert {len(answer) for answer in stranger.answers} <= {0, len(GREETING) + NONCE_BYTES}
    assert not made.exists()
    assert "Traceback" not in agents[0].output + agents[1].output


def test_on_one_machine_of_a_network_nothing_can_be_reached_from_another(tmp_path):
    with Machines(2) as machines:
        agent = Agent.of_toys(tmp_path, nproc_per_node=2, steps=50, network=machines.names[0])
        with Stranger([agent.process.pid], JUNK, network=machines.names[1]) as stranger:
            assert agent.end() == 0, agent.output
        sweep(tmp_path)
    assert stranger.attacked == {}


HOUR_AHEAD = """
import time
now, local = time.time, time.localtime
time.time = lambda: now() + 3600
time.localtime = lambda seconds=None: local(time.time() if seconds is None else seconds)
"""


@pytest.mark.long
@pytest.mark.parametrize("apart", [0, 1])
def test_of_two_hosts_with_one_folder_one_trains_undisturbed_and_the_other_ends_in_one_line(
    machines, tmp_path, tone_corpus, apart
):
    """The hosts share the folder alone: they have networks, process numbers, names, uptimes and clocks of their own."""
    (tmp_path / "ahead").mkdir()
    (tmp_path / "ahead" / "sitecustomize.py").write_text(HOUR_AHEAD)
    apart_from_all = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts"]
    hosts = [
        ((*machines.prefix(0), *apart_from_all), None),
        (
            (*machines.prefix(1), *apart_from_all, "--time", "--boottime", "3600"),
            {"PYTHONPATH": f"{tmp_path / 'ahead'}:{ROOT}"},
        ),
    ]
    settings = {"ranks": 1, "epochs": 60, "data.num_workers": 0}
    alone = train(tone_corpus, tmp_path / "alone", **settings)
    assert alone.end() == 0, alone.output
    started = []
    for prefix, environment in hosts:
        name = f"host{len(started)}"
        started.append(
            train(tone_corpus, tmp_path / "run", name=name, prefix=prefix, environment=environment, **settings)
        )
        time.sleep(apart)
    statuses = [host.end(180) for host in started]
    assert sorted(statuses) == [0, 1], [host.output for host in started]
    said = started[statuses.index(1)].output
    assert said.count("\n") == 1, said
    assert "is in use by process" in said or "already holds a run" in said
    assert differences(tmp_path / "alone", tmp_path / "run") == []
    assert not (tmp_path / "run" / "lease.json").exists()


@pytest.mark.long
def test_a_training_goes_on_without_its_first_machine_and_takes_it_back(machines, tmp_path, tone_corpus):
    run_dir = tmp_path / "run"
    flags = {"nnodes": "1:2", "rdzv_backend": "etcd-v2", "rdzv_endpoint": f"{machines.addresses[0]}:{PORT}"}
    flags |= {"rdzv_id": "tones", "ranks": 2, "epochs": 60}
    with etcd(machines, tmp_path):
        first = train(tone_corpus, run_dir, name="first", network=machines.names[0], **flags)
        second = train(tone_corpus, run_dir, name="second", network=machines.names[1], **flags)
        first.until("2 machines, 4 ranks")
        assert wait_for(lambda: steps_done(run_dir) > 3, limit=60), first.output
        first.signal(signal.SIGKILL)
        second.until("1 machine, 2 ranks")
        second.until("going on from checkpoint")
        done = steps_done(run_dir)
        assert wait_for(lambda: steps_done(run_dir) > done + 2, limit=60), second.output
        back = train(tone_corpus, run_dir, name="back", network=machines.names[0], **flags)
        back.until("2 machines, 4 ranks")
        back.until("going on from checkpoint")  # as rank 0, which logs
        assert (second.end(), back.end()) == (0, 0), second.output + back.output
    results = json.loads((run_dir / "results.json").read_text())
    assert (results["ranks"], results["batch_size"], results["epochs"], results["steps"]) == (4, 8, 60, 120)
