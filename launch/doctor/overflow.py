"""Check of overflow: an infinity or NaN must show, in the numbers or in the device's flag, and nothing else may."""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ds2f.precision import short_name
from ds2f.runner.device.backend import Backend
from launch.doctor.check_session import Check, Session
from launch.doctor.operators import OPERATORS
from launch.doctor.verdict import OK, WRONG, Line


def checks() -> list[Check]:
    """The check, in the dtype that a training takes."""
    return [Check(OPERATORS, "overflow", _overflow)]


def _overflow(session: Session) -> Iterator[Line]:
    backend = session.backend()
    for dtype in dict.fromkeys((torch.float32, backend.fast_dtype)):
        line = functools.partial(Line, OPERATORS, f"overflow {short_name(dtype)}")
        problem, remedy = _judge(backend, dtype)
        how = "by the device's flag" if backend.saturates else "in the numbers"
        yield line(WRONG if problem else OK, problem or f"infinity and NaN show {how}", remedy)


def _judge(backend: Backend, dtype: torch.dtype) -> tuple[str, str]:
    largest = torch.full((16, 16), torch.finfo(dtype).max, dtype=dtype, device=backend.device)
    one, zero = torch.ones_like(largest), torch.zeros_like(largest)
    if _shows(backend, lambda: torch.mm(one, one)):
        return "ordinary products raise the flag: every step would be skipped", "--apex.opt_level=O0"
    hidden = {"infinity": lambda: torch.mm(largest, largest), "NaN": lambda: torch.div(zero, zero)}
    lost = [name for name, make in hidden.items() if not _shows(backend, make)]
    if lost:
        remedy = (
            "--apex.opt_level=O0 --apex.loss_scale=1" if dtype != torch.float32 else "report it: bad steps would count"
        )
        return f"{' and '.join(lost)} hidden by saturation, no flag raised", remedy
    return "", ""


def _shows(backend: Backend, make: Callable[[], Tensor]) -> bool:
    """Whether a step would notice that a result is not finite."""
    backend.clear_overflow()
    finite = torch.isfinite(make()).all()
    return bool(~finite | backend.overflowed())
