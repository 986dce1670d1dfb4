"""Faults planted one by one, by stand-ins for operators, libraries and the machine: doctor names each by its line."""

import importlib.metadata
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
import torch
from torch.nn import functional as F

from ds2f import config, ctc, optim
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.model import lstm_cell
from ds2f.runner.device import inspection, npu
from ds2f.runner.device.backend import Backend
from launch.doctor import all_reduce, cards, host_limits, training_check
from launch.doctor.all_checks import checks
from launch.doctor.check_session import Session
from launch.doctor.verdict import MISSING, OK, SLOW, WRONG

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CPU = Backend("cpu", torch.device("cpu"), "CPU", torch.float32)


@pytest.fixture
def session(tmp_path):
    """On the CPU, with a run folder of its own."""
    cfg = Config(device="cpu", run_dir=str(tmp_path / "runs"))
    model = attrs.evolve(cfg.model, hidden_size=16, hidden_layers=1)
    return Session(config.resolve(attrs.evolve(cfg, model=model, optim=attrs.evolve(cfg.optim, schedule="constant"))))


@pytest.fixture
def lines(session):
    """The lines of the checks of a name, by name."""

    def run(name):
        found = [line for check in checks() if check.name == name for line in check.run(session)]
        assert found, name
        return {line.name: line for line in found}

    return run


def lstm_without_derivative(real):
    """As an operator that a device overrides without a derivative of its own: zeros through torch.func."""

    def lstm(*arguments):
        outputs = real(*arguments)
        transformed = torch._C._functorch.peek_interpreter_stack() is not None
        return tuple(y.detach() for y in outputs) if transformed else outputs

    return lstm


def test_an_lstm_backward_of_zeros_through_the_func_engine(lines, session, monkeypatch):
    monkeypatch.setattr(torch, "lstm", lstm_without_derivative(torch.lstm))
    found = lines("lstm fp32")
    func, autograd = found["lstm fp32, func"], found["lstm fp32, autograd"]
    assert (func.verdict, func.found) == (WRONG, "the gradient is zero, without an error")
    assert (autograd.verdict, func.needed) == (OK, True)
    assert func.remedy == "--model.kernel=scan"
    session._backend = attrs.evolve(CPU, name="npu", device=torch.device("cpu"))
    assert lines("lstm scan fp32")["lstm scan fp32, func"].verdict == OK


def test_an_engine_that_auto_does_not_take_is_not_needed(lines, session, monkeypatch):
    monkeypatch.setattr(Backend, "engine", property(lambda _: "autograd"))
    monkeypatch.setattr(torch, "lstm", lstm_without_derivative(torch.lstm))
    func = lines("lstm fp32")["lstm fp32, func"]
    assert (func.verdict, func.needed) == (WRONG, False)
    assert func.remedy == "leave --training.engine=auto, which takes autograd here"


def scaled(real, factor):
    return lambda *arguments, **keywords: factor * real(*arguments, **keywords)


def fails(*_, **__):
    raise RuntimeError('"some_kernel" not implemented for Half\nand a stack')


@pytest.mark.parametrize(
    ("name", "operator", "stand_in", "verdict", "found"),
    [
        ("convolution fp32", (F, "conv2d"), lambda real: scaled(real, 1.01), WRONG, "forward pass is off by 1.0e-02"),
        ("convolution fp16", (F, "conv2d"), lambda _: fails, MISSING, 'fails: "some_kernel" not implemented for Half'),
        ("gru fp32", (torch, "gru"), lambda real: lambda *a: tuple(2 * y for y in real(*a)), WRONG, "forward pass is"),
        ("batch norm fp32", (torch, "addcmul"), lambda real: scaled(real, torch.nan), WRONG, "forward pass is off"),
    ],
)  # fmt: skip
def test_an_operator_that_is_wrong_or_missing(lines, monkeypatch, name, operator, stand_in, verdict, found):
    module, function = operator
    expected = lines(name)
    assert {line.verdict for line in expected.values()} == {OK}
    real = getattr(module, function)
    only = stand_in(real)

    def planted(*arguments, **keywords):
        wide = any(isinstance(each, torch.Tensor) and each.dtype == torch.float64 for each in arguments)
        return (real if wide else only)(*arguments, **keywords)

    monkeypatch.setattr(module, function, planted)
    for line in lines(name).values():
        assert line.verdict == verdict
        assert line.found.startswith(found)
        assert line.remedy


