"""A device and its properties: placement, dtypes, synchronisation, memory, overflow."""

import ctypes
import functools
import logging
import os
import platform
import resource
import sys
import warnings

import attrs
import torch
from torch import Tensor

from ds2f import precision, tree
from ds2f.config import ApexConfig
from ds2f.errors import InputError
from ds2f.grad import engine_for
from ds2f.precision import Policy
from ds2f.processes import cpu_count
from ds2f.runner.device import npu, processor
from ds2f.types import Batch, TrainState

_log = logging.getLogger(__name__)

# In messages of torch's allocators for CPUs and NPUs, of the C++ library, and of oneDNN.
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "could not create a memory")


@attrs.frozen
class Backend:
    """An open device with its properties.

    A device needs no seed: every random number comes from a generator made from its own key (``ds2f.rng``).
    """

    name: str  # cpu, cuda or npu
    device: torch.device
    description: str  # for people: the name of the processor or device
    fast_dtype: torch.dtype  # the meaning of --apex.dtype=auto; float32 where no half precision is fast
    fused_optimizer: bool = True  # whether fused optimizers skip a step whose gradients are not finite
    collectives: str = "gloo"  # torch.distributed's backends by device type
    start_method: str = "fork"  # of loader processes, once the device is open
    pin_memory: bool = False  # whether batches should be in page-locked memory, so that copies do not wait
    saturates: bool = False  # whether only a flag of the device shows overflow, and not the gradients

    @property
    def engine(self) -> str:
        """The meaning of ``--training.engine=auto`` on this device."""
        return engine_for(self.device)

    def dtype(self, requested: str) -> torch.dtype:
        """The dtype that ``--apex.dtype`` names; for ``auto``, the fast dtype of this device.

        Raises:
          InputError: for bf16 on an NPU.
        """
        if requested == "bf16" and self.name == "npu":
            raise InputError(
                "--apex.dtype=bf16: Ascend's recurrent operators take fp16 and fp32 only; use fp16 or auto"
            )
        return self.fast_dtype if requested == "auto" else precision.DTYPES[requested]

    def policy(self, cfg: ApexConfig) -> Policy:
        """The dtype policy for ``--apex.opt_level`` and ``--apex.dtype``; fused on CPUs, where the gain is measured."""
        return precision.policy(cfg.opt_level, self.dtype(cfg.dtype))._replace(fused=self.name == "cpu")

    def kernels(self, dtype: torch.dtype) -> tuple[str, ...]:
        """The recurrent kernels that may be fastest in ``dtype``; the first is torch's operator, ``fused``.

        On CPUs with fast half precision, the backward pass of oneDNN's operator is far slower than its matrix products.
        cuDNN can overlap two directions of one call.
        """
        if self.name == "cuda":
            return ("fused", "paired")
        return ("fused", "hoisted") if self.name == "cpu" and dtype == self.fast_dtype != torch.float32 else ("fused",)

    def place(self, batch: Batch) -> Batch:
        """Moves features, labels and weight to the device; lengths, label lengths and ids stay on the CPU.

        Nothing waits for copies from page-locked memory. On CUDA, they have a stream of their own: the copy of a batch
        runs while the device still computes the step before.
        """
        if self.name == "cpu":
            return batch
        if not self.pin_memory:
            return self._moved(batch)
        copies, computes = _copy_stream(self.device), torch.cuda.current_stream(self.device)
        with torch.cuda.stream(copies):
            placed = self._moved(batch)
        computes.wait_stream(copies)
        for moved in (placed.features, placed.labels, placed.weight):
            moved.record_stream(computes)  # its memory is not reused before the step has read it
        return placed

    def _moved(self, batch: Batch) -> Batch:
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
            torch.accelerator.synchronize(self.device)

    def memory(self) -> int:
        """Peak memory so far, bytes: of tensors on the device; on the CPU, of the whole process."""
        if self.name != "cpu":
            return torch.accelerator.max_memory_allocated(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def memory_left(self) -> int | None:
        """Memory that this process can still take on its device, bytes; None on the CPU (``ds2f.machine_memory``)."""
        if self.name == "cpu":
            return None
        free, _ = torch.get_device_module(self.device).mem_get_info(self.device)
        return int(free)

    def clear_overflow(self) -> None:
        """Clears the overflow flag where the device saturates. Call it before the forward pass of a step."""
        if self.saturates:
            npu.clear_overflow(self.device)

    def overflowed(self) -> Tensor:
        """Whether an operator overflowed since ``clear_overflow``: a boolean scalar on the device, without waiting.

        Always false on a device that does not saturate: there, the gradients show infinities and NaN.
        """
        return npu.overflowed(self.device) if self.saturates else torch.zeros((), dtype=torch.bool, device=self.device)


def open_backend(name: str = "auto", *, local_rank: int = 0, local_ranks: int = 1) -> Backend:
    """Opens a device for this process. Call it before torch computes anything, and before joining a process group.

    Args:
      name: ``cpu``, ``cuda``, ``npu``, or ``auto`` for the first that is available: NPU, CUDA, CPU. An installed NPU
        that cannot be used is passed over with a warning.
      local_rank: the number of this process on its machine; the index of its device.
      local_ranks: how many processes of the job run on this machine.

    Raises:
      InputError: when the device is not available, or the machine has fewer devices than processes; the message says
        what is missing and what to do.
    """
    if name not in ("auto", "npu", "cuda", "cpu"):
        raise InputError(f"--device={name}: use auto, npu, cuda or cpu")
    _heed_cpu_quota()
    if name == "npu" or (name == "auto" and npu.installed()):
        try:
            return _open_npu(local_rank, local_ranks)
        except npu.NpuError as error:
            if name == "npu":
                raise InputError(f"--device=npu: {error}") from error
            if local_rank == 0:
                _log.warning("--device=auto passes over the NPU: %s", error)
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return _open_cuda(local_rank, local_ranks)
    dtype = _cpu_dtype()
    _keep_freed_memory(largest=dtype != torch.float32)
    description = f"CPU ({processor.capability()}), {torch.get_num_threads()} threads"
    return Backend("cpu", torch.device("cpu"), description, dtype)


def _open_npu(local_rank: int, local_ranks: int) -> Backend:
    _require_devices("NPU", npu.load(), local_ranks)
    opened = npu.open_device(local_rank)
    return Backend(
        "npu",
        opened.device,
        opened.description,
        torch.float16,  # the recurrent operators do not take bf16
        fused_optimizer=False,  # Ascend's fused AdamW ignores found_inf and would apply a bad step
        collectives="cpu:gloo,npu:hccl",
        start_method="spawn",  # torch_npu does not survive a fork
        saturates=opened.saturates,
    )


def _open_cuda(local_rank: int, local_ranks: int) -> Backend:
    _count_cuda(local_ranks)
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    # Its remedy is a method of modules. Parameters are leaves of a tree here, and cuDNN copies them at each call.
    warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return Backend(
        "cuda",
        device,
        torch.cuda.get_device_name(device),
        half,
        collectives="cpu:gloo,cuda:nccl",
        pin_memory=True,
    )


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full, of the machine or of a device: torch has several ways to say it."""
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in said for each in _OUT_OF_MEMORY)


def require_devices(name: str, processes: int) -> None:
    """Raises if a machine has fewer CUDA devices than processes, before these are started; NPUs are counted by them.

    Args:
      name: as for ``open_backend``.
      processes: how many processes of the job run on this machine.

    Raises:
      InputError: as of ``open_backend``.
    """
    if name == "cuda" or (name == "auto" and not npu.installed() and torch.cuda.is_available()):
        _count_cuda(processes)


def _count_cuda(processes: int) -> None:
    if not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise InputError(
            f"--device=cuda: torch {torch.__version__} sees no CUDA device (CUDA_VISIBLE_DEVICES is {visible}); look "
            "at `nvidia-smi`, or use --device=cpu"
        )
    _require_devices("CUDA device", torch.cuda.device_count(), processes)


def _require_devices(kind: str, devices: int, processes: int) -> None:
    if processes > devices:
        raise InputError(
            f"--nproc_per_node={processes}: this machine has {devices} {kind}{'s' if devices > 1 else ''}, and each "
            f"process needs its own; use --nproc_per_node={devices}, with --data.global_batch_size to keep the batch, "
            "or --device=cpu"
        )


def _heed_cpu_quota() -> None:
    """Keeps torch from starting a thread for every processor where a cgroup's quota allows fewer.

    torch heeds CPU affinity and ``OMP_NUM_THREADS``, but no quota; threads beyond it only wait for each other.
    """
    processors = cpu_count()
    if "OMP_NUM_THREADS" not in os.environ and processors < torch.get_num_threads():
        torch.set_num_threads(processors)


def _keep_freed_memory(*, largest: bool) -> None:
    """Makes glibc keep freed memory, and limits oneDNN's cache.

    The buffers of a step are large and change size from step to step. By default glibc returns them to the kernel,
    and the next step faults their pages in again. Where half precision is fast, keeping them saves a sixth of the time
    of a training step of 3 x 512. Elsewhere, with ten utterances, the gain is too small to measure, and keeping them
    needs almost half as much memory again. There ``largest=False`` returns blocks of 16 MiB or more: 5 x 1024 with 32
    utterances takes 5 % less memory than with 32 MiB, and 3 x 512 the same time. oneDNN caches a program for each size:
    1024 programs take gigabytes and are no faster than 64.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # read when oneDNN is first used
    if platform.libc_ver()[0] == "glibc":
        libc, trim_threshold, mmap_threshold, mmap_max = ctypes.CDLL(None), -1, -3, -4  # M_* of malloc.h
        libc.mallopt(trim_threshold, -1)
        if largest:
            libc.mallopt(mmap_max, 0)
        else:
            libc.mallopt(mmap_threshold, 16 * 2**20)


def _cpu_dtype() -> torch.dtype:
    fast = torch.backends.mkldnn.is_available() and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if fast else torch.float32
