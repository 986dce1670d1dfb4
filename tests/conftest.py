"""What several test files share: launchers to run, a corpus of tones that takes no time to make, and turns of workers.

Several workers (``pytest -n 3``) run tests at the same time, but for those marked ``alone``.
"""

import contextlib
import fcntl
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import commands
from hypothesis import HealthCheck, settings

RATE = 16000

# How long an example takes, or its drawing, says nothing on a busy machine.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Signals that a shell in the background, or nohup, has had ignored would be ignored by every program under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)


HERE = Path(__file__).parent


@contextlib.contextmanager
def held(path, how):
    """Holds a file locked, for all (``fcntl.LOCK_SH``) or against all (``fcntl.LOCK_EX``)."""
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, how)
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # processes that the test has forked hold the file open, too
        os.close(file)


@contextlib.contextmanager
def turn(how):
    """Waits for the other workers: ``fcntl.LOCK_EX`` until none runs a test, ``fcntl.LOCK_SH`` until none is alone."""
    with contextlib.ExitStack() as stack:
        with held(HERE / "commands.py", how):  # who waits to be alone keeps the others from starting
            stack.enter_context(held(HERE / "conftest.py", how))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Runs a test in its turn."""
    if not hasattr(item.config, "workerinput"):  # there is one process
        return (yield)
    with turn(fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH):
        return (yield)


def pytest_collection_modifyitems(config, items):
    """Puts the tests that run alone first, so that no worker waits for another's long one."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("alone") is None)


def write_tones(folder, name, text, seed):
    """One utterance: a tone per character, so that there is something to learn."""
    generator = np.random.default_rng(seed)
    pieces = [
        np.sin(2 * np.pi * (300 + 60 * (ord(character) - 32)) * np.arange(int(0.12 * RATE)) / RATE)
        for character in text
    ]
    samples = 0.3 * np.concatenate(pieces) + 0.01 * generator.standard_normal(len(text) * int(0.12 * RATE))
    soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="PCM_16")
    (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    return f"{name}.wav,{name}.txt\n"


@pytest.fixture
def roomy_disk(tmp_path, monkeypatch):
    """Nothing is left out for want of room, however full this machine's disk is."""
    usage = shutil.disk_usage(tmp_path)._replace(total=10**12, free=10**12)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory):
    """Programs under test keep nothing in the user's cache folder and find nothing there."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("XDG_CACHE_HOME") if before is None else os.environ.update(XDG_CACHE_HOME=before)


@pytest.fixture(scope="session")
def tone_corpus(tmp_path_factory):
    """A data path with the manifests of a corpus called ``tones``: 10 training, 3 validation, 3 test utterances."""
    folder = tmp_path_factory.mktemp("tones")
    generator = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 3), ("test", 3)):
        rows = []
        for index in range(count):
            text = "".join(generator.choice(list("ABC"), size=3 + index % 4))
            rows.append(write_tones(folder, f"{split}{index}", text, index))
        (folder / f"tones_{split}_manifest.csv").write_text("".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running ``launch.serve`` of a unidirectional model, which tests leave as it is."""
    from serving_process import serving, write_run

    folder = tmp_path_factory.mktemp("server")
    write_run(folder / "run")
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="session")
def launch():
    """Runs a launcher, given its flags and ``folder``."""
    return commands().run
