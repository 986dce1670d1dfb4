"""Which device is opened, in which dtype, for which process, and the message when it is not available."""

import importlib.util
import logging
import os
import subprocess
import sys
import warnings

import pytest
import torch

from ds2f.errors import InputError
from ds2f.runner.device import backend, npu
from ds2f.types import Batch, LossScale, TrainState


def make_batch():
    lengths = torch.tensor([3, 2])
    return Batch(torch.zeros(2, 4, 3), lengths, torch.zeros(2, 1), lengths, lengths, torch.ones(()))


@pytest.fixture(autouse=True)
def _no_torch_npu(monkeypatch):
    """As on most machines; tests that want one say so."""
    monkeypatch.setattr(npu, "installed", lambda: False)


@pytest.fixture
def cuda_devices(monkeypatch):
    """Two devices that only note which of them a process takes."""
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"device {device.index}")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    return taken


def test_the_cpu_moves_nothing_and_takes_half_precision_only_where_it_is_fast(monkeypatch):
    opened, batch = backend.open_backend("cpu"), make_batch()
    assert opened.place(batch) is batch
    assert (opened.engine, opened.collectives, opened.start_method, opened.pin_memory) == (
        "func",
        "gloo",
        "fork",
        False,
    )
    for amx, avx512, expected in ((True, False, torch.bfloat16), (False, False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx512=avx512: avx512)
        assert backend.open_backend("cpu").dtype("auto") == expected
    assert opened.dtype("fp16") == torch.float16


def test_any_number_of_processes_shares_a_cpu():
    opened = [backend.open_backend("cpu", local_rank=rank, local_ranks=64) for rank in (0, 63)]
    assert opened[0] == opened[1]


def test_a_cpus_memory_is_the_peak_of_the_process_in_bytes():
    code = (
        "import torch; from ds2f.runner.device.backend import open_backend; opened = open_backend('cpu'); "
        "before = opened.memory(); torch.zeros(2**28, dtype=torch.uint8).fill_(1); print(opened.memory() - before)"
    )
    # A process inherits the peak of the one that started it, so a small one comes between.
    start = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    result = subprocess.run([sys.executable, "-c", start, code], capture_output=True, text=True, check=True)
    assert 0.9 * 2**28 < int(result.stdout) < 1.2 * 2**28


def test_a_device_without_an_overflow_flag_never_overflowed():
    opened = backend.open_backend("cpu")
    opened.clear_overflow()
    flag = opened.overflowed()
    assert not opened.saturates
    assert (flag.dtype, flag.shape, flag.item()) == (torch.bool, (), False)


def test_lengths_stay_on_the_cpu_wherever_the_features_go():
    elsewhere = backend.Backend("meta", torch.device("meta"), "", torch.float16)
    placed = elsewhere.place(make_batch())
    assert {placed.features.device.type, placed.labels.device.type, placed.weight.device.type} == {"meta"}
    assert {placed.lengths.device.type, placed.label_lengths.device.type, placed.ids.device.type} == {"cpu"}


def test_a_state_is_moved_whole():
    elsewhere = backend.Backend("meta", torch.device("meta"), "", torch.float16)
    here = torch.zeros(2)
    placed = elsewhere.place_state(TrainState(here, {"w": [here]}, {}, (here,), LossScale(here, here)))
    assert isinstance(placed.loss_scale, LossScale)
    assert {
        placed.step.device.type, placed.params["w"][0].device.type, placed.opt_state[0].device.type,
        placed.loss_scale.value.device.type,
    } == {"meta"}  # fmt: skip


def test_an_unknown_device_is_refused():
    with pytest.raises(InputError, match=r"--device=tpu.*auto, npu, cuda or cpu"):
        backend.open_backend("tpu")


def test_cuda_without_a_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match=r"no CUDA device \(CUDA_VISIBLE_DEVICES is \).*nvidia-smi.*--device=cpu"):
        backend.open_backend("cuda")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_takes_the_cuda_device_of_its_own_rank(cuda_devices, name):
    opened = backend.open_backend(name, local_rank=1, local_ranks=2)
    assert cuda_devices == [opened.device] == [torch.device("cuda", 1)]
    assert (opened.name, opened.description, opened.collectives) == ("cuda", "device 1", "cpu:gloo,cuda:nccl")
    assert (opened.engine, opened.start_method, opened.pin_memory) == ("autograd", "fork", True)
    assert not opened.saturates
    assert opened.dtype("auto") == torch.float16, "bf16 that is only emulated is not fast"


