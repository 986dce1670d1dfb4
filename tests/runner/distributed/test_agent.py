"""Agents with real ranks on one machine: what they start, their reaction when a rank dies, and their messages."""

import ast
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from agents import Agent, alive, mentioning, secret, steps_done, sweep, toy, train
from waiting import wait_for

from ds2f import checkpoint, tree
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.distributed import addresses, agent, rank_processes
from ds2f.runner.distributed.rendezvous import Rendezvous

PRINT_ENVIRONMENT = """
names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE",
         "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID",
         "TORCHELASTIC_USE_AGENT_STORE", "OMP_NUM_THREADS"]
if step == 0:
    report({name: os.environ[name] for name in names})
"""
LOAD = """
if step == 0:
    loader = torch.utils.data.DataLoader(range(10**9), num_workers=1, batch_size=1)
    iterator = iter(loader)
    next(iterator)
    report(f"rank {group.rank} loads in {iterator._workers[0].pid}")
"""


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # a rendezvous sets it for the life of its process
    yield
    try:
        assert wait_for(lambda: mentioning(tmp_path) == [], limit=3), "processes are left over"
    finally:
        sweep(tmp_path)


def environments(output):
    return sorted(
        (ast.literal_eval(line) for line in output.splitlines() if line.startswith("{")), key=lambda d: d["RANK"]
    )


def pids(output):
    """The process of each rank, by the number of restarts before its start."""
    found = {}
    for rank, pid, restarts in re.findall(r"rank (\d+) of \d+ is process (\d+) after (\d+) restarts", output):
        found.setdefault(int(restarts), {})[int(rank)] = int(pid)
    return found


