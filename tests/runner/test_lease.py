"""One job at a time writes a run's folder, whoever else starts there, and whatever became of the last holder."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from commands import ROOT, commands, variables
from killing import Moment, Run, differences
from waiting import wait_for

from ds2f.errors import InputError
from ds2f.runner import lease
from ds2f.runner.lease_record import Record, parse

HOLDER = """
import sys, time
from pathlib import Path
from ds2f.errors import InputError
from ds2f.runner import lease
lease.STALE, lease.INTERVAL = float(sys.argv[3]), 0.2
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
try:
    with lease.hold(folder) as held:
        held.keep()
        alone = folder / "alone"
        alone.open("x").close()  # fails where another process holds the lease, too
        print("held", *held.messages, flush=True)
        time.sleep(seconds)
        alone.unlink()
except InputError as error:
    print("refused", error, flush=True)
"""
TONES = (
    "--device=cpu",
    "--data.dataset=tones",
    "--data.batch_size=4",
    "--spect.num_mels=16",
    "--model.hidden_size=8",
    "--model.hidden_layers=1",
    "--optim.schedule=constant",
    "--optim.learning_rate=0.01",
    "--apex.opt_level=O0",
    "--training.log_every=1",
    "--training.evaluate_test",
    "--novisualization.progress",
)


def holder(folder, seconds=60.0, *, stale=2.0, elsewhere=False):
    """A process that holds the lease of a folder; ``elsewhere``: with process numbers of its own, as on a machine."""
    prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"] if elsewhere else []
    command = [*prefix, sys.executable, "-c", HOLDER, str(folder), str(seconds), str(stale)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )


def record(folder):
    return parse((folder / lease.FILE).read_bytes())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def leave(folder, **changes):
    """Leaves a lease of a process on another machine, which gives no sign of life."""
    folder.mkdir(exist_ok=True)
    left = Record.own("")._replace(host="far", machine="another boot", token="0" * 32, **changes)
    (folder / lease.FILE).write_bytes(left.to_bytes())
    return left


def test_a_lease_is_released_with_the_folder_that_it_made_and_costs_little(tmp_path):
    seconds = []
    for index in range(5):
        folder = tmp_path / f"runs{index}" / "run"
        began = time.monotonic()
        with lease.hold(folder) as held:
            seconds.append(time.monotonic() - began)
            held.keep()
            assert record(folder).pid == os.getpid()
            assert held.messages == []
        assert not (tmp_path / f"runs{index}").exists()
    assert min(seconds) < 0.1


def test_a_second_start_is_told_host_process_and_age_and_changes_nothing(tmp_path):
    first = holder(tmp_path)
    assert first.stdout.readline() == "held\n"
    before = (tmp_path / lease.FILE).read_bytes(), names(tmp_path)
    told = rf"in use by process {first.pid} on {socket.gethostname()}, .* for \d+ s"
    with pytest.raises(InputError, match=told), lease.hold(tmp_path):
        pass
    assert names(tmp_path) == before[1]
    assert record(tmp_path).token == parse(before[0]).token
    first.kill()
    first.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_releases_the_lease_and_ends_the_process(tmp_path, number):
    first = holder(tmp_path / "run")
    assert first.stdout.readline() == "held\n"
    first.send_signal(number)
    assert first.wait(10) == -number
    assert not (tmp_path / "run" / lease.FILE).exists()


def test_many_starts_at_once_take_over_the_lease_of_a_killed_process_one_by_one(tmp_path):
    for _ in range(2):
        first = holder(tmp_path)
        assert first.stdout.readline().startswith("held")
        first.kill()
        first.wait()
        (tmp_path / "alone").unlink()
        others = [holder(tmp_path, 2.0) for _ in range(6)]
        said = [other.communicate(timeout=60)[0] for other in others]
        assert [other.returncode for other in others] == [0] * 6, said
        held = [text for text in said if text.startswith("held")]
        assert held, said
        assert sum(f"process {first.pid} on {socket.gethostname()} has ended" in text for text in held) <= 1, said
        assert names(tmp_path) == []


def test_a_holder_on_another_machine_lives_by_its_heartbeat_and_is_dead_without(tmp_path):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a process-id namespace needs root and unshare")
    first = holder(tmp_path, elsewhere=True)
    assert first.stdout.readline() == "held\n"
    assert not record(tmp_path).here
    with pytest.raises(InputError, match=r"in use by process \d+ on"), lease.hold(tmp_path):
        pass
    first.kill()  # and with unshare its child
    first.wait()
    (tmp_path / "alone").unlink()
    began = time.monotonic()
    second = holder(tmp_path, 0, stale=2.0)
    assert "has given no sign for 2 seconds" in second.communicate(timeout=30)[0]
    assert time.monotonic() - began >= 2


@pytest.mark.parametrize("clock", ["1999-01-01 00:00:00 +0000", "2099-01-01 00:00:00 +0000"])
def test_clocks_of_two_machines_are_not_compared(tmp_path, monkeypatch, clock, caplog):
    left = leave(tmp_path, taken=clock)
    os.utime(tmp_path / lease.FILE, (0, 0))
    monkeypatch.setattr(lease, "STALE", 1.0)
    monkeypatch.setattr(lease, "NOTICE", 0.2)
    began = time.monotonic()
    with lease.hold(tmp_path) as held:
        assert 1 <= time.monotonic() - began < 5
        assert held.messages == [
            f"{tmp_path}: took over the lease of another start: process {left.pid} on far has given no sign for 1 "
            "seconds"
        ]
    assert caplog.text.count("gives no sign") + caplog.text.count("has given no sign") == 1


def test_a_restarted_job_takes_over_its_own_lease_from_another_machine_at_once(tmp_path):
    leave(tmp_path, job="night")
    began = time.monotonic()
    with lease.hold(tmp_path, job="night") as held:
        assert held.messages == []
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("content", [b"", b"\xff\0", b"[" * 100_000, b"{}", b'{"pid": 1}'])
def test_a_damaged_lease_is_taken_over_after_the_same_time(tmp_path, monkeypatch, content):
    (tmp_path / lease.FILE).write_bytes(content)
    monkeypatch.setattr(lease, "STALE", 0.5)
    with lease.hold(tmp_path) as held:
        assert "its holder has given no sign" in held.messages[0]


def test_a_job_whose_lease_was_taken_over_learns_it_and_touches_the_other_lease_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "INTERVAL", 0.05)
    with lease.hold(tmp_path) as held:
        held.keep()
        (tmp_path / lease.FILE).unlink()
        other = leave(tmp_path)

        def lost():
            try:
                held.require()
            except InputError as error:
                return "was taken over by process" in str(error)
            return False

        assert wait_for(lost, 5)
    assert record(tmp_path) == other


def test_damage_and_removal_of_a_lease_are_mended_by_the_next_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "INTERVAL", 0.05)
    with lease.hold(tmp_path / "run") as held:
        held.keep()
        path = tmp_path / "run" / lease.FILE
        path.write_bytes(b"\xff" * 10)
        assert wait_for(lambda: parse(path.read_bytes()), 5)
        shutil.rmtree(tmp_path / "run")
        assert wait_for(path.exists, 5)
        assert record(tmp_path / "run").pid == os.getpid()
        held.require()


def started(folder, run_dir, data_path, name, *flags):
    out = (folder / f"{name}.txt").open("wb")
    flags = (*TONES, f"--data_path={data_path}", f"--run_dir={run_dir}", *flags)
    return commands().start("launch.train", *flags, folder=ROOT, out=out, err=out)


@pytest.mark.parametrize(
    ("apart", "more"),
    [
        (0, ()),
        (0.1, ("--checkpointing.load_auto_checkpoint",)),
        (1, ("--training.seed=7",)),
        (0, ("--nproc_per_node=2",)),
        pytest.param(10, ("--training.epochs=400",), marks=pytest.mark.long),
        pytest.param(1, ("--nproc_per_node=2", "--checkpointing.load_auto_checkpoint"), marks=pytest.mark.long),
    ],
)
def test_of_two_starts_in_one_folder_one_trains_undisturbed_and_the_other_ends_in_one_line(
    tone_corpus, tmp_path, apart, more
):
    flags = ("--training.epochs=25", "--data.num_workers=0", *more)
    alone = started(tmp_path, tmp_path / "alone", tone_corpus, "alone", *flags)
    assert alone.wait(120) == 0, (tmp_path / "alone.txt").read_text()
    first = started(tmp_path, tmp_path / "run", tone_corpus, "first", *flags)
    time.sleep(apart)
    second = started(tmp_path, tmp_path / "run", tone_corpus, "second", *flags)
    statuses = {"first": first.wait(120), "second": second.wait(120)}
    said = {name: (tmp_path / f"{name}.txt").read_text() for name in statuses}
    assert sorted(statuses.values()) == [0, 1], said
    loser = said[next(name for name, status in statuses.items() if status)]
    assert loser.count("\n") == 1, loser
    assert f"on {socket.gethostname()}, a training that has been running for" in loser
    assert differences(tmp_path / "alone", tmp_path / "run") == []
    assert not (tmp_path / "run" / lease.FILE).exists()


def test_after_kill_9_the_next_start_takes_the_folder_over_and_says_so(tone_corpus, tmp_path):
    run = Run(tmp_path / "run", [*TONES, f"--data_path={tone_corpus}", "--training.epochs=1000"]).start()
    assert run.reaches(Moment(0, "write", 2)), run.said
    pid = run.process.pid
    run.kill()
    assert json.loads((tmp_path / "run" / lease.FILE).read_text())["pid"] == pid
    assert run.start().reaches(Moment(0, "write", 2)), run.said
    run.process.send_signal(signal.SIGTERM)
    assert run.end(30) == 143, run.said
    assert f"took over the lease of another start: process {pid} on" in run.said
    assert "going on from checkpoint" in run.said
    assert not (tmp_path / "run" / lease.FILE).exists()
