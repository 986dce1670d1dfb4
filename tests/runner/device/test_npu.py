"""The NPU module without an NPU: stand-ins for torch_npu and for the device, and the sources of the real wheel."""

import ast
import importlib.metadata
import importlib.util
import os
import sys
import types
import zipfile
from pathlib import Path

import attrs
import pytest
import stand_in_device
import torch
from stand_in_device import OnDevice

from ds2f import optim, precision, steps, tree
from ds2f.config import ApexConfig, Config, ModelConfig, TrainingConfig
from ds2f.errors import InputError
from ds2f.runner.device import npu
from ds2f.runner.device.backend import open_backend
from ds2f.types import Batch

ROOT = Path(__file__).parents[3]
SOURCES = [ROOT / "ds2f" / "runner" / "device" / "npu.py", ROOT / "ds2f" / "runner" / "device" / "backend.py"]
RELEASE = torch.__version__.split("+")[0]


class FakeTorchNpu(types.ModuleType):
    """The part of torch_npu that the module uses, over one overflow flag that the tests set."""

    def __init__(self, devices=2, inf_nan=True):
        super().__init__("torch_npu")
        self.__spec__ = importlib.util.spec_from_loader("torch_npu", None)
        self.calls, self.flag = [], 0.0
        self.npu = types.SimpleNamespace(
            device_count=lambda: devices,
            set_device=lambda index: self.calls.append(f"set_device {index}"),
            get_device_name=lambda index: f"Ascend910 number {index}",
            set_compile_mode=lambda *, jit_compile: self.calls.append(f"jit_compile {jit_compile}"),
            config=types.SimpleNamespace(),
            conv=types.SimpleNamespace(),
            utils=types.SimpleNamespace(is_support_inf_nan=lambda: inf_nan),
        )

    def npu_clear_float_status(self, status):
        self.flag = 0.0
        return status

    def npu_get_float_status(self, status):
        assert (status.shape, status.dtype) == ((8,), torch.float32)
        return torch.cat([torch.full_like(status[:1], self.flag), status[1:]])


@pytest.fixture
def torch_npu(monkeypatch):
    fake = FakeTorchNpu()
    monkeypatch.setitem(sys.modules, "torch_npu", fake)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: RELEASE)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    return fake


