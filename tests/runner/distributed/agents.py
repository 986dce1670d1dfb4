"""Starts agents as a user would, with toy ranks or a training, and watches the processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
LIMIT = 90.0  # seconds that one agent may take

# Ranks that sum a number step after step, and do at each step what MISCHIEF says.
TOY = """
import ast, os, signal, sys, time

os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"  # as launchers do
import torch
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.distributed import agent, worker
from ds2f.runner.distributed.collectives import open_group

def tell(text):
    os.write(1, f"{text}\\n".encode())  # in one piece

def train():
    job = worker.job()
    timeout = float(os.environ.get("TIMEOUT", "30"))
    group = open_group("gloo", device=torch.device("cpu"), timeout=timeout, rdzv_timeout=30)
    tell(f"rank {group.rank} of {group.size} is process {os.getpid()} after {job.restarts} restarts")
    mischief = compile(os.environ.get("MISCHIEF", ""), "mischief", "exec")
    for step in range(int(os.environ["STEPS"])):
        group.beat(step)
        exec(mischief)
        group.sum([1.0])
        time.sleep(0.02)
    tell(f"rank {group.rank} of {group.size} is done")
    group.close()
    return 0

if __name__ == "__main__":
    if worker.is_worker():
        sys.exit(worker.work(train))
    try:
        cfg = Config(**ast.literal_eval(sys.argv[1]))
        sys.exit(agent.launch(cfg, [sys.executable, *sys.argv]))
    except InputError as error:
        print(f"toy: {error}", file=sys.stderr)
        sys.exit(1)
"""


def toy(folder):
    """The toy as a script in ``folder``."""
    script = folder / "toy.py"
    script.write_text(TOY)
    return script


class Agent:
    """An agent and what it and its ranks say."""

    def __init__(self, command, folder, *, name="agent", prefix=(), **variables):
        """Starts ``command``, found again by the words of its command line, with some environment variables more."""
        self._output = folder / f"{name}.txt"
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)} | variables
        env.pop(
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", None
        )  # which agents set for themselves, the one in this process too
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*prefix, *map(str, command)],
                cwd=ROOT,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @classmethod
    def of_toys(cls, folder, *, steps=10, name="agent", prefix=(), variables=None, **settings):
        """An agent of toy ranks; ``settings`` are those of ``Config``."""
        command = [sys.executable, toy(folder), settings]
        return cls(command, folder, name=name, prefix=prefix, STEPS=str(steps), **(variables or {}))

    @property
    def said(self):
        return self._output.read_text()

    @property
    def ranks(self):
        """The processes that the agent has started and that still run, in the order of their start."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return alive(map(int, children))

    def until(self, text, *, times=1, limit=60.0):
        """Waits until ``text`` has been said."""
        deadline = time.monotonic() + limit
        while self.said.count(text) < times:
            assert self.process.poll() is None, f"ended without saying {text!r}:\n{self.said}"
            assert time.monotonic() < deadline, f"did not say {text!r}:\n{self.said}"
            time.sleep(0.05)

    def signal(self, number):
        self.process.send_signal(number)

    def end(self, limit=LIMIT):
        """Waits for the end, and returns the exit status."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {limit} s:\n{self.said}") from None


def train(data_path, run_dir, *, ranks, epochs=4, name="said", prefix=(), **flags):
    """A training of the corpus of tones, started as a user does; ``prefix`` is a command that runs it."""
    settings = {
        "data_path": data_path,
        "run_dir": run_dir,
        "device": "cpu",
        "nproc_per_node": ranks,
        "data.dataset": "tones",
        "data.batch_size": 2,
        "data.num_workers": 1,
        "data.cache_features": "false",
        "model.hidden_size": 8,
        "model.hidden_layers": 1,
        "optim.schedule": "constant",
        "optim.learning_rate": 0.01,
        "apex.opt_level": "O0",
        "training.epochs": epochs,
        "training.log_every": 1,
        "visualization.tensorboard": "false",
        "visualization.progress": "false",
    } | flags
    command = [sys.executable, "-m", "launch.train", *(f"--{name}={value}" for name, value in settings.items())]
    return Agent(
        command,
        data_path.parent if run_dir.parent.is_file() else run_dir.parent,
        name=f"{run_dir.name}-{name}",
        prefix=prefix,
    )


def steps_done(run_dir):
    metrics = run_dir / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return sum('"kind": "train"' in line for line in lines)


def alive(pids):
    """Which of some processes live."""
    return [pid for pid in pids if state(pid) not in ("", "Z", "X")]


def state(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return ""


def mentioning(word):
    """The processes whose command line has ``word`` in it, but for this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if str(word).encode() in (folder / "cmdline").read_bytes() and state(folder.name) != "Z":
                    found.append(int(folder.name))
    return found


def sweep(word):
    """Kills what a failed test has left behind."""
    for pid in mentioning(word):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