def test_ranks_get_the_environment_that_torchrun_gives_and_run_under_torchrun_too(tmp_path):
    variables = {"MISCHIEF": PRINT_ENVIRONMENT}
    ours = Agent.of_toys(
        tmp_path,
        steps=1,
        nproc_per_node=2,
        rdzv_id="job",
        rdzv_endpoint=f"127.0.0.1:{free_port()}",
        variables=variables,
    )
    torchrun = ["torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    torchrun += ["--rdzv_endpoint=localhost:0", "--rdzv_id=job", "--max_restarts=3"]
    theirs = Agent([*torchrun, toy(tmp_path), "{}"], tmp_path, name="torchrun", STEPS="1", **variables)
    assert (ours.end(), theirs.end()) == (0, 0), ours.output + theirs.output
    assert environments(ours.output) == environments(theirs.output)
    assert len(environments(ours.output)) == 2


@pytest.mark.parametrize(("users", "threads"), [(None, "8"), ("5", "5")])
def test_ranks_share_the_cores_unless_the_user_says_otherwise(monkeypatch, capfd, users, threads):
    monkeypatch.setattr(rank_processes, "cpu_count", lambda: 24)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if users:
        monkeypatch.setenv("OMP_NUM_THREADS", users)
    command = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    assert agent.launch(Config(nproc_per_node=3), command) == 0
    assert capfd.readouterr().out.split() == [threads] * 3


def test_a_killed_rank_starts_all_again_until_no_restarts_are_left(tmp_path):
    variables = {"MISCHIEF": f"{LOAD}\nif group.rank == 1 and step == 5: os.kill(os.getpid(), signal.SIGKILL)"}
    agent = Agent.of_toys(tmp_path, steps=10**6, nproc_per_node=2, max_restarts=1, variables=variables)
    assert agent.end() == 1
    first, second = pids(agent.output)[0], pids(agent.output)[1]
    lines = [line for line in agent.output.splitlines() if line.startswith("toy: ")]
    assert lines == [
        f"toy: rank 1 of 2 (process {first[1]}) was killed by SIGKILL; starting all ranks again from the newest "
        "checkpoint, 0 restarts left",
        f"toy: rank 1 of 2 (process {second[1]}) was killed by SIGKILL. No restarts are left of --max_restarts=1.",
    ]
    assert "Traceback" not in agent.output
    loaders = list(map(int, re.findall(r"loads in (\d+)", agent.output)))
    assert len(loaders) == 4
    assert alive([*first.values(), *second.values(), *loaders]) == []


def test_a_mistake_of_the_user_is_printed_once_and_nothing_is_started_again(tmp_path):
    variables = {"MISCHIEF": "raise InputError('no such manifest: x.csv; give another.')"}
    agent = Agent.of_toys(tmp_path, nproc_per_node=2, variables=variables)
    assert agent.end() == 1
    assert [line for line in agent.output.splitlines() if not line.startswith("rank ")] == [
        "toy: no such manifest: x.csv; give another."
    ]


def test_a_request_to_stop_while_ranks_start_ends_them_without_a_traceback(tmp_path):
    agent = Agent.of_toys(tmp_path, nproc_per_node=2, steps=10**6)
    assert wait_for(lambda: len(agent.ranks) == 2)
    agent.signal(signal.SIGINT)
    assert agent.end(20) == 130
    assert agent.output.splitlines() == [
        "toy: stopping: the ranks finish their step and write a checkpoint; a second time ends them at once"
    ]


def test_a_request_to_stop_between_the_starts_of_two_ranks_reaches_all(capfd):
    wait = 'import signal; print("asked" if signal.sigtimedwait({signal.SIGINT}, 30) else "never asked")'
    command = ["sh", "-c", f"test $RANK != 0 || kill -INT $PPID; exec {sys.executable} -c '{wait}'"]
    assert agent.launch(Config(nproc_per_node=16), command) == 130
    output = capfd.readouterr()
    assert "stopping: the ranks finish their step" in output.err
    assert output.out.replace("\n", "") == "asked" * 16  # lines of processes may run into each other


def test_ranks_and_their_loaders_die_with_the_agent(tmp_path):
    agent = Agent.of_toys(tmp_path, nproc_per_node=2, steps=10**6, variables={"MISCHIEF": LOAD})
    agent.until("loads in", times=2)
    agent.signal(signal.SIGKILL)
    ranks = list(pids(agent.output)[0].values())
    assert wait_for(lambda: alive(ranks) == [], limit=1)
    loaders = list(map(int, re.findall(r"loads in (\d+)", agent.output)))
    assert wait_for(lambda: alive(loaders) == [], limit=10)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def several(tmp_path):
    """Makes the settings of a machine that waits for another."""
    secret_file = str(secret(tmp_path))
    return lambda **settings: Config(
        **{"nnodes": "2", "rdzv_id": "job", "rdzv_timeout": 1.0, "rdzv_secret_file": secret_file} | settings
    )


@pytest.mark.parametrize("endpoint", ["10.0.0.1", "10.0.0.1:", ":29500", "10.0.0.1:port", "10.0.0.1:70000"])
def test_an_endpoint_is_a_host_and_a_port(endpoint, several):
    with pytest.raises(InputError, match=f"--rdzv_endpoint={endpoint}: not HOST:PORT"):
        Rendezvous(several(rdzv_endpoint=endpoint))


def test_an_unknown_host_is_reported_at_once(several):
    with pytest.raises(InputError, match=r"no-such-host\.invalid:29500 cannot be reached from this machine"):
        Rendezvous(several(rdzv_endpoint="no-such-host.invalid:29500", rdzv_timeout=600.0))


def test_a_machine_that_hosts_no_rendezvous_is_waited_for_and_then_named(monkeypatch, several):
    monkeypatch.setattr(addresses, "is_this_machine", lambda _: False)
    port = free_port()
    before = time.monotonic()
    with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port} does not answer within 1 s.*firewall"):
        Rendezvous(several(rdzv_endpoint=f"127.0.0.1:{port}"))
    assert time.monotonic() - before >= 1


def test_a_machine_without_the_data_ends_the_job_on_all_machines_at_once(tone_corpus, tmp_path):
    endpoint = {"nnodes": 2, "rdzv_id": "tones", "rdzv_endpoint": f"127.0.0.1:{free_port()}"}
    hosts = train(tone_corpus, tmp_path / "run", ranks=1, name="hosts", **endpoint)
    nothing = {"data.train_manifest": tmp_path / "nothing.csv"}
    fails = train(tone_corpus, tmp_path / "run", ranks=1, name="fails", **endpoint, **nothing)
    assert fails.end(60) == 1
    assert "nothing.csv: no such manifest" in fails.output
    assert hosts.end(20) == 1, "long before --rdzv_timeout"
    assert "Traceback" not in hosts.output + fails.output
    assert not (tmp_path / "run").exists()