def test_torch_npu_is_noticed_without_being_imported(torch_npu, monkeypatch):
    assert npu.installed()
    monkeypatch.delitem(sys.modules, "torch_npu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not npu.installed()


def test_the_devices_are_counted(torch_npu):
    assert npu.load() == 2


def test_without_torch_npu_the_message_says_what_to_install(torch_npu, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(npu.NpuError, match=rf"not installed; pip install torch_npu=={RELEASE}"):
        npu.load()


@pytest.mark.parametrize("version", ["2.1.0", "2.1.0.post12", "2.1.0rc1"])
def test_torch_npu_for_another_torch_is_refused(torch_npu, monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    with pytest.raises(npu.NpuError, match=rf"torch_npu {version} needs torch 2\.1\.0, found {RELEASE}"):
        npu.load()


@pytest.mark.parametrize("suffix", ["", ".post2", "rc1", ".dev20260801"])
def test_releases_of_torch_npu_for_this_torch_are_taken(torch_npu, monkeypatch, suffix):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: RELEASE + suffix)
    assert npu.load() == 2


def test_a_torch_built_for_cuda_is_refused_before_torch_npu_is_imported(torch_npu, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setitem(sys.modules, "torch_npu", None)  # its import would fail with another message
    with pytest.raises(npu.NpuError, match=rf"beside CUDA.*CPU build.*torch=={RELEASE}.*--device=cuda"):
        npu.load()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ImportError("libhccl.so: cannot open shared object file: No such file or directory. Please check that ..."),
            "does not load: libhccl.so is not found, so CANN is not installed or its environment is not set",
        ),
        (
            OSError("libascendcl.so.1: cannot open shared object file: No such file or directory"),
            "libascendcl.so.1 is not found",
        ),
        (
            ImportError("/x/libtorch_npu.so: undefined symbol: aclrtGetDeviceUtilizationRate"),
            "the installed CANN lacks aclrtGetDeviceUtilizationRate; it is of another version",
        ),
        (RuntimeError("Something else\nwith a second line"), "does not load: the import says: Something else."),
        (RuntimeError(), "does not load: the import says: RuntimeError."),
    ],
)
def test_a_torch_npu_that_does_not_load_names_the_library_and_the_remedy(torch_npu, monkeypatch, error, expected):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "torch_npu":
                raise error

    monkeypatch.delitem(sys.modules, "torch_npu")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(npu.NpuError) as raised:
        npu.load()
    assert expected in str(raised.value)
    assert "`source launch/env_npu.sh`" in str(raised.value)
    assert "set_env.sh" in str(raised.value)
    assert "another --device" in str(raised.value)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, r"ASCEND_RT_VISIBLE_DEVICES is not set"),
        ("4,5", r"ASCEND_RT_VISIBLE_DEVICES='4,5'"),
        ("", r"ASCEND_RT_VISIBLE_DEVICES=''"),
        ("3,1", r"ASCEND_RT_VISIBLE_DEVICES=3,1 is not ascending.*write 1,3"),
        ("2,2", r"ASCEND_RT_VISIBLE_DEVICES=2,2 is not ascending.*write 2\)"),
    ],
)
def test_no_visible_device_names_the_visible_ones(torch_npu, monkeypatch, visible, expected):
    torch_npu.npu.device_count = lambda: 0
    if visible is not None:
        monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", visible)
    with pytest.raises(npu.NpuError, match=rf"sees 0 devices.*{expected}.*npu-smi info"):
        npu.load()


def test_a_driver_that_does_not_answer_is_quoted(torch_npu):
    def fails():
        raise RuntimeError("aclrtGetDeviceCount: error 507033")

    torch_npu.npu.device_count = fails
    with pytest.raises(npu.NpuError, match=r"npu-smi info.*The driver says: .*507033"):
        npu.load()