def test_cudnns_warning_about_a_method_that_users_do_not_have_is_silent(cuda_devices, recwarn):
    backend.open_backend("cuda")
    warnings.warn("RNN module weights are not part of single contiguous chunk of memory. This means", stacklevel=1)
    warnings.warn("another", stacklevel=1)
    assert [str(each.message) for each in recwarn] == ["another"]


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_more_processes_than_devices_are_refused_with_both_numbers(cuda_devices, name):
    with pytest.raises(
        InputError, match=r"nproc_per_node=8.*2 CUDA devices.*nproc_per_node=2.*data\.global_batch_size.*--device=cpu"
    ):
        backend.open_backend(name, local_rank=5, local_ranks=8)
    assert cuda_devices == []


def test_bf16_is_refused_on_an_npu():
    opened = backend.Backend("npu", torch.device("cpu"), "", torch.float16)
    assert opened.dtype("auto") == torch.float16
    with pytest.raises(InputError, match="fp16"):
        opened.dtype("bf16")


def unusable():
    raise npu.NpuError("there is no CANN; do this")


def test_an_npu_that_was_asked_for_and_cannot_be_used_is_an_error(monkeypatch):
    monkeypatch.setattr(npu, "load", unusable)
    with pytest.raises(InputError, match="--device=npu: there is no CANN; do this"):
        backend.open_backend("npu")


def test_auto_passes_over_an_npu_that_cannot_be_used_and_says_so_once_per_machine(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(npu, "installed", lambda: True)
    monkeypatch.setattr(npu, "load", unusable)
    with caplog.at_level(logging.WARNING):
        for rank in range(3):
            assert backend.open_backend(local_rank=rank, local_ranks=3).name == "cpu"
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ds2f.runner.device.backend", "WARNING", "--device=auto passes over the NPU: there is no CANN; do this")
    ]


def test_auto_says_nothing_where_no_npu_is_installed(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backend.open_backend().name == "cpu"
    assert not caplog.records


def test_auto_does_not_fall_back_when_there_are_npus_but_too_few(monkeypatch):
    monkeypatch.setattr(npu, "installed", lambda: True)
    monkeypatch.setattr(npu, "load", lambda: 1)
    with pytest.raises(InputError, match=r"nproc_per_node=2: this machine has 1 NPU, "):
        backend.open_backend(local_rank=0, local_ranks=2)


@pytest.mark.skipif(importlib.util.find_spec("torch_npu") is not None, reason="torch_npu is installed")
def test_nothing_of_torch_npu_is_needed_or_imported_without_one():
    code = (
        "import sys; from ds2f.runner.device.backend import open_backend; open_backend('auto'); "
        "assert not [name for name in sys.modules if name.startswith('torch_npu')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


ONE_LENGTH_AFTER_A_HUNDRED_OTHERS = """
from ds2f.runner.device.backend import open_backend
open_backend("cpu")
import torch
with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON_CREATION):
    for width in [*range(10, 110), 10]:
        torch.nn.functional.conv2d(torch.ones(2, 16, 32, width), torch.ones(16, 16, 3, 3))
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(("asked_for", "expected"), [(None, "cache_miss"), ("1024", "cache_hit")])
def test_onednn_does_not_keep_a_program_for_every_length_unless_told_to(asked_for, expected):
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {name: asked_for} if asked_for else {}
    command = [sys.executable, "-c", ONE_LENGTH_AFTER_A_HUNDRED_OTHERS]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    made = [line for line in output.splitlines() if "create:" in line and ",convolution," in line]
    assert f"create:{expected}" in made[-1]
