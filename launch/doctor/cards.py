"""Checks of versions and cards: what is installed and fits, and every visible card with its memory and speed."""

import time
from collections.abc import Iterator

import torch

from ds2f.errors import InputError
from ds2f.precision import short_name
from ds2f.runner.device import inspection
from ds2f.runner.device.backend import Backend, open_backend
from launch.doctor.check_session import Check, Session
from launch.doctor.verdict import MISSING, OK, SLOW, WRONG, Line, cause

VERSIONS, CARDS = "versions", "cards"
_LARGEST, _PRODUCTS = 4096, 4  # rows of a timed product, and how many are timed together
_SECONDS = 0.02  # of a timing


def versions() -> list[Check]:
    """The checks of versions, which open no device."""
    return [
        Check(VERSIONS, "libraries", lambda session: _lines(inspection.versions(session.kind)), device=False),
        Check(VERSIONS, "driver", lambda session: _lines(inspection.driver(session.kind)), device=False),
    ]


def checks() -> list[Check]:
    """The checks of the cards."""
    remedy = "look at npu-smi or nvidia-smi for a process that holds the card; --device=cpu trains without it"
    return [
        Check(CARDS, "cards", _cards, seconds=60.0, device=False, remedy=remedy, gate=True),
        Check(CARDS, "matrix products", _products),
    ]


def _lines(findings: Iterator[inspection.Finding]) -> Iterator[Line]:
    for found in findings:
        yield Line(VERSIONS, found.name, found.verdict, found.found, found.remedy)


def _cards(session: Session) -> Iterator[Line]:
    """Opens every visible card and multiplies on it; then the first one, for the checks that follow."""
    try:
        count = inspection.count(session.kind)
        session.backend()
    except InputError as error:
        session.problem = str(error)
        yield Line(CARDS, session.kind, MISSING, str(error), "--device=cpu trains without it")
        return
    for index in range(count):
        name = f"card {index}" if session.kind != "cpu" else "processor"
        try:
            opened = open_backend(session.kind, local_rank=index, local_ranks=count)
            product = torch.ones(64, 64, device=opened.device) @ torch.ones(64, 64, device=opened.device)
            right, left = bool((product == 64).all()), opened.memory_left()
        except (InputError, RuntimeError) as error:
            yield Line(
                CARDS,
                name,
                WRONG,
                cause(error),
                f"train without it: --nproc_per_node={max(1, count - 1)}",
            )
            continue
        free = f", {left / 1e9:.0f} GB free" if left is not None else ""
        if right:
            yield Line(CARDS, name, OK, f"{opened.description}{free}")
        else:
            yield Line(CARDS, name, WRONG, f"{opened.description}: 64 ones times 64 ones is not 64", "--device=cpu")
    if count > 1:
        open_backend(session.kind, local_rank=0, local_ranks=count)  # the current device of the checks that follow


def _products(session: Session) -> Iterator[Line]:
    """Matrix products per dtype: half precision should be faster than fp32 where it is taken."""
    backend = session.backend()
    speeds = {"fp32": _speed(backend, torch.float32)}
    for dtype in (torch.bfloat16, torch.float16):
        name, chosen = short_name(dtype), dtype == backend.fast_dtype
        try:
            speeds[name] = _speed(backend, dtype)
        except RuntimeError as error:
            remedy = "--apex.opt_level=O0" if chosen else "leave --apex.dtype=auto"
            yield Line(CARDS, f"products {name}", MISSING, cause(error), remedy, needed=chosen)
    for name, speed in speeds.items():
        chosen = name == "fp32" or name == short_name(backend.fast_dtype)
        slow = name != "fp32" and speed < speeds["fp32"]
        remedy = "--apex.opt_level=O0" if chosen else "leave --apex.dtype=auto, which takes another type"
        found = f"{speed / 1e9:,.0f} GFLOP/s{', slower than fp32' if slow else ''}"
        yield Line(CARDS, f"products {name}", SLOW if slow else OK, found, remedy if slow else "", needed=chosen)


def _speed(backend: Backend, dtype: torch.dtype) -> float:
    """Floating-point operations per second of matrix products that take ``_SECONDS`` or have ``_LARGEST`` rows."""
    size = 128
    while True:
        factor = torch.full((size, size), 1 / size, dtype=dtype, device=backend.device)
        torch.mm(factor, factor)
        backend.synchronize()
        began = time.perf_counter()
        for _ in range(_PRODUCTS):
            torch.mm(factor, factor)
        backend.synchronize()
        seconds = time.perf_counter() - began
        if seconds > _SECONDS or size >= _LARGEST:
            return 2 * size**3 * _PRODUCTS / seconds
        size *= 2