def test_the_overflow_flag_is_cleared_and_read_on_the_device(torch_npu):
    cpu, meta = torch.device("cpu"), torch.device("meta")
    torch_npu.flag = 1.0
    flag = npu.overflowed(cpu)
    assert (flag.dtype, flag.shape, flag.item()) == (torch.bool, (), True)
    npu.clear_overflow(cpu)
    assert not npu.overflowed(cpu)
    npu.clear_overflow(meta)
    assert npu.overflowed(meta).device == meta, "reading a meta tensor on the host would have raised"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("HCCL error: EI0002: timed out", "; HCCL_CONNECT_TIMEOUT is 60 s, HCCL_EXEC_TIMEOUT is not set (1836 s)."),
        ("HCCL error: EI0002: timed out", "EI0002: a rank did not join a collective within HCCL_EXEC_TIMEOUT"),
        ("[EI0006] socket timeout", "EI0006: a rank was not reached within HCCL_CONNECT_TIMEOUT"),
        ("no code", "rank 11 is on NPU 3 of its machine; the job's store is at 10.0.0.7:29500;"),
        ("EI9999: unheard of", "(1836 s)."),
    ],
)
def test_hccls_errors_come_with_rank_device_address_limits_and_meaning(monkeypatch, message, expected):
    names = {"RANK": "11", "LOCAL_RANK": "3", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
    for name, value in {**names, "HCCL_CONNECT_TIMEOUT": "60"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HCCL_EXEC_TIMEOUT", raising=False)
    explained = npu.explain_hccl(message)
    assert expected in explained
    assert ("EI9999" in explained) is False


def make_fake_npu(fake):
    """A device called npu whose tensors lie on the CPU. It has to be made in a process of its own."""
    sys.modules["torch_npu"] = fake
    importlib.metadata.version = lambda _: RELEASE
    return stand_in_device.make("npu", lstm=ascends_lstm)


def ascends_lstm(x, hidden, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first):
    """``torch.lstm`` as Ascend's fast path takes it: one layer, one direction, four weights, one dtype, no bf16."""
    assert (len(weights), has_biases, num_layers, bidirectional, batch_first) == (4, True, 1, False, False)
    assert {x.dtype, *(w.dtype for w in weights)} in ({torch.float16}, {torch.float32})
    return stand_in_device.lstm(x, hidden, weights, True, 1, 0.0, True, False, False)


def run_in_its_own_process(call):
    stand_in_device.in_its_own_process(__name__.rpartition(".")[2], call)


def open_fake_npus():
    saturating = FakeTorchNpu(devices=4, inf_nan=False)
    _libraries = make_fake_npu(saturating)
    opened = open_backend("auto", local_rank=3, local_ranks=4)
    assert opened.device == torch.device("npu", 3)
    assert (opened.name, opened.description, opened.collectives) == ("npu", "Ascend910 number 3", "cpu:gloo,npu:hccl")
    assert (opened.engine, opened.start_method, opened.fused_optimizer, opened.pin_memory) == (
        "autograd", "spawn", False, False,
    )  # fmt: skip
    assert (opened.dtype("auto"), opened.saturates) == (torch.float16, True)
    assert saturating.calls == ["set_device 3", "jit_compile False"]
    assert saturating.npu.config.allow_internal_format is False
    assert saturating.npu.conv.allow_hf32 is False

    sys.modules["torch_npu"] = FakeTorchNpu(inf_nan=True)
    assert not open_backend("npu").saturates

    def busy(index):
        raise RuntimeError("error 507899")

    saturating.npu.set_device = busy
    sys.modules["torch_npu"] = saturating
    with pytest.raises(InputError, match=r"--device=npu: NPU 1 cannot be opened \(error 507899\).*npu-smi.*HwHiAiUser"):
        open_backend("npu", local_rank=1, local_ranks=4)
    with pytest.raises(InputError, match=r"nproc_per_node=8.*4 NPUs"):
        open_backend("auto", local_rank=1, local_ranks=8)


def test_a_process_takes_the_npu_of_its_rank_with_the_settings_for_speed():
    run_in_its_own_process("open_fake_npus()")


def train_on_a_fake_npu(kernel, opt_level):
    fake = FakeTorchNpu(inf_nan=False)
    _libraries = make_fake_npu(fake)
    backend = open_backend("npu")
    cfg = Config(
        model=ModelConfig(num_bins=33, hidden_size=8, hidden_layers=2, dropout=0.0, kernel=kernel),
        apex=ApexConfig(initial_scale=64.0),
        training=TrainingConfig(engine=backend.engine),
    )
    tx = optim.from_config(
        cfg.optim, lambda step: torch.full_like(step, 1e-3, dtype=torch.float32), fused=backend.fused_optimizer
    )
    loss = steps.objective(cfg.model, policy=precision.policy(opt_level, backend.dtype("auto")))
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        features=torch.randn(3, 33, 24, generator=generator),
        lengths=torch.tensor([24, 20, 16]),
        labels=torch.randint(1, 29, (3, 4), generator=generator),
        label_lengths=torch.tensor([4, 3, 2]),
        ids=torch.arange(3),
        weight=torch.tensor(1 / 3),
    )

    def step(state, batch, *, overflowed=None):
        return steps.train_step(state, batch, loss=loss, tx=tx, cfg=cfg, overflowed=overflowed)

    state = steps.init_state(cfg, tx, key=0)
    own = "fused" if kernel == "paired" else kernel  # the operator of an NPU takes one direction, and so its bits
    plain = steps.objective(
        attrs.evolve(cfg.model, kernel=own), policy=precision.policy(opt_level, backend.dtype("auto"))
    )
    expected, expected_metrics = steps.train_step(state, batch, loss=plain, tx=tx, cfg=cfg)

    placed, placed_batch = backend.place_state(state), backend.place(batch)
    assert all(isinstance(leaf, OnDevice) for leaf in tree.leaves(placed))
    assert {name for name, value in placed_batch._asdict().items() if isinstance(value, OnDevice)} == {
        "features", "labels", "weight",
    }  # fmt: skip
    backend.clear_overflow()
    OnDevice.done.clear()
    found, metrics = step(placed, placed_batch, overflowed=backend.overflowed)
    assert_nothing_came_to_the_host(OnDevice.done)
    assert_the_loss_was_computed_on_the_npu(OnDevice.done)
    assert metrics.finite.inner
    assert torch.equal(metrics.losses.inner, expected_metrics.losses)
    for path, leaf in tree.flatten_with_paths(found).items():
        assert torch.equal(leaf.inner, tree.flatten_with_paths(expected)[path]), path

    fake.flag = 1.0
    OnDevice.done.clear()
    refused, metrics = step(placed, placed_batch, overflowed=backend.overflowed)
    assert_nothing_came_to_the_host(OnDevice.done)
    assert not metrics.finite.inner
    for path, leaf in tree.flatten_with_paths(refused.params).items():
        assert torch.equal(leaf.inner, tree.flatten_with_paths(state.params)[path]), path
    assert refused.loss_scale.value.inner == state.loss_scale.value / 2


def assert_nothing_came_to_the_host(done):
    assert len(done) > 100
    assert not [name for name, *_, waits in done if waits]


def assert_the_loss_was_computed_on_the_npu(done):
    """The scores and labels were the device's, the lengths the CPU's."""
    (call,) = [entry for entry in done if entry[0].startswith("_ctc_loss") and "backward" not in entry[0]]
    assert [x.dtype for x in call[1]] == [torch.float32, torch.int64]
    assert [x.tolist() for x in call[2]] == [[12, 10, 8], [4, 3, 2]]


@pytest.mark.parametrize(("kernel", "opt_level"), [("scan", "O0"), ("fused", "O2"), ("paired", "O2")])
def test_a_training_step_stays_on_the_npu_and_equals_the_cpus(kernel, opt_level):
    run_in_its_own_process(f"train_on_a_fake_npu({kernel!r}, {opt_level!r})")


def test_the_stand_in_notices_what_it_is_there_to_notice():
    run_in_its_own_process("misuse_a_fake_npu()")


def misuse_a_fake_npu():
    _libraries = make_fake_npu(FakeTorchNpu())
    x = torch.ones(2, device="npu")
    for wait in (torch.Tensor.cpu, torch.Tensor.nonzero, lambda x: x[0].item(), lambda x: torch.zeros(2).copy_(x)):
        OnDevice.done.clear()
        wait(x)
        assert [name for name, *_, waits in OnDevice.done if waits], wait
    with pytest.raises(RuntimeError, match=r"add.* got tensors on the NPU and on the CPU"):
        x + torch.ones(2)
    weights = [torch.ones(4, 1, device="npu")] * 2 + [torch.ones(4, device="npu")] * 2
    with pytest.raises(AssertionError):
        torch.lstm(x.bfloat16()[:, None, None], (x[None, :1, None],) * 2, weights, True, 1, 0.0, True, False, False)


# The names that the module uses, in the sources of the wheel that belongs to the installed torch.


def names_used():
    """Every name below ``torch_npu`` and ``torch.npu`` in the module's source, with the keywords of its calls."""
    used = {}
    for path in SOURCES:
        parsed = ast.parse(path.read_text())
        inner = {id(node.value) for node in ast.walk(parsed) if isinstance(node, ast.Attribute)}
        for node in ast.walk(parsed):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) and id(node) not in inner else ""
            if name.startswith(("torch_npu.", "torch.npu.")):
                used.setdefault(name.replace("torch.npu.", "torch_npu.npu."), set())
        for node in ast.walk(parsed):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in used:
                used[ast.unparse(node.func)] |= {keyword.arg for keyword in node.keywords}
    return used


