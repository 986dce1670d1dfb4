"""Which device is opened, in which dtype, and what is said when it is not there."""

import importlib.metadata

import pytest
import torch

from ds2f.errors import InputError
from ds2f.runner import backend
from ds2f.types import Batch


def make_batch():
    lengths = torch.tensor([3, 2])
    return Batch(torch.zeros(2, 4, 3), lengths, torch.zeros(2, 1), lengths, lengths, torch.ones(()))


def test_the_cpu_moves_nothing_and_takes_half_precision_only_where_it_is_fast(monkeypatch):
    opened, batch = backend.open_backend("cpu"), make_batch()
    assert opened.place(batch) is batch
    assert opened.engine == "func"
    for amx, avx512, expected in ((True, False, torch.bfloat16), (False, False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx512=avx512: avx512)
        assert backend.open_backend("cpu").dtype("auto") == expected
    assert opened.dtype("fp16") == torch.float16


def test_lengths_stay_on_the_cpu_wherever_the_features_go():
    elsewhere = backend.Backend("meta", torch.device("meta"), "", torch.float16, "func")
    placed = elsewhere.place(make_batch())
    assert {placed.features.device.type, placed.labels.device.type, placed.weight.device.type} == {"meta"}
    assert {placed.lengths.device.type, placed.label_lengths.device.type, placed.ids.device.type} == {"cpu"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA card")
def test_cuda_without_a_card_is_refused():
    with pytest.raises(InputError, match="no CUDA card"):
        backend.open_backend("cuda")


def test_npu_without_torch_npu_says_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError, match="pip install torch_npu=="):
        backend.open_backend("npu")


def test_npu_with_torch_npu_for_another_torch_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.1.0.post12")
    with pytest.raises(InputError, match=r"torch_npu 2\.1\.0.* needs torch 2\.1\.0, found"):
        backend.open_backend("npu")


def test_npu_without_cann_says_to_source_the_environment(monkeypatch):
    def unloadable(name):
        raise ImportError("libhccl.so: cannot open shared object file")

    monkeypatch.setattr(importlib.metadata, "version", lambda _: torch.__version__.split("+")[0])
    monkeypatch.setattr(importlib, "import_module", unloadable)
    with pytest.raises(InputError, match=r"libhccl\.so.*env_npu\.sh"):
        backend.open_backend("npu")


def test_npu_without_devices_names_the_visible_ones(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: torch.__version__.split("+")[0])
    monkeypatch.setattr(importlib, "import_module", lambda _: None)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,5")
    with pytest.raises(InputError, match=r"0 devices.*4,5.*npu-smi"):
        backend.open_backend("npu")


def test_bf16_is_refused_on_an_npu():
    npu = backend.Backend("npu", torch.device("cpu"), "", torch.float16, "autograd")
    assert npu.dtype("auto") == torch.float16
    with pytest.raises(InputError, match="fp16"):
        npu.dtype("bf16")
