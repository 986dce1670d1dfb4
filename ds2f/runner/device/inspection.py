"""What is installed for a kind of device, told without opening one: versions that fit or not, driver, firmware.

Sources: the compatibility tables of Ascend/pytorch (COMPATIBILITY.md) and of the release notes of CANN 9.2.0, and
NVIDIA's table of minimum driver versions (CUDA compatibility). A pair that no table names is judged when it is loaded.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from ds2f.errors import InputError
from ds2f.runner.device import npu

ROOT = Path("/")
TORCH = ((2, 11), (2, 14))  # from, up to but without; as setup.cfg says
_ANSWER = 15.0  # seconds for nvidia-smi and npu-smi
_CANN = {"2.11": "9.1", "2.12": "9.1"}  # by release of torch_npu
_ASCEND_DRIVER = {"9.1": (25, 2), "9.2": (25, 3)}  # the oldest, by release of CANN
_NVIDIA_DRIVER = {"11": (450, 80), "12": (525, 60), "13": (580, 65)}  # the oldest, by release of CUDA
_TORCH_BUILDS = "https://pytorch.org/get-started"


class Finding(NamedTuple):
    """A version or a device, judged."""

    name: str
    verdict: str  # ok, wrong, missing
    found: str
    remedy: str = ""


def likely_kind(name: str) -> str:
    """The type of the devices that ``--device`` is meant to be: npu, cuda or cpu.

    ``auto`` is the type of the hardware or software that is found, also where it cannot be used.
    """
    if name != "auto":
        return name
    if npu.installed() or any(ROOT.glob("dev/davinci[0-9]*")):
        return "npu"
    return "cuda" if shutil.which("nvidia-smi") or _nvidia_hardware() else "cpu"


def _nvidia_hardware() -> bool:
    return (ROOT / "proc/driver/nvidia/version").exists() or any(ROOT.glob("dev/nvidia[0-9]*"))


def count(kind: str) -> int:
    """The number of visible devices, at least 1; a CPU counts as one.

    Raises:
      InputError: no device can be used; the message says what is missing and what to do.
    """
    if kind == "npu":
        try:
            return npu.load()
        except npu.NpuError as error:
            raise InputError(f"--device=npu: {error}") from error
    if kind == "cuda" and not torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise InputError(f"no CUDA device is visible (CUDA_VISIBLE_DEVICES is {visible}); look at `nvidia-smi`")
    return torch.cuda.device_count() if kind == "cuda" else 1


def collectives(kind: str) -> str:
    """The library of the collectives, for people."""
    return {"npu": "HCCL", "cuda": "NCCL"}.get(kind, "gloo")


def versions(kind: str) -> Iterator[Finding]:
    """Python, torch, and the libraries of a kind of device, each judged."""
    yield Finding("python", "ok", platform.python_version())
    yield _torch(kind)
    if kind == "npu":
        yield _torch_npu()
        yield _cann()


def _torch(kind: str) -> Finding:
    version, (low, high) = torch.__version__, TORCH
    if not low <= _numbers(version) < high:
        wanted = f"torch>={_dotted(low)},<{_dotted(high)}"
        return Finding(
            "torch", "wrong", f"{version}, tested are {_dotted(low)} to 2.{high[1] - 1}", f"pip install '{wanted}'"
        )
    if kind == "cuda" and not torch.version.cuda:
        found = f"{version} is built without CUDA"
        return Finding("torch", "wrong", found, f"install a CUDA build ({_TORCH_BUILDS}), or --device=cpu")
    cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ""
    return Finding("torch", "ok", f"{version}{cuda}")


def _torch_npu() -> Finding:
    try:
        return Finding("torch_npu", "ok", npu.matching_version())
    except npu.NpuError as error:
        problem, _, remedy = str(error).partition("; ")
        return Finding("torch_npu", "wrong" if npu.installed() else "missing", problem, remedy)


def _cann() -> Finding:
    home = os.environ.get("ASCEND_TOOLKIT_HOME") or os.environ.get("ASCEND_HOME_PATH")
    if not home:
        found = any(ROOT.glob("usr/local/Ascend/*/set_env.sh"))
        problem = "installed, but its environment is not set" if found else "not installed"
        return Finding(
            "CANN", "missing", problem, "source launch/env_npu.sh" if found else "install CANN, or --device=cpu"
        )
    version = _cann_version(Path(home))
    if not version:
        return Finding("CANN", "ok", "of unknown version")
    release = _dotted(_numbers(_installed("torch_npu")))
    wanted = _CANN.get(release, "")
    if wanted and _dotted(_numbers(version)) != wanted:
        return Finding(
            "CANN", "wrong", f"{version}, but torch_npu {release} is built for {wanted}", f"install CANN {wanted}"
        )
    return Finding("CANN", "ok", version)


def _cann_version(home: Path) -> str:
    for file in [*sorted(home.glob("*-linux/ascend_*install.info")), home / "version.cfg", home / "version.info"]:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")[: 1 << 16]
        except OSError:
            continue
        found = re.search(
            r"^(?:version|.*running_version)=\[?(?:[\d.]+:)?([\w.-]+)", text, re.MULTILINE | re.IGNORECASE
        )
        if found:
            return found.group(1)
    return ""


def driver(kind: str) -> Iterator[Finding]:
    """Driver and firmware, as ``npu-smi`` or ``nvidia-smi`` tells them; nothing on a CPU."""
    if kind == "npu":
        yield from _ascend_driver()
    elif kind == "cuda":
        yield _nvidia_driver()


def _ascend_driver() -> Iterator[Finding]:
    text, problem = _ask("npu-smi", "info", "-i", "0", "-t", "board")
    version = _field("Software Version", text) or driver_version("npu")
    if not version:
        yield Finding("driver", "missing", problem, "install the driver and firmware of the chip, or --device=cpu")
        return
    cann = _dotted(_numbers(_cann_version(Path(os.environ.get("ASCEND_TOOLKIT_HOME", "")))))
    oldest = _ASCEND_DRIVER.get(cann, ())
    if oldest and _numbers(version) < oldest:
        yield Finding(
            "driver",
            "wrong",
            f"{version}; CANN {cann} needs {_dotted(oldest)}",
            f"install driver {_dotted(oldest)} or newer",
        )
    else:
        yield Finding("driver", "ok", f"{version}{f' ({problem})' if problem else ''}")
    firmware, fits = _field("Firmware Version", text), _field("Compatibility", text)
    if firmware and fits not in ("", "OK", "NA"):
        yield Finding("firmware", "wrong", f"{firmware}: {fits}", "install the firmware of the driver's release")
    elif firmware:
        yield Finding("firmware", "ok", firmware)


def _nvidia_driver() -> Finding:
    text, problem = _ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    version = text.strip().partition("\n")[0] or driver_version("cuda")
    if not version:
        return Finding("driver", "missing", problem, "install NVIDIA's driver, or --device=cpu")
    cuda = torch.version.cuda or ""
    oldest = _NVIDIA_DRIVER.get(cuda.partition(".")[0], ())
    if oldest and _numbers(version) < oldest:
        remedy = f"install driver {_dotted(oldest)} or newer, or a torch for an older CUDA ({_TORCH_BUILDS})"
        return Finding("driver", "wrong", f"{version}; CUDA {cuda} needs {_dotted(oldest)}", remedy)
    return Finding("driver", "ok", version)


def driver_version(kind: str) -> str:
    """The driver's version as its own files tell it, at once; empty where there is no such file."""
    file, pattern = {
        "npu": ("usr/local/Ascend/driver/version.info", r"^Version=(\S+)"),
        "cuda": ("proc/driver/nvidia/version", r"Kernel Module\D*([\d.]+)"),
    }.get(kind, ("", ""))
    try:
        found = re.search(pattern, (ROOT / file).read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return found.group(1) if found else ""


def _ask(*command: str) -> tuple[str, str]:
    """Output of a program, and why there is none."""
    if shutil.which(command[0]) is None:
        return "", f"{command[0]} is not found"
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_ANSWER, check=False)
    except subprocess.TimeoutExpired:
        return "", f"{command[0]} gives no answer within {_ANSWER:g} s"
    except OSError as error:
        return "", f"{command[0]}: {error.strerror}"
    if ended.returncode:
        said = (ended.stderr.strip() or ended.stdout.strip()).partition("\n")[0]
        return "", f"{command[0]} ends with status {ended.returncode}: {said}"
    return ended.stdout, ""


def _field(name: str, text: str) -> str:
    found = re.search(rf"^\s*{name}\s*:\s*(.+?)\s*$", text, re.MULTILINE)
    return found.group(1) if found else ""


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version, for comparing."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