class Wheel:
    """The Python sources of torch_npu, read and never run."""

    def __init__(self, read):
        self.read = read  # the text of a file, or None
        # Operators live in compiled code; this file of the wheel declares them, and torch_npu exports them all.
        self.operators = read("torch_npu/csrc/aten/npu_native_functions_by_codegen.yaml") or ""

    @classmethod
    def of_this_torch(cls):
        """From an installation or from a wheel that lies ready; skips the test where there is neither."""
        spec = importlib.util.find_spec("torch_npu")
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parents[1]
            return cls(lambda name: (folder / name).read_text() if (folder / name).is_file() else None)
        folder = Path(os.environ.get("TORCH_NPU_WHEELS", ROOT / "build" / "wheels"))
        wheels = sorted(folder.glob(f"torch_npu-{RELEASE}*.whl"))
        if not wheels:
            pytest.skip(
                f"no torch_npu {RELEASE} installed and no wheel of it in {folder} (TORCH_NPU_WHEELS names another)"
            )
        archive = zipfile.ZipFile(wheels[-1])
        names = set(archive.namelist())
        return cls(lambda name: archive.read(name).decode() if name in names else None)

    def module(self, name):
        path = name.replace(".", "/")
        text = self.read(f"{path}/__init__.py") or self.read(f"{path}.py")
        return None if text is None else ast.parse(text)

    def find(self, module, name):
        """Looks ``name`` up in a module: a submodule's name, the node that defines it, an operator's line, or None."""
        if self.module(f"{module}.{name}") is not None:
            return f"{module}.{name}"
        for node in self.module(module).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                return node
            if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
                called = ast.unparse(node.value.func) if isinstance(node.value, ast.Call) else ""
                return self.resolve(f"{module}.{called}") if called else node
            if isinstance(node, ast.ImportFrom):
                source = f"{module}.{node.module}" if node.level else node.module
                for alias in node.names:
                    star = alias.name == "*" and self.module(source) is not None
                    found = self.find(source, name if star else alias.name) if star or alias.name == name else None
                    if found is not None:
                        return found
        lines = self.operators.splitlines() if module == "torch_npu" else []
        return next((line for line in lines if f" {name}(" in line), None)

    def resolve(self, dotted):
        """As ``find``, for a dotted name; attributes of an object count if its class compares names with theirs."""
        found, *rest = dotted.split(".")
        for part in rest:
            if isinstance(found, ast.ClassDef):
                strings = {node.value for node in ast.walk(found) if isinstance(node, ast.Constant)}
                found = found if part in strings else None
            else:
                found = self.find(found, part) if isinstance(found, str) and self.module(found) is not None else None
        return found


def test_every_name_of_torch_npu_that_is_used_exists_in_the_real_one():
    wheel, used = Wheel.of_this_torch(), names_used()
    assert len(used) > 5
    for name, keywords in used.items():
        found = wheel.resolve(name)
        assert found is not None, f"{name} is not in torch_npu {RELEASE}"
        if isinstance(found, ast.FunctionDef):
            accepted = {argument.arg for argument in found.args.args + found.args.kwonlyargs}
            assert keywords <= accepted, f"{name} takes {accepted} in torch_npu {RELEASE}"


@pytest.mark.parametrize(
    "name",
    ["torch_npu.npu.no_such", "torch_npu.npu.config.no_such", "torch_npu.npu_no_such", "torch_npu.no_such.module"],
)
def test_names_that_torch_npu_does_not_have_are_not_found(name):
    assert Wheel.of_this_torch().resolve(name) is None
