"""Trainings that do not fit are refused with figures and remedies; those that fit are not."""

import errno
import re
import signal
import subprocess

import attrs
import pytest
import torch
from memory_groups import limited

from ds2f.config import Config, DataConfig, ModelConfig, OptimConfig, resolve
from ds2f.errors import InputError
from ds2f.machine_memory import Kill, Room
from ds2f.runner import memory_check, splits
from ds2f.runner.device import backend
from ds2f.runner.distributed import rank_processes
from ds2f.runner.distributed.collectives import ALONE
from ds2f.runner.distributed.worker import Job

GB = 10**9


@pytest.fixture
def cfg(tone_corpus):
    """A training whose activations are most of its need."""
    data = DataConfig(dataset="tones", batch_size=8, num_workers=1)
    model = ModelConfig(hidden_size=512, hidden_layers=5, kernel="fused")
    optim = OptimConfig(schedule="constant", learning_rate=0.01)
    return resolve(Config(data_path=str(tone_corpus), device="cpu", data=data, model=model, optim=optim))


@attrs.frozen
class Card(backend.Backend):
    left: int = 0

    def memory_left(self):
        return self.left


def refusal(cfg, monkeypatch, rooms, *, device=None, local_ranks=1, group=ALONE):
    monkeypatch.setattr(memory_check.machine_memory, "rooms", lambda: rooms)
    monkeypatch.setattr(memory_check.machine_memory, "held", lambda: 0)
    data, device = splits.read_all(cfg), device or backend.open_backend("cpu")
    try:
        memory_check.require(cfg, data, device, group, Job("", 0, 0, local_ranks))
    except InputError as error:
        return str(error)
    return None


class Ranks:
    """Rank 0 of several, whose machine has the only problem."""

    def __init__(self, size):
        self.rank, self.size = 0, size

    def gather(self, value):
        return [value, *[("other", None)] * (self.size - 1)]


def test_a_training_that_fits_is_not_refused(cfg, monkeypatch):
    assert refusal(cfg, monkeypatch, [Room("this machine", 100 * GB)]) is None
    assert refusal(cfg, monkeypatch, []) is None


