"""Starts agents as a user does, with toy ranks or a training, and watches the processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from commands import ROOT, commands, variables

LIMIT = 90.0  # seconds that one agent may take

# Ranks that execute EARLY, all-reduce a number step after step, and execute MISCHIEF at each step.
TOY = """
import ast, os, signal, sys, time

os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"  # as launchers do
import torch
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.distributed import agent, worker
from ds2f.runner.distributed.collectives import open_group

def report(text):
    os.write(1, f"{text}\\n".encode())  # in one piece

def train():
    job = worker.job()
    timeout = float(os.environ.get("TIMEOUT", "30"))
    exec(os.environ.get("EARLY", ""), globals() | {"job": job})
    group = open_group("gloo", device=torch.device("cpu"), timeout=timeout, rdzv_timeout=30)
    report(f"rank {group.rank} of {group.size} is process {os.getpid()} after {job.restarts} restarts")
    mischief = compile(os.environ.get("MISCHIEF", ""), "mischief", "exec")
    for step in range(int(os.environ["STEPS"])):
        group.beat(step)
        exec(mischief)
        group.sum([1.0])
        time.sleep(0.02)
    report(f"rank {group.rank} of {group.size} is done")
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


def secret(folder):
    """The file of a job's secret in ``folder``, with the same content in every folder."""
    file = folder / "job.secret"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text("a secret of these tests alone")
    return file


class Agent:
    """An agent, and the output of the agent and its ranks."""

    def __init__(self, command, folder, *, name="agent", prefix=(), network=None, **environment):
        """Starts ``command``, found again by the words of its command line.

        Args:
          command: a program and its arguments: a module, as ``launch.train``, or a script's path.
          folder: for the file of the output.
          name: of that file.
          prefix: a command that runs it, in a new interpreter.
          network: the namespace that it runs in.
          **environment: its variables beside this process's; None removes one.
        """
        self._file = folder / f"{name}.txt"
        # Agents set the store's variable for themselves, agents in this process too.
        environment = {"TMPDIR": str(folder), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": None} | environment
        with self._file.open("wb") as output:
            if prefix:
                self.process = _spawn(prefix, command, output, environment)
            else:
                self.process = commands().start(
                    *command, folder=ROOT, out=output, err=output, environment=environment, network=network
                )

    @classmethod
    def of_toys(cls, folder, *, steps=10, name="agent", network=None, variables=None, **settings):
        """An agent of toy ranks; ``settings`` are those of ``Config``."""
        if int(str(settings.get("nnodes", 1)).rpartition(":")[2]) > 1:
            settings = {"rdzv_secret_file": str(secret(folder))} | settings
        return cls([toy(folder), settings], folder, name=name, network=network, STEPS=str(steps), **(variables or {}))

    @property
    def output(self):
        return self._file.read_text()

    @property
    def ranks(self):
        """The processes that the agent has started and that still run, in the order of their start."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return alive(map(int, children))

    def until(self, text, *, times=1, limit=60.0):
        """Waits until the output has ``text``."""
        deadline = time.monotonic() + limit
        while self.output.count(text) < times:
            assert self.process.poll() is None, f"ended without printing {text!r}:\n{self.output}"
            assert time.monotonic() < deadline, f"did not print {text!r}:\n{self.output}"
            time.sleep(0.05)

    def signal(self, number):
        self.process.send_signal(number)

    def end(self, limit=LIMIT):
        """Waits for the end, and returns the exit status."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {limit} s:\n{self.output}") from None


def _spawn(prefix, command, output, environment):
    program, *arguments = map(str, command)
    words = [*prefix, sys.executable, *([] if program.endswith(".py") else ["-m"]), program, *arguments]
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=variables(environment),
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def train(data_path, run_dir, *, ranks, epochs=4, name="first", prefix=(), network=None, environment=None, **flags):
    """A training of the corpus of tones; ``prefix`` is a command that runs it, ``network`` where it runs."""
    settings = {
        "data_path": data_path,
        "run_dir": run_dir,
        "device": "cpu",
        "nproc_per_node": ranks,
        "data.dataset": "tones",
        "data.batch_size": 2,
        "data.num_workers": 1,
        "data.cache_features": "false",
        "spect.num_mels": 16,
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
    if "nnodes" in settings:
        settings["rdzv_secret_file"] = secret(data_path.parent)
    return Agent(
        ["launch.train", *(f"--{name}={value}" for name, value in settings.items())],
        data_path.parent if run_dir.parent.is_file() else run_dir.parent,
        name=f"{run_dir.name}-{name}",
        prefix=prefix,
        network=network,
        **(environment or {}),
    )


def steps_done(run_dir):
    metrics = run_dir / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return sum('"kind": "train"' in line for line in lines)


def alive(pids):
    """The processes among ``pids`` that live."""
    return [pid for pid in pids if state(pid) not in ("", "Z", "X")]


def state(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return ""


def mentioning(word):
    """The processes that have ``word`` in their command line or in the path of the file they write to, but this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes() + bytes((folder / "fd" / "1").readlink())
                if str(word).encode() in words and state(folder.name) != "Z":
                    found.append(int(folder.name))
    return found


def sweep(word):
    """Kills the processes that a failed test has left behind."""
    for pid in mentioning(word):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