@contextlib.contextmanager
def other_service(*, mute):
    """A port of this machine where something answers like a web server, or accepts and says nothing."""
    if mute:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]
        return
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_port_that_another_service_uses_is_named(tmp_path):
    with other_service(mute=False) as speaking, other_service(mute=True) as mute:
        where = {port: f"127.0.0.1:{port}" for port in (speaking, mute)}
        agents = {
            port: Agent.of_toys(tmp_path, name=f"{port}", nnodes="1:2", rdzv_id="job", rdzv_endpoint=endpoint)
            for port, endpoint in where.items()
        }
        assert [agent.end(40) for agent in agents.values()] == [1, 1]
    for port, started in agents.items():
        assert f"toy: --rdzv_endpoint={where[port]} is taken" in started.output
        assert len(started.output.splitlines()) == 1, started.output


def test_too_few_machines_are_an_error_that_names_other_jobs_at_the_same_endpoint(several):
    port, problems = free_port(), {}

    def join(job):
        try:
            Rendezvous(several(rdzv_endpoint=f"127.0.0.1:{port}", rdzv_id=job, rdzv_timeout=3.0)).join()
        except InputError as error:
            problems[job] = str(error)

    threads = [threading.Thread(target=join, args=(job,)) for job in ("an4", "am4")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job, other in (("an4", "am4"), ("am4", "an4")):
        assert (
            f"fewer than 2 machines joined the rendezvous at 127.0.0.1:{port} for --rdzv_id={job} within 3 s"
            in problems[job]
        )
        assert problems[job].endswith(f"Machines came there for another --rdzv_id: {other}.")


def test_etcd_needs_its_client_library(monkeypatch, several):
    monkeypatch.setitem(sys.modules, "etcd", None)
    with pytest.raises(InputError, match=r"needs python-etcd, which cannot .*pip install 'ds2f\[etcd\]'"):
        Rendezvous(several(rdzv_backend="etcd-v2", rdzv_endpoint="127.0.0.1:2379"))


def test_a_service_that_is_no_etcd_server_is_reported(several):
    pytest.importorskip("etcd")
    port = free_port()
    with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port}: no etcd server answers there"):
        Rendezvous(several(rdzv_backend="etcd-v2", rdzv_endpoint=f"127.0.0.1:{port}"))
    with (
        other_service(mute=False) as port,
        pytest.raises(InputError, match="the service that answers there is not etcd"),
    ):
        Rendezvous(several(rdzv_backend="etcd-v2", rdzv_endpoint=f"127.0.0.1:{port}"))


