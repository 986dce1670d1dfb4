"""Ascend NPUs through torch_npu: opening a device, its overflow flag, and messages when an NPU cannot be used.

Nothing here has run on hardware. The tests check every name of torch_npu against the sources of the wheel.
"""

import importlib.metadata
import importlib.util
import os
import re
from typing import NamedTuple

import torch
from torch import Tensor

HCCL_TIMEOUTS = {"HCCL_CONNECT_TIMEOUT": 120, "HCCL_EXEC_TIMEOUT": 1836}  # HCCL's defaults, seconds


class NpuError(Exception):
    """No NPU can be used; the message says what is missing and what to do."""


class NpuDevice(NamedTuple):
    """An open NPU."""

    device: torch.device
    description: str  # the chip's name
    saturates: bool  # overflow becomes the largest number and NaN becomes 0, so only a flag of the chip shows overflow


def installed() -> bool:
    """Whether torch_npu is installed; imports nothing."""
    return importlib.util.find_spec("torch_npu") is not None


def load() -> int:
    """Imports torch_npu and returns the number of visible NPUs, at least 1.

    Raises:
      NpuError: when torch_npu is missing, was built for another torch, or does not import; when CANN is missing; when
        no device is visible.
    """
    version = matching_version()
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and accelerator.type != "npu":
        raise NpuError(
            f"torch_npu refuses to work beside {accelerator.type.upper()}, for which this torch ({torch.__version__}) "
            "is built, with or without such a device. Install torch's CPU build, pip install --index-url "
            f"https://download.pytorch.org/whl/cpu torch=={_release(version)}, or use --device={accelerator.type}"
        )
    try:
        import torch_npu
    except (ImportError, OSError, RuntimeError) as error:
        raise NpuError(_explain_import_error(version, error)) from error
    try:
        count = torch_npu.npu.device_count()
    except RuntimeError as error:
        raise NpuError(f"{_explain_no_device(version)} The driver says: {error}") from error
    if count < 1:
        raise NpuError(_explain_no_device(version))
    return count


def open_device(index: int) -> NpuDevice:
    """Makes an NPU this process's current device: tensors sent to ``npu`` go there.

    Args:
      index: of the visible NPUs.

    Raises:
      NpuError: when the device cannot be opened.
    """
    import torch_npu

    try:
        torch_npu.npu.set_device(index)
        saturates = not torch_npu.npu.utils.is_support_inf_nan()
        description = torch_npu.npu.get_device_name(index)
    except RuntimeError as error:
        raise NpuError(
            f"NPU {index} cannot be opened ({error}). `npu-smi info` shows its health and which process holds it; "
            "the user needs access to /dev/davinci*, usually by membership in the group HwHiAiUser"
        ) from error
    torch_npu.npu.set_compile_mode(jit_compile=False)  # precompiled kernels: no compilation for each new shape
    torch_npu.npu.config.allow_internal_format = False  # plain layouts, without conversions between operators
    torch_npu.npu.conv.allow_hf32 = False  # HF32 halves the digits of fp32 convolutions
    return NpuDevice(torch.device("npu", index), description, saturates)


def clear_overflow(device: torch.device) -> None:
    """Clears the overflow flag of a chip that saturates; queued on the device."""
    import torch_npu

    torch_npu.npu_clear_float_status(torch.zeros(8, dtype=torch.float32, device=device))


def overflowed(device: torch.device) -> Tensor:
    """Whether an operator overflowed since the flag was cleared: a boolean scalar on the device, without waiting.

    ``torch_npu.npu.get_npu_overflow_flag`` copies the flag to the host, so it is not used.
    """
    import torch_npu

    # The chip writes the flag into the first of eight numbers, on some chips in place.
    status: Tensor = torch_npu.npu_get_float_status(torch.zeros(8, dtype=torch.float32, device=device))
    return status[0] != 0


def explain_hccl(reason: str) -> str:
    """Completes an error message of HCCL: the NPU, the store's address, HCCL's timeouts, the meaning of the error code.

    Args:
      reason: torch.distributed's message.
    """
    code = re.search(r"\bE[IJ]\d{4}\b", reason)
    meaning = f" {code.group()}: {_HCCL[code.group()]}." if code and code.group() in _HCCL else ""
    limits = ", ".join(
        f"{name} is {f'{os.environ[name]} s' if name in os.environ else f'not set ({default} s)'}"
        for name, default in HCCL_TIMEOUTS.items()
    )
    address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    return (
        f"rank {os.environ.get('RANK', '0')} is on NPU {os.environ.get('LOCAL_RANK', '0')} of its machine; the job's "
        f"store is at {os.environ.get('DS2F_STORE_FILE') or address}; {limits}.{meaning}"
    )


_HCCL = {
    "EI0002": "a rank did not join a collective within HCCL_EXEC_TIMEOUT: it died, hangs or is slow; see its own log",
    "EI0005": "the ranks called different collectives, or the same collective with different arguments",
    "EI0006": "a rank was not reached within HCCL_CONNECT_TIMEOUT; check that it runs, that no firewall separates the "
    "machines, and that HCCL_SOCKET_IFNAME or HCCL_IF_IP name the right network",
    "EI0008": "the machines have different versions of CANN",
    "EI0011": "the NPU's memory is full; lower --data.batch_size",
    "EI0015": "the machines did not find each other; check that the address is rank 0's and its port is open",
}


def matching_version() -> str:
    """The version of torch_npu, read without importing it; its release must equal torch's.

    Raises:
      NpuError: torch_npu is not installed, or is made for another torch.
    """
    try:
        version = importlib.metadata.version("torch_npu")
    except importlib.metadata.PackageNotFoundError as error:
        raise NpuError(f"torch_npu is not installed; pip install torch_npu=={_release(torch.__version__)}") from error
    if _release(version) != _release(torch.__version__):
        raise NpuError(
            f"torch_npu {version} needs torch {_release(version)}, found {torch.__version__}; install the matching pair"
        )
    return version


def _release(version: str) -> str:
    """``2.13.0`` for ``2.13.0+cpu`` and ``2.13.0.post2``."""
    release = re.match(r"\d+(\.\d+){0,2}", version)
    return release.group() if release else version


def _explain_import_error(version: str, error: Exception) -> str:
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    library = re.search(r"(lib[\w.+-]+?\.so[\d.]*): cannot open shared object file", message)
    symbol = re.search(r"undefined symbol: (\w+)", message)
    if library:
        cause = f"{library.group(1)} is not found, so CANN is not installed or its environment is not set"
    elif symbol:
        cause = f"the installed CANN lacks {symbol.group(1)}; it is of another version than torch_npu needs"
    else:
        cause = f"the import says: {message}"
    return (
        f"torch_npu {version} does not load: {cause}. `source launch/env_npu.sh`, which finds CANN's set_env.sh, and "
        "start again from that shell, or choose another --device"
    )


def _explain_no_device(version: str) -> str:
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    numbers = [int(number) for number in re.findall(r"\d+", visible or "")]
    if visible is None:
        why = "ASCEND_RT_VISIBLE_DEVICES is not set"
    elif numbers != sorted(set(numbers)):
        ascending = ",".join(map(str, sorted(set(numbers))))
        why = f"ASCEND_RT_VISIBLE_DEVICES={visible} is not ascending, so torch_npu ignores it; write {ascending}"
    else:
        why = f"ASCEND_RT_VISIBLE_DEVICES={visible!r}"
    return f"torch_npu {version} loads but sees 0 devices ({why}); look at `npu-smi info`."
