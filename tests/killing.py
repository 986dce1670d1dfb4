"""Starts a training as a user does, kills its processes at chosen moments, and tells two finished runs apart."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import torch
from commands import ROOT, commands

from ds2f import optim, tree
from ds2f.checkpoint import Checkpoints, load_config
from ds2f.steps import init_state

LIMIT = 600.0  # seconds that anything may take that is waited for
# What depends on the clock or on where the run is; all else must be the same.
CLOCK = {"seconds", "training_seconds", "epoch_seconds", "wall_seconds", "name"}
CLOCK |= {
    "utterances_per_second",
    "audio_seconds_per_second",
    "data_seconds",
    "evaluation_seconds",
    "checkpoint_seconds",
}


class Moment(NamedTuple):
    """So many seconds after the start, or after a checkpoint's ``write`` or ``removal`` began for the nth time."""

    seconds: float
    event: str = "start"
    times: int = 1


class Kill(NamedTuple):
    """What a kill has met."""

    processes: int
    seconds: float  # since the start, or since the rank before was killed
    iteration: int  # of the last line of the metrics
    steps: int  # since then
    damage: set[str]  # what it has left half done: "write", "removal" of a checkpoint, both or nothing

    def __str__(self):
        met = " and ".join(sorted(self.damage)) or ("training" if self.steps > 0 else "start or end")
        return f"after {self.seconds:.1f} s, {self.processes} processes, at step {self.iteration}: {met}"


class Run:
    """A training in ``run_dir`` that is started again and again with the same command."""

    def __init__(self, run_dir, flags):
        self.run_dir = run_dir
        self._flags = [*flags, f"--run_dir={run_dir}", "--checkpointing.load_auto_checkpoint"]
        self._mark = f"DS2F_TEST_RUN={uuid.uuid4().hex}"  # in the environment of what the run's processes execute
        self._sessions = set()  # of the processes that the run forks
        self._output = run_dir.with_suffix(".txt")
        self.process = None

    def start(self):
        """Starts the training; what it says is added to what was said before."""
        mark = dict([self._mark.split("=")])
        with self._output.open("ab") as output:
            self.process = commands().start(
                "launch.train", *self._flags, folder=ROOT, out=output, err=output, environment=mark
            )
        self._sessions.add(self.process.pid)
        self._look()
        return self

    def _look(self):
        """Remembers how things are now, with which they are compared later."""
        self._began = time.monotonic()
        self._leftovers = self._unfinished()
        self._seen = self._folders(), self._folders() - self._leftovers.keys()
        self._done = self.iteration

    @property
    def said(self):
        return self._output.read_text()

    @property
    def age(self):
        """Seconds since the last start or kill."""
        return time.monotonic() - self._began

    @property
    def ended(self):
        return self.process.poll() is not None

    @property
    def iteration(self):
        """Of the last line of the metrics."""
        lines = metrics(self.run_dir)
        return lines[-1]["iteration"] if lines else 0

    def processes(self):
        """All processes of the run that live, those in sessions of their own included."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and (
                session(folder.name) in self._sessions or self._mark in environment(folder.name)
            ):
                found.append(int(folder.name))
        return found

    def ranks(self, restarts):
        """The processes of the ranks that an agent started after so many restarts, by number."""
        found = {}
        for pid in self.processes():
            variables = dict(entry.partition("=")[::2] for entry in environment(pid))
            if parent(pid) == self.process.pid and variables.get("TORCHELASTIC_RESTART_COUNT") == str(restarts):
                found[int(variables["RANK"])] = pid
        return found

    def reaches(self, moment):
        """Waits for a moment; false when the run has ended before."""
        for _ in range(moment.times if moment.event != "start" else 0):
            while moment.event not in self._events():
                if self.ended:
                    return False
                assert self.age < LIMIT, f"still runs:\n{self.said}"
                time.sleep(0.001)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(moment.seconds)
        return not self.ended

    def kill(self):
        """Kills every process of the run, without a warning."""
        killed = set()
        while living := self.processes():
            killed |= set(living)
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        return self._kill(len(killed))

    def kill_rank(self, rank, *, restarts):
        """Kills one rank of those that were started after so many restarts; None when it has just ended."""
        pid, kill = self.ranks(restarts).get(rank), self._kill(1)
        if pid is None:
            return None
        os.kill(pid, signal.SIGKILL)
        self._look()
        return kill

    def end(self, limit=LIMIT):
        """Waits for the end, after another start when the run was killed; returns the exit status."""
        if self.process.returncode == -signal.SIGKILL:
            self.start()
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {limit} s:\n{self.said}") from None

    def _kill(self, processes):
        iteration = self.iteration
        return Kill(processes, time.monotonic() - self._began, iteration, iteration - self._done, self._damage())

    def _damage(self):
        unfinished = self._unfinished()
        newest = max(map(order, self._folders() - unfinished.keys()), default=(-1, 0))
        fresh = [name for name, folder in unfinished.items() if self._leftovers.get(name) != folder]
        return {"write" if order(name) > newest else "removal" for name in fresh}

    def _events(self):
        """What has begun since the last look."""
        names, (seen, seen_whole) = self._folders(), self._seen
        whole = names - self._unfinished().keys()
        self._seen = names, whole  # a folder that is gone may come again
        return ["write"] * bool(names - seen) + ["removal"] * bool(seen_whole - whole)

    def _folders(self):
        """The names of the checkpoints."""
        with contextlib.suppress(FileNotFoundError):  # a start tries to write, and removes what it has made for that
            return {path.name for path in (self.run_dir / "checkpoints").iterdir() if path.name[0].isdecimal()}
        return set()

    def _unfinished(self):
        """Checkpoints that are not whole: by name, what tells a folder from a later one of the same name."""
        found = {}
        for name in self._folders():
            folder = self.run_dir / "checkpoints" / name
            with contextlib.suppress(FileNotFoundError):
                if not (folder / "digests.json").exists():
                    found[name] = folder.stat().st_ino
        return found


def environment(pid):
    """The variables of a process, as ``NAME=value``; nothing of one that is gone or a zombie."""
    with contextlib.suppress(OSError):
        return set(Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0"))
    return set()


def parent(pid):
    """The process that started another one; 0 of one that is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return 0