def test_nan_hidden_by_saturation(lines, session, monkeypatch):
    assert lines("overflow")["overflow fp32"].verdict == OK
    for name, real in (("mm", torch.mm), ("div", torch.div)):
        monkeypatch.setattr(torch, name, lambda *a, real=real: torch.nan_to_num(real(*a)))
    session._backend = attrs.evolve(CPU, fast_dtype=torch.float16)
    found = lines("overflow")
    assert found["overflow fp16"].verdict == WRONG
    assert found["overflow fp16"].found == "infinity and NaN hidden by saturation, no flag raised"
    assert found["overflow fp16"].remedy == "--apex.opt_level=O0 --apex.loss_scale=1"


@pytest.mark.parametrize(
    ("flag", "verdict", "found"), [(None, OK, "flag"), (True, WRONG, "every step would be skipped")]
)
def test_a_saturating_device_shows_overflow_by_its_flag_alone(lines, session, monkeypatch, flag, verdict, found):
    noted = [False]

    def saturating(real):
        def operator(*arguments):
            value = real(*arguments)
            noted[0] |= not bool(torch.isfinite(value).all())
            return torch.nan_to_num(value)

        return operator

    for name in ("mm", "div"):
        monkeypatch.setattr(torch, name, saturating(getattr(torch, name)))
    monkeypatch.setattr(npu, "clear_overflow", lambda _: noted.__setitem__(0, False))
    monkeypatch.setattr(npu, "overflowed", lambda _: torch.tensor(noted[0] if flag is None else flag))
    session._backend = attrs.evolve(CPU, saturates=True)
    line = lines("overflow")["overflow fp32"]
    assert line.verdict == verdict
    assert found in line.found


@pytest.mark.parametrize("impl", ["native", "scan"])
def test_a_wrong_ctc_gradient(lines, monkeypatch, impl):
    real = ctc.IMPLEMENTATIONS[impl]

    def doubled(*arguments, **keywords):
        losses = real(*arguments, **keywords)
        return torch.where(losses == torch.inf, losses, 2 * losses - losses.detach())

    with monkeypatch.context() as patch:
        patch.setitem(ctc.IMPLEMENTATIONS, impl, doubled)
        line = lines(f"ctc {impl}")[f"ctc {impl}"]
    assert (line.verdict, line.needed) == (WRONG, impl == "native")
    assert line.found == "gradient of an ordinary target is off by 1.0e+00"
    assert line.remedy == ("--model.ctc=scan" if impl == "native" else "--model.ctc=native")
    assert lines(f"ctc {impl}")[f"ctc {impl}"].verdict == OK


def with_loss(row, value):
    def stand_in(losses):
        return torch.cat([losses[:row], losses[row : row + 1] * 0 + value, losses[row + 1 :]])

    return stand_in


@pytest.mark.parametrize(
    ("stand_in", "found"),
    [
        (with_loss(1, 0.5), "loss of an empty target is 0.5"),
        (with_loss(2, 0.5), "loss of repeated labels is 0.5"),
        (lambda losses: torch.nan_to_num(losses, posinf=0.0), "loss of an infeasible target is 0, not infinite"),
    ],
)
def test_a_wrong_edge_case_of_ctc_is_named(lines, monkeypatch, stand_in, found):
    real = ctc.native
    monkeypatch.setitem(ctc.IMPLEMENTATIONS, "native", lambda *a, **k: stand_in(real(*a, **k)))
    assert lines("ctc native")["ctc native"].found.startswith(found)


def test_a_ctc_library_that_is_not_installed_is_missing_and_not_needed(lines, monkeypatch):
    def not_installed(impl, *, device):
        raise InputError("model.ctc: warp-ctc is not installed")

    monkeypatch.setattr(ctc, "require", not_installed)
    line = lines("ctc warpctc")["ctc warpctc"]
    assert (line.verdict, line.needed) == (MISSING, False)


