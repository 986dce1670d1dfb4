"""Ascend NPUs through torch_npu: what is asked of it, and what a user is told when it cannot be had.

Nothing here has run on hardware. That every name exists is checked against the wheel's own sources by the tests.
"""

import importlib.metadata
import importlib.util
import os
import re
from typing import NamedTuple

import torch
from torch import Tensor


class NpuError(Exception):
    """There is no NPU to compute on; the message says what is missing and what to do."""


class Card(NamedTuple):
    """An NPU that is open."""

    device: torch.device
    description: str  # the chip's name
    saturates: bool  # infinities become the largest number and NaN zero, so that overflow shows in a flag alone


def installed() -> bool:
    """Whether torch_npu could be imported; nothing is imported to find out."""
    return importlib.util.find_spec("torch_npu") is not None


def load() -> int:
    """Imports torch_npu and returns how many NPUs it sees: at least one.

    Raises:
      NpuError: when it is missing, made for another torch or refused by it, when CANN is missing, or when no device
        is visible.
    """
    version = _version()
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and accelerator.type != "npu":
        raise NpuError(
            f"torch_npu refuses to work beside {accelerator.type.upper()}, for which this torch ({torch.__version__}) "
            "is built, cards or not. Install torch's CPU build, pip install --index-url "
            f"https://download.pytorch.org/whl/cpu torch=={_release(version)}, or use --device={accelerator.type}"
        )
    try:
        import torch_npu
    except (ImportError, OSError, RuntimeError) as error:
        raise NpuError(_why_it_does_not_load(version, error)) from error
    try:
        count = torch_npu.npu.device_count()
    except RuntimeError as error:
        raise NpuError(f"{_no_device(version)} The driver says: {error}") from error
    if count < 1:
        raise NpuError(_no_device(version))
    return count


def open_card(index: int) -> Card:
    """Makes an NPU this process's own: what is sent to ``npu`` from now on goes there.

    Args:
      index: among the visible ones.

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
            "the user has to be allowed to use /dev/davinci*, mostly by being in the group HwHiAiUser"
        ) from error
    torch_npu.npu.set_compile_mode(jit_compile=False)  # ready-made kernels, none compiled for every new shape
    torch_npu.npu.config.allow_internal_format = False  # plain layouts, without conversions between operators
    torch_npu.npu.conv.allow_hf32 = False  # or fp32 convolutions would lose half of their digits
    return Card(torch.device("npu", index), description, saturates)


def clear_overflow(device: torch.device) -> None:
    """Clears the overflow flag of a chip that saturates; the device does it in its turn."""
    import torch_npu

    torch_npu.npu_clear_float_status(torch.zeros(8, dtype=torch.float32, device=device))


def overflowed(device: torch.device) -> Tensor:
    """Whether anything overflowed since the flag was cleared: a boolean scalar on the device, not waited for.

    ``torch_npu.npu.get_npu_overflow_flag`` would do the same and copy the answer to the host.
    """
    import torch_npu

    # The chips write the flag into the first of eight numbers, some of them in place of their argument.
    status: Tensor = torch_npu.npu_get_float_status(torch.zeros(8, dtype=torch.float32, device=device))
    return status[0] != 0


def explain_hccl(reason: str) -> str:
    """What HCCL's own message leaves out: the card, where the ranks meet, how long it waits, and what its code means.

    Args:
      reason: what torch.distributed said, with the backend ``hccl``.
    """
    code = re.search(r"\bE[IJ]\d{4}\b", reason)
    meaning = f" {code.group()}: {_HCCL[code.group()]}." if code and code.group() in _HCCL else ""
    limits = ", ".join(
        f"{name} is {f'{os.environ[name]} s' if name in os.environ else f'not set ({default} s)'}"
        for name, default in (("HCCL_CONNECT_TIMEOUT", 120), ("HCCL_EXEC_TIMEOUT", 1836))
    )
    return (
        f"rank {os.environ.get('RANK', '0')} is on NPU {os.environ.get('LOCAL_RANK', '0')} of its machine; the ranks "
        f"meet at {os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}; {limits}.{meaning}"
    )


_HCCL = {
    "EI0002": "a peer did not do its part in HCCL_EXEC_TIMEOUT; it died, hangs or is slow, and says why in its own log",
    "EI0005": "the ranks called different collectives, or one with different arguments",
    "EI0006": "a peer was not reached in HCCL_CONNECT_TIMEOUT; see that it runs, and that neither a firewall nor "
    "HCCL_SOCKET_IFNAME or HCCL_IF_IP keeps the machines apart",
    "EI0008": "the machines have different versions of CANN",
    "EI0011": "the NPU's memory is full; lower --data.batch_size",
    "EI0015": "the machines did not find each other; see that the address is rank 0's and its port is open",
}


def _version() -> str:
    """The version of torch_npu, read without importing it; it has to be torch's."""
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
    """``2.13.0`` of ``2.13.0+cpu`` and of ``2.13.0.post2``."""
    release = re.match(r"\d+(\.\d+){0,2}", version)
    return release.group() if release else version


def _why_it_does_not_load(version: str, error: Exception) -> str:
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    library = re.search(r"(lib[\w.+-]+?\.so[\d.]*): cannot open shared object file", message)
    symbol = re.search(r"undefined symbol: (\w+)", message)
    if library:
        cause = f"{library.group(1)} is not found, so CANN is not installed or its environment is not set"
    elif symbol:
        cause = f"the installed CANN lacks {symbol.group(1)}; it is of another version than torch_npu is made for"
    else:
        cause = f"it says: {message}"
    return (
        f"torch_npu {version} does not load: {cause}. `source launch/env_npu.sh`, which finds CANN's set_env.sh, and "
        "start again from that shell, or choose another --device"
    )


def _no_device(version: str) -> str:
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    numbers = [int(number) for number in re.findall(r"\d+", visible or "")]
    if visible is None:
        why = "ASCEND_RT_VISIBLE_DEVICES is not set"
    elif numbers != sorted(set(numbers)):
        ascending = ",".join(map(str, sorted(set(numbers))))
        why = f"ASCEND_RT_VISIBLE_DEVICES={visible} is not ascending, so none counts; write {ascending}"
    else:
        why = f"ASCEND_RT_VISIBLE_DEVICES={visible!r}"
    return f"torch_npu {version} loads but sees 0 devices ({why}); look at `npu-smi info`."
