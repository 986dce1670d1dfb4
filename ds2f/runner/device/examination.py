"""The record of ``launch.doctor`` on this machine's devices: what it found, and what a training says about it.

A record holds for a device's name, its driver and torch's version; another driver or torch needs another look.
"""

import torch

from ds2f.runner.device import inspection, user_cache
from ds2f.runner.device.backend import Backend
from ds2f.text import shown

_FILE = "doctor.json"


def remark(backend: Backend) -> str:
    """A line about a device that has never passed; empty for a device that has, and for CPUs."""
    if backend.name == "cpu":
        return ""
    found = user_cache.read(_FILE, _key(backend.name, backend.description))
    command = f"python -m launch.doctor --device={backend.name}"
    if not isinstance(found, dict) or "summary" not in found:
        return f"doctor: {backend.description} has not been checked with this driver and torch; in a minute: {command}"
    return "" if found.get("passed") is True else f"doctor: {shown(str(found['summary']))[:300]}. Again: {command}"


def record(kind: str, description: str, *, passed: bool, summary: str) -> None:
    """Stores what ``launch.doctor`` has found on a device; nothing for CPUs."""
    if kind != "cpu":
        user_cache.write(_FILE, _key(kind, description), {"passed": passed, "summary": summary})


def _key(kind: str, description: str) -> str:
    driver = inspection.driver_version(kind) or "unknown"
    return f"{kind}, {description}, driver {driver}, torch {torch.__version__}"