def test_an_optimizer_kernel_that_ignores_the_verdict(lines, monkeypatch):
    real = torch._fused_adamw_

    def ignoring(*arguments, found_inf, **keywords):
        real(*arguments, found_inf=None, **keywords)

    monkeypatch.setattr(torch, "_fused_adamw_", ignoring)
    line = lines("optimizer adamw")["optimizer adamw"]
    assert (line.verdict, line.found) == (WRONG, "a step that is not finite changes parameters or moments")
    assert line.remedy == "--optim.name=lamb"


def test_an_optimizer_that_computes_something_else(lines, monkeypatch):
    real = optim.from_config
    monkeypatch.setattr(
        optim, "from_config", lambda cfg, rate, *, fused: real(cfg, 2 * rate if fused else rate, fused=fused)
    )
    assert lines("optimizer sgd")["optimizer sgd"].found.startswith("parameters are off by")


def test_a_training_step_that_differs_from_the_cpu_or_from_itself(lines, monkeypatch):
    assert lines("small, fp32")["small, fp32"].verdict == OK
    with monkeypatch.context() as patch:
        real, calls = torch.lstm, []

        def unsteady(*arguments):
            calls.append(0)
            y, *state = real(*arguments)
            return (y + len(calls) * arguments[0].mean(-1, keepdim=True), *state)

        patch.setattr(torch, "lstm", unsteady)
        wrong, bits = lines("small, fp32")["small, fp32"], lines("same bits")["same bits"]
    assert (wrong.verdict, bits.verdict, bits.needed) == (WRONG, WRONG, False)
    assert "rnn_0" in bits.found
    monkeypatch.setattr(torch, "isfinite", lambda value: torch.ones_like(value, dtype=torch.bool))
    assert lines("bad step")["bad step"].verdict == WRONG


@pytest.mark.parametrize(("least", "verdict"), [(1e9, SLOW), (0.0, OK)])
def test_a_slow_step_and_a_fast_one(lines, monkeypatch, least, verdict):
    monkeypatch.setattr(training_check, "_SLOW", least)
    monkeypatch.setattr(training_check, "_ROUNDS", 2)
    monkeypatch.setattr(training_check, "frames_like_an4", lambda quantiles: [60] * len(quantiles))
    (line,) = lines("real size").values()
    assert (line.name, line.verdict) == ("1 x 16, batch 10", verdict)
    assert "utt/s" in line.found


def test_a_step_that_takes_too_much_memory(lines, monkeypatch):
    monkeypatch.setattr(training_check, "make_batch", fails)
    (line,) = lines("real size").values()
    assert (line.verdict, line.remedy) == (WRONG, "--model.remat, or a smaller --data.batch_size")


# The machine.


def test_no_shared_memory(lines, monkeypatch, tmp_path):
    assert lines("/dev/shm")["/dev/shm"].verdict in (OK, WRONG)
    monkeypatch.setattr(host_limits, "SHARED_MEMORY", tmp_path / "none")
    line = lines("/dev/shm")["/dev/shm"]
    assert (line.verdict, line.needed) == (MISSING, True)
    assert "--data.num_workers=0" in line.remedy
    monkeypatch.setattr(host_limits, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(host_limits, "_SHARED", 1 << 60)
    assert lines("/dev/shm")["/dev/shm"].verdict == WRONG


@pytest.mark.parametrize(("hard", "remedy"), [(4096, "ulimit -n 4096,"), (64, "have the hard limit raised")])
def test_a_low_limit_of_open_files(lines, monkeypatch, hard, remedy):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, hard))
    line = lines("open files")["open files"]
    assert (line.verdict, line.found) == (WRONG, "64; loader processes need 1,024")
    assert line.remedy.startswith(remedy)


@pytest.mark.parametrize(("threads", "remedy"), [("64", "wait for each other"), ("1", "a part of the processors")])
def test_threads_that_do_not_fit_the_processors(lines, monkeypatch, threads, remedy):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: int(threads))
    monkeypatch.setattr(host_limits, "cpu_count", lambda: 8)
    line = lines("processors")["processors"]
    assert line.verdict == SLOW
    assert remedy in line.remedy


