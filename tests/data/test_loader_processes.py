"""Tests of loader processes: their death is told at once with its cause, and none outlives its parent."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.config import Config, DataConfig
from ds2f.data import collate, dataset
from ds2f.data.loading import Loader
from ds2f.data.manifests import Utterance
from ds2f.errors import WorkerDied

ROOT = Path(__file__).parents[2]
RATE = 16000
AT_ONCE = 3.0  # seconds; torch's own polling takes 5 and more


def utterances(folder, count=24):
    draw = np.random.default_rng(0)
    found = []
    for row in range(count):
        path = folder / f"utterance-{row}.wav"
        soundfile.write(path, draw.normal(0, 0.1, 4000 + 100 * row), RATE)
        found.append(Utterance(row, path, "AB", (4000 + 100 * row) / RATE))
    return found


@pytest.fixture
def built(tmp_path):
    cfg = Config(data_path=str(tmp_path), data=DataConfig(cache_features=False))
    return dataset.build(utterances(tmp_path), cfg, train=True)


@pytest.fixture
def slow(monkeypatch):
    """Recordings that take longer to load than anybody waits."""
    monkeypatch.setattr(collate.audio, "load", lambda *_, **__: time.sleep(60))


def children():
    return [child for child in multiprocessing.active_children() if child.is_alive()]


def wait_until(condition, seconds=AT_ONCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("pin_memory", [False, True])
def test_a_process_killed_while_its_batch_is_waited_for_ends_the_wait_at_once(built, slow, pin_memory, recwarn):
    loader = Loader(built, batch_size=4, num_workers=2, pin_memory=pin_memory)
    victim = children()[1].pid
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {victim}"])
    began = time.monotonic()
    with pytest.raises(
        WorkerDied, match=rf"process {victim} was killed by SIGKILL.*memory.*--data.num_workers=1,"
    ) as error:
        next(loader.epoch(0))
    assert time.monotonic() - began < 0.5 + AT_ONCE
    assert "Traceback" not in str(error.value)
    began = time.monotonic()
    loader.close()
    assert time.monotonic() - began < AT_ONCE
    wait_until(lambda: not children())


def test_a_death_between_batches_is_told_by_the_next_one_and_disturbs_nothing_before(built):
    loader = Loader(built, batch_size=4, num_workers=2)
    batches = loader.epoch(0)
    next(batches)
    victim = children()[0]
    os.kill(victim.pid, signal.SIGKILL)
    for _ in range(20):  # nothing is raised here, as it would be by torch's handler
        time.sleep(0.01)
    with pytest.raises(WorkerDied, match=f"process {victim.pid} "):
        next(batches)
    loader.close()
    wait_until(lambda: not children())


def test_the_death_of_an_idle_loaders_process_is_told_by_the_loader_at_work(built):
    idle, busy = (Loader(built, batch_size=4, num_workers=1) for _ in range(2))
    victim = next(iter(idle._watch._processes))
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    with pytest.raises(WorkerDied, match=f"process {victim.pid} "):
        list(busy.epoch(0))
    busy.close()
    idle.close()


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda: os._exit(3), "ended with status 3"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "SIGBUS, which .* /dev/shm"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), r"SIGSEGV\. .*num_workers=0"),
    ],
)
def test_the_message_tells_what_the_exit_status_means(built, monkeypatch, end, told):
    monkeypatch.setattr(collate.audio, "load", lambda *_, **__: end())
    loader = Loader(built, batch_size=4, num_workers=1)
    with pytest.raises(WorkerDied, match=told):
        next(loader.epoch(0))
    loader.close()


def test_signals_that_end_a_run_are_left_to_the_parent(built):
    loader = Loader(built, batch_size=4, num_workers=1)
    batches = loader.epoch(0)
    next(batches)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        os.kill(children()[0].pid, number)
    assert len(list(batches)) == 5
    loader.close()
    assert not children()


def alive(pid):
    """Whether a process runs; one that nobody has taken note of the end of does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


PROGRAM = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_loader_processes import utterances
from ds2f.config import Config, DataConfig
from ds2f.data import dataset
from ds2f.data.loading import Loader
import multiprocessing
folder = Path(sys.argv[1])
cfg = Config(data_path=str(folder), data=DataConfig(cache_features=False))
loader = Loader(dataset.build(utterances(folder), cfg, train=True), batch_size=4, num_workers=2)
batches = loader.epoch(0)
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
if sys.argv[3] == "wait":
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("how", ["wait", "leave"])
def test_processes_end_with_their_parent(tmp_path, how):
    command = [sys.executable, "-c", PROGRAM, tmp_path, Path(__file__).parent, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        if how == "wait":
            parent.kill()
        assert parent.wait(20) == (-signal.SIGKILL if how == "wait" else 0)
    wait_until(lambda: not any(map(alive, pids)), 1.0)


def resident():
    """Resident bytes of this process and its children."""
    gc.collect()
    total = 0
    for pid in (os.getpid(), *(child.pid for child in children())):
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        total += (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")  # without what is shared
    return total


def descriptors():
    return sum(
        len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (os.getpid(), *(child.pid for child in children()))
    )


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_files_and_processes_do_not_grow_over_epochs(built):
    loader = Loader(built, batch_size=4, num_workers=2)

    def train(epochs):
        for epoch in range(epochs):
            for _ in loader.epoch(epoch):
                pass
        return resident(), descriptors(), len(children())

    warm, grown = train(15), train(60)
    loader.close()
    an_epoch = sum(161 * 4 * frames for frames in built.num_frames(0))  # bytes of features
    assert grown[0] - warm[0] < 16 * an_epoch, "60 epochs kept more than a quarter of what they loaded"
    assert grown[1] < warm[1] + 60, "some descriptors belong to batches that are on their way"
    assert grown[2] == warm[2]
