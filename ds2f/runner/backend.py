"""Where the computing happens: one small object for placement, dtypes and synchronisation of a device."""

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform

import attrs
import torch

from ds2f import tree
from ds2f.errors import InputError
from ds2f.types import Batch, TrainState

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@attrs.frozen
class Backend:
    """A device and how this project uses it."""

    name: str  # cpu, cuda or npu
    device: torch.device
    description: str  # for people: the processor's or card's name
    fast_dtype: torch.dtype  # what --apex.dtype=auto means here; float32 where no half precision is fast
    engine: str  # what --training.engine=auto means here
    fused_optimizer: bool = True  # whether the fused optimizers obey the verdict on finiteness here

    def dtype(self, requested: str) -> torch.dtype:
        """The half-precision type for ``--apex.dtype``."""
        if requested == "bf16" and self.name == "npu":
            raise InputError(
                "--apex.dtype=bf16: Ascend's recurrent operators take fp16 and fp32 only; use fp16 or auto"
            )
        return _DTYPES.get(requested, self.fast_dtype)

    def place(self, batch: Batch) -> Batch:
        """Moves what the device computes with; lengths, label lengths and ids stay on the CPU."""
        if self.name == "cpu":
            return batch
        return batch._replace(
            features=batch.features.to(self.device, non_blocking=True),
            labels=batch.labels.to(self.device, non_blocking=True),
            weight=batch.weight.to(self.device, non_blocking=True),
        )

    def place_state(self, state: TrainState) -> TrainState:
        """Moves a state to the device."""
        return TrainState(*tree.to(state, self.device))

    def synchronize(self) -> None:
        """Waits for the device, for timing."""
        if self.name != "cpu":
            torch.accelerator.synchronize()


def open_backend(name: str = "auto") -> Backend:
    """Opens ``cpu``, ``cuda``, ``npu``, or with ``auto`` the best that is there: NPU, then CUDA, then CPU.

    Raises:
      InputError: when the device that was asked for is not there; the message says what is missing.
    """
    if name == "npu" or (name == "auto" and importlib.util.find_spec("torch_npu") is not None):
        try:
            return _open_npu()
        except InputError:
            if name == "npu":
                raise
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        if not torch.cuda.is_available():
            raise InputError(f"--device=cuda: torch {torch.__version__} sees no CUDA card; use --device=cpu")
        device = torch.device("cuda", torch.cuda.current_device())
        half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return Backend("cuda", device, torch.cuda.get_device_name(device), half, "func")
    _keep_freed_memory()
    return Backend("cpu", torch.device("cpu"), _processor(), _cpu_dtype(), "func")


def _keep_freed_memory() -> None:
    """Tells glibc to keep large blocks that are freed, which it would give back to the kernel and fault in again.

    The buffers of a step are large and of a new size each time; a training step of 3 x 512 takes a sixth less.
    """
    if platform.libc_ver()[0] == "glibc":
        libc, mmap_max, trim_threshold = ctypes.CDLL(None), -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)


def _cpu_dtype() -> torch.dtype:
    fast = torch.backends.mkldnn.is_available() and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if fast else torch.float32


def _processor() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    amx = ", AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"CPU ({capability}{amx}), {torch.get_num_threads()} threads"


def _open_npu() -> Backend:
    """Imports torch_npu and takes the first visible NPU (not verified on hardware)."""
    try:
        wanted = importlib.metadata.version("torch_npu")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"--device=npu: torch_npu is not installed; pip install torch_npu=={torch.__version__.split('+')[0]}"
        ) from error
    if wanted.split(".post")[0] != torch.__version__.split("+")[0]:
        raise InputError(
            f"--device=npu: torch_npu {wanted} needs torch {wanted.split('.post')[0]}, found {torch.__version__}; "
            "install the matching pair"
        )
    try:
        importlib.import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            f"--device=npu: torch_npu does not load ({error}). CANN's libraries are missing or not on the path: "
            "`source launch/env_npu.sh` first, or choose another --device"
        ) from error
    if torch.accelerator.device_count() < 1:
        visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "not set")
        raise InputError(
            f"--device=npu: torch_npu {wanted} loads but sees 0 devices (ASCEND_RT_VISIBLE_DEVICES is {visible}); "
            "look at `npu-smi info`"
        )
    device = torch.device("npu", 0)
    # Ascend's fused AdamW ignores found_inf and would apply a bad step.
    return Backend("npu", device, "Ascend NPU", torch.float16, "autograd", fused_optimizer=False)