def test_the_c_extension_that_is_there_is_not_and_does_not_load(lines, monkeypatch):
    def refuse():
        raise InputError("m/_lstm_cell.abi3.so cannot be loaded: no ELF; build it again (pip install .)")

    built = lstm_cell.Native(forward=print, backward=print, capability=1)
    expected = {
        (OK, "built, runs AVX2"): lambda: built,
        (SLOW, "not built: model.kernel=hoisted is slower"): lambda: None,
        (WRONG, "m/_lstm_cell.abi3.so cannot be loaded: no ELF"): refuse,
    }
    for found, native in expected.items():
        monkeypatch.setattr(lstm_cell, "native", native)
        line = lines("C extension")["C extension"]
        assert ((line.verdict, line.found), line.needed) == (found, False)
        assert ("pip install ." in line.remedy) == (line.verdict != OK)


def test_a_slow_disk_a_full_disk_and_one_without_locks(lines, monkeypatch):
    monkeypatch.setattr(host_limits, "_SLOW_DISK", 1e15)
    assert lines("disk")["disk"].verdict == SLOW
    monkeypatch.setattr(host_limits, "_SPACE", 1 << 60)
    assert lines("run folder")["run folder"].verdict == WRONG
    assert lines("file locks")["file locks"].verdict == OK

    def refused(*_):
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(host_limits.fcntl, "flock", refused)
        assert lines("file locks")["file locks"].verdict == MISSING
    with monkeypatch.context() as patch:
        patch.setattr(host_limits.fcntl, "flock", lambda *_: None)
        assert lines("file locks")["file locks"].found == "two processes get one lock"
    monkeypatch.setattr(os, "link", refused)
    assert lines("file locks")["file locks"].found == "no hard links: Operation not supported"


