"""Beam search in processes: the results of one process, in order; its processes end with it."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import arpa
import pytest
import torch
from commands import commands

from ds2f import decode
from ds2f.config import BeamConfig
from ds2f.data.language_model import open_language_model
from ds2f.errors import WorkerDied
from ds2f.inference import saved_logits
from ds2f.inference.beam_pool import BeamPool
from ds2f.types import Logits

pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")

LABELS = "_AB "


@pytest.fixture(scope="module")
def logits() -> Logits:
    values = 3 * torch.randn(7, 20, 4, generator=torch.Generator().manual_seed(0))
    return Logits(values, torch.tensor([20, 3, 17, 1, 20, 9, 12]))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return arpa.write(tmp_path_factory.mktemp("pool") / "lm.arpa", arpa.WORDS)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("workers", [1, 3])
def test_the_results_are_those_of_the_search_in_their_order(logits, model, workers):
    lm = open_language_model(model, LABELS)
    with BeamPool(LABELS, lm, workers=workers) as pool:
        for cfg in (BeamConfig(path=str(model)), BeamConfig(path=str(model), weight=2.0), BeamConfig(decoder="beam")):
            expected = decode.beam(logits, LABELS, cfg=cfg, lm=lm if cfg.path else None)
            assert pool.beam(logits, LABELS, cfg=cfg) == expected
            assert pool.beam(logits, LABELS, cfg=cfg, most=2) == [found[:2] for found in expected]
            assert pool.best(cfg)(logits, LABELS) == [found[0] for found in expected]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_call_has_its_own_hot_words(logits, model, workers):
    lm, cfg = open_language_model(model, LABELS), BeamConfig(path=str(model))
    requests = [None, *(decode.make_hot_words([words], LABELS, boost=5.0) for words in ("BA", "A B"))]
    texts = []
    with BeamPool(LABELS, lm, workers=workers) as pool:
        for hot_words in requests:
            expected = decode.beam(logits, LABELS, cfg=cfg, lm=lm, hot_words=hot_words)
            assert pool.beam(logits, LABELS, cfg=cfg, hot_words=hot_words) == expected
            found = pool.best(cfg, hot_words=hot_words)(logits, LABELS)
            assert found == [each[0] for each in expected]
            texts.append(" ".join(each.text for each in found))
    assert ["BA" in text.split() for text in texts] == [False, True, False]  # BA is no word of the language model
    assert texts[2].count("A B") > texts[0].count("A B")


def test_a_killed_process_ends_the_search_with_a_remedy(logits):
    with BeamPool(LABELS, workers=2) as pool:
        for process in pool._processes:
            process.kill()
            process.join()
        with pytest.raises(WorkerDied, match=r"one of 2 processes .*--lm\.workers=1"):
            pool.beam(logits, LABELS, cfg=BeamConfig(decoder="beam"))


@pytest.mark.parametrize("waiting", [0, 4], ids=["none waits", "the next are being written to the processes"])
def test_ctrl_c_ends_a_search_that_would_last(waiting):
    frames = 8000  # 128,000 bytes, twice as many as a pipe holds
    long = Logits(torch.randn(2 + waiting, frames, 4), torch.full((2 + waiting,), frames))
    cfg, pool = BeamConfig(decoder="beam", beam_size=20_000), BeamPool(LABELS, workers=2)
    processes = [process.pid for process in pool._processes]
    assert len(processes) == 2

    def interrupted():
        with pool:
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
            pool.beam(long, LABELS, cfg=cfg)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - begun < 20
    assert not any(map(alive, processes))


def test_ctrl_c_ends_a_command_and_its_processes(tmp_path):
    arpa.write(tmp_path / "lm.arpa", arpa.WORDS)
    about = saved_logits.About(
        run="run", which="best", split="val", manifest="val.csv", trained_on=False, labels=tuple(LABELS),
        references=("A B",) * 4, audio=("a.wav",) * 4,
    )  # fmt: skip
    values = [torch.randn(3000, 4).log_softmax(1) for _ in range(4)]
    saved_logits.save(tmp_path / "logits.npz", saved_logits.SavedLogits(about, values))
    flags = ("--logits=logits.npz", "--lm.path=lm.arpa", "--lm.workers=2", "--lm.beam_size=20000")
    with (tmp_path / "out").open("wb") as out:
        program = commands().start("launch.tune_lm", *flags, folder=tmp_path, out=out, err=out)
        begun = time.monotonic()
        while time.monotonic() - begun < 60 and len(group(program.pid)) < 3:
            time.sleep(0.1)
        assert len(group(program.pid)) >= 3, (tmp_path / "out").read_text()
        time.sleep(1.0)
        os.killpg(program.pid, signal.SIGINT)  # as a terminal does
        try:
            assert program.wait(30) == 130, (tmp_path / "out").read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)  # a search that goes on would take all memory
    assert group(program.pid) == []
    assert "Traceback" not in (tmp_path / "out").read_text()


def group(leader: int) -> list[int]:
    """The processes of a process group that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, number = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(number) == leader and state != "Z":
            found.append(int(entry.name))
    return found
