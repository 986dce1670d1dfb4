"""Versions, drivers and firmware as their files and programs tell them, with stand-ins for both."""

import configparser
import importlib.metadata
import re
import stat
from pathlib import Path

import pytest
import torch

from ds2f.errors import InputError
from ds2f.runner.device import inspection, npu

REPOSITORY = Path(__file__).parents[3]
BOARD = """
        NPU ID                         : 0
        Software Version               : {driver}
        Firmware Version               : 7.8.0.2.212
        Compatibility                  : {fits}
"""


@pytest.fixture
def root(monkeypatch, tmp_path):
    """An empty system, on which no program of a driver is installed."""
    monkeypatch.setattr(inspection, "ROOT", tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(npu, "installed", lambda: False)
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def program(root, name, text, *, status=0, before=""):
    file = root / "bin" / name
    file.write_text(f"#!/bin/sh\n{before}\ncat <<'END'\n{text}\nEND\nexit {status}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def by_name(findings):
    return {found.name: found for found in findings}


def install_torch_npu(monkeypatch, version, torch_version=None):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    monkeypatch.setattr(npu, "installed", lambda: True)
    monkeypatch.setattr(torch, "__version__", torch_version or f"{version}+cpu")


def test_the_kind_of_device_is_told_by_files_and_programs(root, monkeypatch):
    assert inspection.likely_kind("auto") == "cpu"
    program(root, "nvidia-smi", "")
    assert inspection.likely_kind("auto") == "cuda"
    write(root / "dev/davinci0", "")
    assert inspection.likely_kind("auto") == "npu"
    assert inspection.likely_kind("cpu") == "cpu"


@pytest.mark.parametrize(
    ("version", "cuda", "kind", "verdict"),
    [
        ("2.13.0+cpu", None, "cpu", "ok"),
        ("2.13.0+cu130", "13.0", "cuda", "ok"),
        ("2.13.0+cpu", None, "cuda", "wrong"),
        ("2.10.1", None, "cpu", "wrong"),
        ("2.14.0", None, "cpu", "wrong"),
    ],
)
def test_torch_fits_the_device_and_the_tested_releases(root, monkeypatch, version, cuda, kind, verdict):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found = by_name(inspection.versions(kind))["torch"]
    assert found.verdict == verdict
    assert bool(found.remedy) == (verdict != "ok")


def test_the_tested_releases_are_those_of_the_installation():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    low, high = re.search(r"^torch>=([\d.]+),<([\d.]+)$", setup["options"]["install_requires"], re.MULTILINE).groups()
    assert tuple(tuple(map(int, each.split("."))) for each in (low, high)) == inspection.TORCH


@pytest.mark.parametrize(
    ("torch_npu", "cann", "verdict"),
    [("2.12.0", "9.1.0", "ok"), ("2.12.0.post2", "9.0.0", "wrong"), ("2.13.0", "9.2.0", "ok"), ("2.12.0", "", "ok")],
)
def test_cann_fits_torch_npu(root, monkeypatch, torch_npu, cann, verdict):
    install_torch_npu(monkeypatch, torch_npu, f"{torch_npu[:6]}+cpu")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(root / "cann"))
    if cann:
        write(root / "cann/aarch64-linux/ascend_toolkit_install.info", f"package_name=Ascend-cann\nversion={cann}\n")
    found = by_name(inspection.versions("npu"))
    assert found["torch_npu"].verdict == "ok"
    assert found["CANN"].verdict == verdict
    assert (cann or "unknown") in found["CANN"].found


def test_cann_whose_environment_is_not_set(root):
    write(root / "usr/local/Ascend/ascend-toolkit/set_env.sh", "")
    found = by_name(inspection.versions("npu"))
    assert (found["CANN"].verdict, found["CANN"].remedy) == ("missing", "source launch/env_npu.sh")
    assert found["torch_npu"].verdict == "missing"
    assert found["torch_npu"].remedy.startswith("pip install torch_npu==")


@pytest.mark.parametrize(
    ("driver", "cann", "fits", "verdicts"),
    [
        ("25.5.0", "9.1.0", "OK", ("ok", "ok")),
        ("23.0.5", "9.1.0", "OK", ("wrong", "ok")),
        ("23.0.5", "8.5.0", "NOT OK", ("ok", "wrong")),
    ],
)
def test_the_driver_fits_cann_and_the_firmware_fits_the_driver(root, monkeypatch, driver, cann, fits, verdicts):
    program(root, "npu-smi", BOARD.format(driver=driver, fits=fits))
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(root / "cann"))
    write(root / "cann/x86_64-linux/ascend_toolkit_install.info", f"version={cann}\n")
    found = by_name(inspection.driver("npu"))
    assert (found["driver"].verdict, found["firmware"].verdict) == verdicts
    assert driver in found["driver"].found


@pytest.mark.parametrize(
    ("driver", "cuda", "verdict"),
    [("580.95.05", "13.0", "ok"), ("550.54.15", "13.0", "wrong"), ("550.54.15", "12.8", "ok"), ("1.2", None, "ok")],
)
def test_nvidias_driver_fits_cuda(root, monkeypatch, driver, cuda, verdict):
    program(root, "nvidia-smi", f"{driver}\n{driver}")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    (found,) = inspection.driver("cuda")
    assert found.verdict == verdict


def test_a_driver_whose_program_hangs_or_fails(root, monkeypatch):
    monkeypatch.setattr(inspection, "_ANSWER", 0.5)
    program(root, "nvidia-smi", "", before="exec sleep 60")
    (found,) = inspection.driver("cuda")
    assert (found.verdict, found.found) == ("missing", "nvidia-smi gives no answer within 0.5 s")
    program(root, "nvidia-smi", "NVIDIA-SMI has failed", status=9)
    (found,) = inspection.driver("cuda")
    assert found.found == "nvidia-smi ends with status 9: NVIDIA-SMI has failed"
    write(root / "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Kernel Module  580.95.05  Tue\nGCC\n")
    assert inspection.driver_version("cuda") == "580.95.05"
    (found,) = inspection.driver("cuda")
    assert found.verdict == "ok"


def test_a_cpu_has_no_driver_and_counts_as_one_device(root):
    assert not list(inspection.driver("cpu"))
    assert (inspection.driver_version("cpu"), inspection.count("cpu")) == ("", 1)


def test_devices_that_are_not_there(root, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=r"no CUDA device is visible.*nvidia-smi"):
        inspection.count("cuda")
    with pytest.raises(InputError, match="torch_npu"):
        inspection.count("npu")
