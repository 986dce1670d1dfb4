"""The processor's name and instruction sets."""

import platform
from pathlib import Path

import torch


def name() -> str:
    """The processor's model name; the architecture's name where the system gives no model."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def capability() -> str:
    """The vector and matrix instruction sets of torch on this processor, as in ``AVX512, AMX``."""
    amx = ", AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"{torch.backends.cpu.get_cpu_capability()}{amx}"