def test_the_refusal_names_figures_limit_and_remedies_in_one_line(cfg, monkeypatch):
    told = refusal(cfg, monkeypatch, [Room("this machine", 9 * GB), Room("the cgroup /a/b", GB // 2)])
    assert re.fullmatch(
        r"not enough memory: a rank needs about \d\.\d GB and the cgroup /a/b has 0\.5 GB left\. It takes: .*"
        r"parameters, optimizer and gradients 0\.\d GB.* To try all the same: --noprobe_memory\.",
        told,
    )
    assert refusal(attrs.evolve(cfg, probe_memory=False), monkeypatch, [Room("this machine", 0)]) is None


def test_every_remedy_in_the_message_fits(cfg, monkeypatch):
    ranks, seen = Ranks(4), set()
    for tenths in range(10, 80):
        room = [Room("this machine", tenths * GB // 10)]
        told = refusal(cfg, monkeypatch, room, local_ranks=4, group=ranks)
        if told is None or "would fit" not in told:
            continue
        for flags in told.split("would fit: ")[1].split(". To try")[0].split("; "):
            values = dict(flag.lstrip("-").partition("=")[::2] for flag in flags.split())
            fewer = int(values.pop("nproc_per_node", 4))
            remat = values.pop("model.remat", None) is not None
            data = {name.removeprefix("data."): int(value) for name, value in values.items()}
            other = attrs.evolve(
                cfg,
                data=attrs.evolve(cfg.data, **data),
                model=attrs.evolve(cfg.model, remat=remat),
            )
            assert refusal(other, monkeypatch, room, local_ranks=fewer, group=Ranks(fewer)) is None, flags
            seen.add(flags.partition("=")[0])
    assert {"--model.remat", "--nproc_per_node"} <= seen


def test_where_memory_is_short_on_a_cpu_the_kernel_that_keeps_less_is_taken(cfg, monkeypatch):
    cfg = attrs.evolve(cfg, model=attrs.evolve(cfg.model, kernel="auto"))
    data, cpu = splits.read_all(cfg), backend.open_backend("cpu")
    lean = attrs.evolve(cfg, model=attrs.evolve(cfg.model, kernel="hoisted"))
    large, small = (
        memory_check.need(each, data, cpu, local_ranks=1, ranks=1, writes=True).host for each in (cfg, lean)
    )
    monkeypatch.setattr(memory_check.machine_memory, "held", lambda: 0)

    def chosen(left, each=cfg, device=cpu):
        monkeypatch.setattr(memory_check.machine_memory, "rooms", lambda: [Room("this machine", left)])
        return memory_check.with_lean_kernel(each, data, device, ALONE, Job("", 0, 0, 1)).model.kernel

    assert small < large
    assert chosen(large) == "auto"
    assert chosen((small + large) // 2) == "hoisted"
    assert chosen(small - 1) == "auto"  # it would not fit either: the refusal speaks of what was asked for
    middle = (small + large) // 2
    assert chosen(middle, attrs.evolve(cfg, model=attrs.evolve(cfg.model, kernel="fused"))) == "fused"
    assert chosen(middle, attrs.evolve(cfg, model=attrs.evolve(cfg.model, rnn_type="gru"))) == "auto"
    assert chosen(middle, attrs.evolve(cfg, probe_memory=False)) == "auto"
    assert chosen(middle, device=Card("cuda", torch.device("cpu"), "a card", torch.float16)) == "auto"


def test_a_limit_of_each_process_counts_one_rank(cfg, monkeypatch):
    enough = [Room("a process (ulimit -v)", 3 * GB, per_process=True)]
    assert refusal(cfg, monkeypatch, enough, local_ranks=4, group=Ranks(4)) is None
    assert refusal(cfg, monkeypatch, [enough[0]._replace(per_process=False)], local_ranks=4, group=Ranks(4))
    assert "ulimit -v" in refusal(cfg, monkeypatch, [enough[0]._replace(left=GB // 2)])


def test_only_the_first_rank_of_a_machine_answers_for_it_and_all_ranks_stop(cfg, monkeypatch):
    class Second(Ranks):
        def gather(self, value):
            assert value[1] is None  # its own machine is another rank's affair
            return [("here", None), ("there", "not enough memory"), value]

    group = Second(3)
    group.rank = 2
    monkeypatch.setattr(memory_check.machine_memory, "rooms", lambda: [Room("this machine", 0)])
    data, job = splits.read_all(cfg), Job("", 0, 1, 2)
    with pytest.raises(InputError, match=r"^rank 1 \(there\): not enough memory$"):
        memory_check.require(cfg, data, backend.open_backend("cpu"), group, job)


@pytest.mark.parametrize("name", ["cuda", "npu"])
def test_a_devices_own_memory_counts(cfg, monkeypatch, name):
    card = Card(name, torch.device("cpu"), "a card", torch.bfloat16, left=GB // 5)
    told = refusal(cfg, monkeypatch, [], device=card)
    assert re.search(r"a rank needs about \d\.\d GB on its device, and cpu \(a card\) has 0\.2 GB left", told)
    assert refusal(cfg, monkeypatch, [], device=attrs.evolve(card, left=50 * GB)) is None
    host = refusal(cfg, monkeypatch, [Room("this machine", GB // 5)], device=attrs.evolve(card, left=50 * GB))
    assert "this machine has 0.2 GB left" in host


def test_the_memory_left_on_a_device_comes_from_its_allocator(monkeypatch):
    asked = []

    class Module:
        @staticmethod
        def mem_get_info(device):
            asked.append(device)
            return 7, 9

    monkeypatch.setattr(torch, "get_device_module", lambda _: Module)
    device = torch.device("cuda", 1)
    assert backend.Backend("cuda", device, "a card", torch.bfloat16).memory_left() == 7
    assert asked == [device]
    assert backend.open_backend("cpu").memory_left() is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), "CUDA out of memory. Tried"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory"), "alloc_cpu"),
        (RuntimeError("NPU out of memory. Tried to allocate 5 GiB"), "NPU out of memory"),
        (MemoryError(), "out of memory. At this size"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
    ],
)
def test_a_want_of_memory_is_said_in_one_line_with_remedies(error, said):
    told = memory_check.explain(error)
    assert said in told
    assert "\n" not in told
    assert "--model.remat" in told


def test_other_errors_keep_their_own_words():
    assert memory_check.explain(RuntimeError("shapes do not match")) is None
    assert memory_check.explain(ValueError("out of memory")) is None
    assert memory_check.explain(OSError(errno.EIO, "Input/output error")) is None


class Kills:
    """What the kernel's counters tell."""

    def __init__(self, kill):
        self.kill = kill

    def sign(self):
        return self.kill


@pytest.mark.parametrize(
    ("status", "kill", "wants", "said"),
    [
        (-signal.SIGKILL, None, False, "was killed by SIGKILL"),
        (
            -signal.SIGKILL,
            Kill(False, "rose"),
            False,
            "was killed by SIGKILL, perhaps by the kernel for want of memory",
        ),
        (-signal.SIGKILL, Kill(True, "rose"), True, "was killed by the kernel for want of memory (rose)"),
        (1, Kill(True, "rose"), True, "ended with status 1"),  # it has reported the death of its loader process
        (rank_processes.PEER_LOST, Kill(True, "rose"), False, "ended with status 75"),  # another rank's affair
        (-signal.SIGTERM, None, False, "was killed by SIGTERM"),
    ],
)
def test_a_rank_that_the_kernel_killed_is_told_from_one_that_another_process_killed(
    status, kill, wants, said, tmp_path
):
    end = f"kill -{-status} $$" if status < 0 else f"exit {status}"
    process = subprocess.Popen(["sh", "-c", end], stderr=subprocess.PIPE, bufsize=0)
    process.wait()
    errors = rank_processes.Errors(process)
    rank = rank_processes.RankProcess(6, process, tmp_path / "report", errors, Kills(kill), 5 * GB)
    assert rank.wants_memory == wants
    told = rank.describe_failure(8)
    assert told.startswith(f"rank 6 of 8 (process {process.pid}) {said}")
    assert ("5.0 GB were left" in told) == (wants and status < 0)


FLAGS = (
    *("--device=cpu", "--data.dataset=tones", "--data.batch_size=4", "--data.num_workers=1", "--run_dir=run"),
    *("--model.hidden_size=512", "--model.hidden_layers=5", "--optim.schedule=constant", "--optim.learning_rate=0.01"),
    *("--nproc_per_node=2", "--training.epochs=1"),
)


def test_a_job_too_large_for_its_cgroup_is_refused_or_named_as_killed_for_memory(launch, tone_corpus, tmp_path):
    with limited(600 << 20) as group:
        inside = {"DS2F_TEST_CGROUP": str(group)}
        flags = (*FLAGS, f"--data_path={tone_corpus}")
        status, _, said, _ = launch("train", *flags, folder=tmp_path, environment=inside)
        assert status == 1, said
        assert said.count("\n") == 1, said
        assert re.search(rf"the 2 ranks here need about \d\.\d GB and the cgroup {group} has 0\.\d GB left", said), said
        assert not (tmp_path / "run").exists()

        status, _, said, _ = launch("train", *flags, "--noprobe_memory", folder=tmp_path, environment=inside)
        assert status == 1, said
        assert re.search(
            rf"rank [01] of 2 \(process \d+\) was killed by the kernel for want of memory \(oom_kill in {group}/\S+ "
            r"rose\): the largest process here had taken 0\.\d GB, and 0\.\d GB were left when it started",
            said,
        ), said
        assert "starting all ranks again" not in said


def test_an_allocation_that_fails_ends_in_one_line(launch, tone_corpus, tmp_path):
    flags = (*FLAGS[:5], f"--data_path={tone_corpus}", "--model.rnn_type=rnn")
    size = ("--model.hidden_size=65536", "--noprobe_memory", "--optim.schedule=constant", "--optim.learning_rate=0.01")
    status, _, said, _ = launch("train", *flags, *size, folder=tmp_path)  # within tests/commands.py's ulimit -v
    assert status == 1, said
    assert "Traceback" not in said
    assert re.search(r"^train: out of memory: .*alloc.*--model\.remat", said, re.MULTILINE), said
