"""Check of each CTC implementation on the device against another one on the CPU in float64, edge cases included."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from ds2f import ctc, rng
from ds2f.errors import InputError
from ds2f.grad import value_and_grad
from ds2f.runner.device.backend import Backend
from ds2f.types import Logits
from launch.doctor.check_session import Check, Session
from launch.doctor.operators import OPERATORS, relative_error
from launch.doctor.verdict import MISSING, OK, WRONG, Line, cause

CASES: dict[str, tuple[int, tuple[int, ...]]] = {  # frames and labels of an utterance
    "an ordinary target": (12, (1, 2, 3)),
    "an empty target": (9, ()),
    "repeated labels": (12, (2, 2, 4, 4)),
    "an infeasible target": (3, (1, 1, 1)),
    "a target as long as its frames": (4, (1, 2, 3, 4)),
}
_LABELS, _TOLERANCE = 6, 1e-4


def checks() -> list[Check]:
    """A check per implementation; only the default one is needed."""
    return [
        Check(
            OPERATORS,
            f"ctc {name}",
            functools.partial(_compare, impl=name),
            remedy=_remedy(name),
            needed=name == "native",
        )
        for name in ctc.IMPLEMENTATIONS
    ]


def _remedy(impl: str) -> str:
    return "--model.ctc=scan" if impl == "native" else "--model.ctc=native"


def _compare(session: Session, *, impl: str) -> Iterator[Line]:
    backend = session.backend()
    line = functools.partial(Line, OPERATORS, f"ctc {impl}", needed=impl == "native")
    try:
        ctc.require(impl, device=backend.device)
    except InputError:
        yield line(MISSING, "the library is not installed", "--model.ctc=native, the default, needs none")
        return
    try:
        found = _evaluate(impl, torch.float32, backend)
    except RuntimeError as error:
        yield line(WRONG, f"fails: {cause(error)}", _remedy(impl))
        return
    expected = _evaluate("scan" if impl != "scan" else "native", torch.float64, None)
    problem = judge(found, expected)
    yield line(
        WRONG if problem else OK,
        problem or f"{len(CASES)} kinds of targets, losses and gradients",
        _remedy(impl) if problem else "",
    )


def _evaluate(impl: str, dtype: torch.dtype, backend: Backend | None) -> tuple[Tensor, Tensor]:
    """Losses and gradients of the cases, on the CPU in float64; losses of +inf do not count, as in a training step."""
    frames, targets = zip(*CASES.values(), strict=True)
    device = backend.device if backend else torch.device("cpu")
    values = torch.randn(len(CASES), max(frames), _LABELS, generator=rng.generator(rng.fold_in(0, "ctc")))
    labels = torch.zeros(len(CASES), max(map(len, targets)), dtype=torch.int64)
    for row, target in enumerate(targets):
        labels[row, : len(target)] = torch.tensor(target, dtype=torch.int64)
    lengths, label_lengths = torch.tensor(frames), torch.tensor([len(target) for target in targets])

    def total(values: Tensor) -> tuple[Tensor, Tensor]:
        losses = ctc.ctc_loss(Logits(values, lengths), labels.to(device), label_lengths, impl=impl)
        return torch.where(losses == torch.inf, torch.zeros_like(losses), losses).sum(), losses

    engine = backend.engine if backend else "autograd"
    (_, losses), grads = value_and_grad(total, has_aux=True, engine=engine)(values.to(device, dtype))
    return losses.detach().cpu().double(), grads.detach().cpu().double()


def judge(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> str:
    """What is wrong with losses and gradients, by the kind of target; or nothing."""
    for row, name in enumerate(CASES):
        (loss, grad), (right_loss, right_grad) = ((part[row] for part in parts) for parts in (found, expected))
        if right_loss == torch.inf:
            if loss != torch.inf:
                return f"loss of {name} is {float(loss):.3g}, not infinite"
            if bool(grad.any()):
                return f"gradient of {name} is not zero"
        elif not relative_error(loss, right_loss) <= _TOLERANCE:
            return f"loss of {name} is {float(loss):.4g}, not {float(right_loss):.4g}"
        elif not relative_error(grad, right_grad) <= 10 * _TOLERANCE:
            return f"gradient of {name} is off by {relative_error(grad, right_grad):.1e}"
    return ""
