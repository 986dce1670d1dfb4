"""A rank's end: its status, and that it waits for no other rank."""

import os
import subprocess
import sys
import time

from job import environment, free_port

RANK = """
import os, signal, sys, threading, time, torch
from ds2f.runner.distributed import worker
from ds2f.runner.distributed.collectives import open_group

def ask():
    print(time.monotonic(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)

def run():
    group = open_group("gloo", device=torch.device("cpu"), timeout=20, rdzv_timeout=60)
    group.gather(None)
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    threading.Timer(0.5, ask).start()
    group.gather(None)

sys.exit(worker.work(run))
"""


def test_an_interrupted_rank_ends_at_once_though_its_collective_does_not(tmp_path):
    port = free_port()
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            env=os.environ | environment(rank, 2, port),
            stdout=subprocess.PIPE,
            cwd=tmp_path,
        )
        for rank in (0, 1)
    )
    try:
        asked = float(first.communicate(timeout=60)[0])
        assert time.monotonic() - asked < 10
        assert first.returncode == 130
    finally:
        for rank in (first, second):
            rank.kill()
            rank.communicate()