def session(pid):
    """The session of a process; 0 of one that is gone or a zombie."""
    with contextlib.suppress(OSError):
        state, _, _, found, *_ = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return 0 if state == "Z" else int(found)
    return 0


def order(name):
    """Checkpoints in the order of their writing."""
    iteration, _, attempt = name.partition(".")
    return int(iteration), int(attempt or 0)


def metrics(run_dir):
    """The lines of the metrics but those of clocks alone; the last one may be cut off."""
    path = run_dir / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return [line for line in lines if line["kind"] != "step_time"]


def last_checkpoint(run_dir):
    """Every leaf of the last checkpoint by its path, and the position in the data."""
    cfg = load_config(run_dir)
    like = init_state(cfg, optim.from_config(cfg.optim, cfg.optim.learning_rate), key=0)
    checkpoints = Checkpoints(run_dir, read_only=True)
    try:
        state, position = checkpoints.restore(checkpoints.find("last"), like)
    finally:
        checkpoints.close()
    return tree.flatten_with_names(state), position


def timeless(record):
    return {name: value for name, value in record.items() if name not in CLOCK}


def bits(leaf):
    return leaf.dtype, leaf.shape, leaf.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def differences(one, other):
    """What is not the same in two finished runs: an empty list when they ended with the same bits."""
    (leaves, position), (other_leaves, other_position) = last_checkpoint(one), last_checkpoint(other)
    found = [path for path in sorted(leaves) if bits(leaves[path]) != bits(other_leaves[path])]
    if timeless(position) != timeless(other_position):
        found.append(f"position: {timeless(position)} and {timeless(other_position)}")
    results = [timeless(json.loads((run_dir / "results.json").read_text())) for run_dir in (one, other)]
    if results[0] != results[1]:
        found.append(f"results.json: {results[0]} and {results[1]}")
    for line, other_line in itertools.zip_longest(metrics(one), metrics(other), fillvalue={}):
        if timeless(line) != timeless(other_line):
            found.append(f"metrics.jsonl: {line} and {other_line}")
            break
    kept, other_kept = ({order(path.name)[0] for path in (run / "checkpoints").iterdir()} for run in (one, other))
    if kept != other_kept:
        found.append(f"checkpoints kept: {sorted(kept)} and {sorted(other_kept)}")
    return found
