"""Tests of loader processes: their death is told at once with its cause, and none outlives its parent."""

import errno
import gc
import itertools
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs
import numpy as np
import pytest
import soundfile

from ds2f.config import Config, DataConfig
from ds2f.data import collate, dataset, loader_processes
from ds2f.data.loading import Loader
from ds2f.data.manifests import Utterance
from ds2f.errors import InputError, WorkerDied

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
    monkeypatch.setattr(collate.audio_parts, "load", lambda *_, **__: time.sleep(60))


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
    monkeypatch.setattr(collate.audio_parts, "load", lambda *_, **__: end())
    loader = Loader(built, batch_size=4, num_workers=1)
    with pytest.raises(WorkerDied, match=told):
        next(loader.epoch(0))
    loader.close()


@pytest.fixture
def impatient(built):
    """The dataset of ``built``, with the shortest of limits."""
    return attrs.evolve(built, data=attrs.evolve(built.data, loader_timeout=1.0))


@pytest.mark.skipif(sys.platform != "linux", reason="states are read from /proc")
@pytest.mark.parametrize("pin_memory", [False, True])
@pytest.mark.parametrize("batches", [0, 1, 6])  # 6: before the first batch of the next epoch
def test_a_stopped_process_is_named_after_the_limit(impatient, pin_memory, batches, recwarn):
    loader = Loader(impatient, batch_size=4, num_workers=2, pin_memory=pin_memory)
    given = itertools.chain(loader.epoch(0), loader.epoch(1))
    for _ in range(batches):
        next(given)
    victim = children()[0].pid
    os.kill(victim, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(
        WorkerDied, match=rf"for 1 s: loader process {victim} is stopped \(kill -CONT {victim}.*"
    ) as error:
        list(given)
    assert time.monotonic() - began < 1 + AT_ONCE
    assert "Awaited: a batch of 4: " in str(error.value) or "the end of the epoch" in str(error.value)
    loader.close()
    wait_until(lambda: not children())


@pytest.mark.parametrize(
    ("work", "told"), [(lambda: time.sleep(60), "waits"), (lambda: sum(range(10**11)), r"computes \(py-spy")]
)
def test_a_process_that_never_returns_is_named_with_the_awaited_recordings(impatient, monkeypatch, work, told):
    monkeypatch.setattr(collate.audio_parts, "load", lambda *_, **__: work())
    loader = Loader(impatient, batch_size=4, num_workers=1)
    with pytest.raises(WorkerDied, match=rf"{told}.*a batch of 4: .*\.wav to .*\.wav\. --data.loader_timeout"):
        next(loader.epoch(0))
    loader.close()
    assert not children()


def test_what_the_caller_does_meanwhile_ends_the_wait(built, slow):
    loader = Loader(built, batch_size=4, num_workers=1)
    calls = itertools.count()

    def interrupt():
        if next(calls) == 2:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        next(loader.epoch(0, meanwhile=interrupt))
    assert time.monotonic() - began < AT_ONCE
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    loader.close()
    wait_until(lambda: not children())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"), "/dev/shm.*--shm-size"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError("received 0 items of ancillary data"), "ulimit -n"),
        (TypeError("cannot pickle"), r"could not send a batch \(TypeError: cannot pickle\)"),
    ],
)
def test_a_batch_that_cannot_be_sent_ends_the_wait_with_the_reason(built, monkeypatch, error, told):
    def refuse(_):
        raise error

    monkeypatch.setattr(collate.Loaded, "__reduce__", refuse)
    loader = Loader(built, batch_size=4, num_workers=1)
    began = time.monotonic()
    with pytest.raises(WorkerDied, match=told):
        next(loader.epoch(0))
    assert time.monotonic() - began < AT_ONCE
    loader.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_in_a_process_are_no_fault_of_a_recording(built, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    loader = Loader(built, batch_size=4, num_workers=1)
    with pytest.raises(InputError, match="too many open files: ulimit -n is "):
        next(loader.epoch(0))
    loader.close()


@pytest.mark.parametrize("length", [70, 90, 200])
def test_a_long_path_of_temporary_files_does_no_harm(built, tmp_path, monkeypatch, length):
    folder = Path(f"{tmp_path}/".ljust(length, "x"))
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    loader = Loader(built, batch_size=4, num_workers=2)
    assert len(list(loader.epoch(0))) == 6
    loader.close()


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_processes_that_the_limit_on_open_files_does_not_allow_are_refused(built):
    gc.collect()  # files of earlier tests would be closed later
    limits, few = resource.getrlimit(resource.RLIMIT_NOFILE), len(list(Path("/proc/self/fd").iterdir())) + 30
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, limits[1]))
    try:
        with pytest.raises(InputError, match=rf"ulimit -n is {few}\. Raise it.*--data.num_workers=1"):
            Loader(built, batch_size=4, num_workers=8)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not children()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/shm")
def test_processes_that_shared_memory_does_not_allow_are_refused(built, monkeypatch):
    real = os.statvfs("/dev/shm")
    full = os.statvfs_result((4096, 4096, 16, 2, 2, *tuple(real)[5:]))
    monkeypatch.setattr(loader_processes.os, "statvfs", lambda _: full)
    with pytest.raises(InputError, match=r"/dev/shm, is full.*--shm-size"):
        Loader(built, batch_size=4, num_workers=2)


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