@contextlib.contextmanager
def etcd_server(folder, *options, scheme="http"):
    if shutil.which("etcd") is None:
        pytest.skip("no etcd here (apt-get install etcd-server)")
    pytest.importorskip("etcd", reason="python-etcd is not installed (pip install python-etcd)")
    port, url, peers = free_port(), f"{scheme}://127.0.0.1:{{}}", f"http://127.0.0.1:{free_port()}"
    command = [
        "etcd",
        "--data-dir",
        folder / "etcd",
        "--listen-client-urls",
        url.format(port),
        "--advertise-client-urls",
    ]
    command += [url.format(port), "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]
    command += ["--initial-cluster", f"default={peers}", *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        yield port
    finally:
        server.kill()
        server.wait()


def test_an_etcd_server_without_the_v2_api_is_reported_with_the_remedy(tmp_path, several):
    with etcd_server(tmp_path) as port, pytest.raises(InputError, match=r"without the v2 API.*--enable-v2"):
        Rendezvous(several(rdzv_backend="etcd-v2", rdzv_endpoint=f"127.0.0.1:{port}"))


@contextlib.contextmanager
def etcd_of_version(version):
    """Answers as an etcd server of a version without the v2 API does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path == "/version"
            versions = {"etcdserver": version, "etcdcluster": f"{version[:3]}.0"}
            body = json.dumps(versions).encode() if known else b"404 page not found\n"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        ("3.6.4", "3.6 and newer have none: run etcd 3.5 with --enable-v2, or do without"),
        ("3.10.0", "3.6 and newer have none: run etcd 3.5 with --enable-v2, or do without"),
        ("4.0.0-rc.1", "3.6 and newer have none: run etcd 3.5 with --enable-v2, or do without"),
        ("3.5.21", "Start it with --enable-v2, or do without"),
        ("unknown", "Start it with --enable-v2, or do without"),
    ],
)
def test_an_etcd_server_that_has_no_v2_api_any_more_is_reported_with_what_to_use_instead(several, version, remedy):
    pytest.importorskip("etcd")
    with etcd_of_version(version) as port, pytest.raises(InputError) as told:
        Rendezvous(several(rdzv_backend="etcd-v2", rdzv_endpoint=f"127.0.0.1:{port}"))
    assert f"127.0.0.1:{port}: etcd {version} runs there without the v2 API, which torch uses." in str(told.value)
    assert remedy in str(told.value)
    assert "--rdzv_backend=c10d" in str(told.value)


def test_on_etcd_a_job_that_has_ended_stays_ended_and_leaves_nothing_to_its_namesake(tmp_path, several):
    with etcd_server(tmp_path, "--enable-v2") as port:
        cfg = several(nnodes="1:2", rdzv_backend="etcd-v2", rdzv_endpoint=f"127.0.0.1:{port}", rdzv_timeout=30.0)
        import etcd

        client = etcd.Client("127.0.0.1", port)
        client.write("/torch/elastic/store/job/old", "a value of an earlier job of this name")
        first = Rendezvous(cfg)
        with pytest.raises(etcd.EtcdKeyNotFound):
            client.read("/torch/elastic/store/job/old")
        first.close()
        with pytest.raises(InputError, match=r"has ended.*another --rdzv_id"):
            Rendezvous(cfg).join()


def certificates(folder):
    """A self-signed certificate of 127.0.0.1, for server and client alike; and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    certificate, key = folder / "etcd.pem", folder / "etcd.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=tests"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def test_etcd_is_reached_over_tls_with_a_clients_certificate(tmp_path, several):
    certificate, key = certificates(tmp_path)
    options = (f"--cert-file={certificate}", f"--key-file={key}", "--client-cert-auth")
    with etcd_server(tmp_path, "--enable-v2", *options, f"--trusted-ca-file={certificate}", scheme="https") as port:
        where = {"rdzv_backend": "etcd-v2", "rdzv_endpoint": f"127.0.0.1:{port}", "rdzv_timeout": 30.0}
        conf = f"protocol=https,ca_cert={certificate},ssl_cert={certificate},ssl_cert_key={key}"
        rendezvous = Rendezvous(several(nnodes="1:2", rdzv_conf=conf, **where))
        assert rendezvous.join() == (0, 1)
        rendezvous.close()
        for other in ("", f"protocol=https,ca_cert={certificate}"):
            with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port}: (no etcd server|the service that) answers"):
                Rendezvous(several(rdzv_conf=other, **where))


@pytest.mark.parametrize(
    ("conf", "problem"),
    [
        ("user=me", "keys are protocol"),
        ("protocol=ftp", "protocol is http or https"),
        ("protocol=https", "https needs ca_cert=FILE"),
        ("password_file=none", "password_file=none: no such file"),
    ],
)
def test_an_access_to_etcd_that_cannot_work_is_named(several, conf, problem):
    pytest.importorskip("etcd")
    with pytest.raises(InputError, match=problem):
        Rendezvous(several(rdzv_backend="etcd-v2", rdzv_endpoint="127.0.0.1:2379", rdzv_conf=conf))


def test_an_address_belongs_to_an_interface():
    if sys.platform != "linux":
        pytest.skip("looked up on Linux alone")
    assert addresses.interface("127.0.0.1") == "lo"
    assert addresses.interface("203.0.113.7") is None


def trained(run_dir):
    return tree.flatten_with_paths(checkpoint.load_model(run_dir, which="last")[1:])


def test_a_training_survives_a_killed_rank_and_ends_with_the_bits_of_an_undisturbed_one(tone_corpus, tmp_path):
    undisturbed = train(tone_corpus, tmp_path / "undisturbed", ranks=2, epochs=5)
    agent = train(tone_corpus, tmp_path / "disturbed", ranks=2, epochs=5)
    in_third_epoch = wait_for(lambda: steps_done(tmp_path / "disturbed") > 7, limit=60)
    assert in_third_epoch, agent.output
    killed = agent.ranks[1]
    os.kill(killed, signal.SIGKILL)
    assert (agent.end(), undisturbed.end()) == (0, 0), agent.output
    assert f"rank 1 of 2 (process {killed}) was killed by SIGKILL; starting all ranks again" in agent.output
    assert "going on from checkpoint" in agent.output
    results = json.loads((tmp_path / "disturbed" / "results.json").read_text())
    assert (results["ranks"], results["epochs"], results["steps"]) == (2, 5, 15)
    expected, found = trained(tmp_path / "undisturbed"), trained(tmp_path / "disturbed")
    for path, leaf in expected.items():
        assert torch.equal(leaf, found[path]), path


def test_a_training_stops_cleanly_on_request(tone_corpus, tmp_path):
    agent = train(tone_corpus, tmp_path / "run", ranks=2, epochs=1000)
    assert wait_for(lambda: steps_done(tmp_path / "run") > 1, limit=60), agent.output
    agent.signal(signal.SIGTERM)
    assert agent.end(30) == 143
    assert agent.output.count("everything is kept. Go on with: ") == 1
    assert "Traceback" not in agent.output
    checkpoints = [int(folder.name.partition(".")[0]) for folder in (tmp_path / "run" / "checkpoints").iterdir()]
    assert max(checkpoints) == steps_done(tmp_path / "run")


@pytest.mark.long
def test_a_training_outlives_a_stalled_rank_then_its_restarts_and_goes_on_by_hand(tone_corpus, tmp_path):
    settings = {"ranks": 4, "epochs": 1000, "collective_timeout": 5}
    agent = train(tone_corpus, tmp_path / "run", max_restarts=1, **settings)
    assert wait_for(lambda: steps_done(tmp_path / "run") > 5, limit=60), agent.output
    stalled = agent.ranks[2]
    os.kill(stalled, signal.SIGSTOP)
    agent.until("starting all ranks again", limit=30)
    (line,) = [line for line in agent.output.splitlines() if line.startswith("train: ")]
    assert f"ank 2 (host {socket.gethostname()}, process {stalled})" in line
    assert line.endswith("starting all ranks again from the newest checkpoint, 0 restarts left")
    assert wait_for(lambda: alive([stalled]) == [], limit=2)
    done = steps_done(tmp_path / "run")
    assert wait_for(lambda: steps_done(tmp_path / "run") > done + 5, limit=60), agent.output
    killed = agent.ranks[0]
    os.kill(killed, signal.SIGKILL)
    assert agent.end(20) == 1
    assert f"rank 0 of 4 (process {killed}) was killed by SIGKILL. No restarts are left" in agent.output
    assert "Traceback" not in agent.output
    assert tree.all_finite(trained(tmp_path / "run"))
    flags = {"checkpointing.load_auto_checkpoint": "true", "training.max_steps": done + 20}
    more = train(tone_corpus, tmp_path / "run", name="more", **settings, **flags)
    assert more.end() == 0, more.output
    assert "going on from checkpoint" in more.output


@pytest.mark.long
def test_only_rank_0_needs_to_write_the_runs_folder(tone_corpus, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o555)
    without_privilege = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("one agent must lack a privilege that the other has: needs root and setpriv")
    touched = subprocess.run([*without_privilege, "touch", run_dir / "x"], capture_output=True, check=False)
    assert touched.returncode != 0
    where = {"nnodes": 2, "rdzv_id": "job", "rdzv_endpoint": f"127.0.0.1:{free_port()}", "rdzv_timeout": 60}
    first = train(tone_corpus, run_dir, ranks=1, epochs=1, **where)
    second = train(tone_corpus, run_dir, ranks=1, epochs=1, prefix=without_privilege, name="second", **where)
    assert (first.end(), second.end()) == (0, 0), first.output + second.output
    assert json.loads((run_dir / "results.json").read_text())["ranks"] == 2


@pytest.mark.long
def test_a_folder_that_rank_0_cannot_write_is_reported_once(tone_corpus, tmp_path):
    (tmp_path / "file").write_text("")
    agent = train(tone_corpus, tmp_path / "file" / "run", ranks=2)
    assert agent.end(60) == 1
    assert agent.output.count("cannot be written") == 1
    assert len(agent.output.splitlines()) == 1