def test_a_run_folder_that_cannot_be_written(lines, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(host_limits.tempfile, "TemporaryDirectory", refused)
    assert lines("run folder")["run folder"].found == "cannot be written: Permission denied"


def test_little_memory(lines, monkeypatch):
    monkeypatch.setattr(host_limits, "_MEMORY", 1 << 60)
    line = lines("memory")["memory"]
    assert (line.verdict, line.remedy[:13]) == (WRONG, "--model.remat")


# Cards and libraries.


def test_a_card_that_does_not_open_and_one_that_multiplies_wrongly(session, monkeypatch):
    def opens(kind, *, local_rank=0, local_ranks=1):
        if local_rank == 1:
            raise InputError("CUDA error: busy")
        return CPU

    monkeypatch.setattr(inspection, "count", lambda _: 3)
    monkeypatch.setattr(cards, "open_backend", opens)
    session.kind, session._backend = "cuda", CPU
    first, second, third = cards._cards(session)
    assert (first.verdict, second.verdict, third.verdict) == (OK, WRONG, OK)
    assert second.found == "CUDA error: busy"
    monkeypatch.setattr(torch, "ones", torch.zeros)
    assert [line.verdict for line in cards._cards(session)] == [WRONG, WRONG, WRONG]


def test_half_precision_that_is_slower_than_fp32(lines, monkeypatch, session):
    speeds = {torch.float32: 2e9, torch.bfloat16: 1e9, torch.float16: 4e9}
    monkeypatch.setattr(cards, "_speed", lambda _, dtype: speeds[dtype])
    session._backend = attrs.evolve(CPU, fast_dtype=torch.bfloat16)
    found = lines("matrix products")
    assert [line.verdict for line in found.values()] == [OK, SLOW, OK]
    assert found["products bf16"].remedy == "--apex.opt_level=O0"


HCCL = """
import sys, time
sys.path[:0] = {paths!r}
import test_collectives
from launch.doctor import all_reduce
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed import worker
import torch
test_collectives.use_gloo_as_hccl()
backend = Backend("cpu", torch.device("cpu"), "stand-in", torch.float16, collectives="hccl")
all_reduce.open_backend = lambda *_, **__: backend
{fault}
sys.exit(worker.work(lambda: all_reduce.work(sys.argv[1], __import__("pathlib").Path(sys.argv[2]))))
"""
WRONG_SUM = """
real = all_reduce._sums
all_reduce._sums = lambda *a: ((name, right and name != "bf16") for name, right in real(*a))
"""


@pytest.mark.parametrize(
    ("fault", "limit", "verdict", "found"),
    [
        ("", 60.0, OK, "right sums; "),
        ("if worker.job().local_rank == 1: time.sleep(600)", 8.0, WRONG, "it stalls: no end after 8 s; rank"),
        pytest.param(
            *("if worker.job().local_rank == 1: sys.exit('EI0006')", 60.0, WRONG, "rank 1 of 2 (process "),
            marks=pytest.mark.long,
        ),
        (WRONG_SUM, 60.0, WRONG, "wrong sums in bf16"),
    ],
)
def test_hccl_that_works_stalls_dies_or_sums_wrongly(session, monkeypatch, fault, limit, verdict, found):
    tests = [str(ROOT / "tests/runner/distributed"), str(ROOT / "tests")]
    monkeypatch.setattr(all_reduce, "COMMAND", (sys.executable, "-c", HCCL.format(paths=tests, fault=fault)))
    monkeypatch.setattr(all_reduce, "LIMIT", limit)
    monkeypatch.setattr(all_reduce, "_SLOW", 0.0)
    monkeypatch.setattr(inspection, "count", lambda _: 2)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    session.kind = "npu"
    began = time.monotonic()
    (line,) = all_reduce._all_reduce(session)
    assert (line.name, line.verdict, line.needed) == ("HCCL, 2 cards", verdict, True)
    assert line.found.startswith(found)
    assert ("--nproc_per_node=1" in line.remedy) == (verdict == WRONG)
    assert time.monotonic() - began < limit + 10


def test_cann_that_is_missing(session, monkeypatch):
    def no_library():
        raise npu.NpuError("torch_npu 2.13.0 does not load: libhccl.so is not found, so CANN is not installed")

    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(inspection, "ROOT", Path("/nowhere"))
    monkeypatch.setattr(npu, "load", no_library)
    session.kind = "npu"
    found = {line.name: line for check in cards.versions() for line in check.run(session)}
    assert (found["CANN"].verdict, found["CANN"].found) == (MISSING, "not installed")
    assert (found["driver"].verdict, found["driver"].found) == (MISSING, "npu-smi is not found")
    (line,) = cards._cards(session)
    assert line.verdict == MISSING
    assert "libhccl.so is not found" in line.found
    assert not list(all_reduce._all_reduce(session)), "the check of the cards has said it"


def test_versions_that_do_not_fit(session, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.1.0.post12")
    monkeypatch.setattr(npu, "installed", lambda: True)
    session.kind = "npu"
    found = {line.name: line for check in cards.versions() for line in check.run(session)}
    assert found["torch_npu"].verdict == WRONG
    assert "torch_npu 2.1.0.post12 needs torch 2.1.0, found" in found["torch_npu"].found
    assert found["torch_npu"].remedy == "install the matching pair"


ON_A_STAND_IN_NPU = """
import sys
sys.path[:0] = {paths!r}
import test_npu
libraries = test_npu.make_fake_npu(test_npu.FakeTorchNpu(inf_nan=False))
from ds2f import config
from ds2f.config import Config
from launch.doctor.all_checks import checks
from launch.doctor.check_session import Session
session = Session(config.resolve(Config(device="npu")))
for check in checks():
    if check.name in {names!r}:
        for line in check.run(session):
            print(line.name, line.verdict, line.needed, line.found, line.remedy, sep="|")
"""


def test_the_operators_of_a_stand_in_npu():
    names = ("convolution fp32", "lstm fp32", "lstm fp16", "lstm bf16", "ctc native", "overflow", "optimizer adamw")
    names = (*names, "ctc scan", "optimizer sgd", "small, fp32")
    paths = [str(ROOT / "tests/runner/device"), str(ROOT / "tests")]
    code = ON_A_STAND_IN_NPU.format(paths=paths, names=names)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = {name: rest for name, *rest in (line.split("|") for line in ended.stdout.splitlines())}
    for name in (
        "lstm fp32, autograd",
        "lstm fp16, autograd",
        "ctc native",
        "overflow fp16",
        "optimizer adamw",
        "small, fp32",
    ):
        assert found[name][:2] == [OK, "True"], (name, found[name])
    for name in ("lstm fp32, func", "lstm fp16, func"):
        verdict, needed, _, remedy = found[name]
        assert (verdict, needed) == (WRONG, "False"), found[name]
        assert remedy == "leave --training.engine=auto, which takes autograd here"
    assert found["bf16"][:2] == [MISSING, "False"]
