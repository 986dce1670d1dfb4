"""Check of each optimizer on the device against its plain form on the CPU in float64, and with a bad verdict."""

import functools
from collections.abc import Iterator

import torch

from ds2f import optim, rng, tree
from ds2f.config import OptimConfig
from ds2f.runner.device.backend import Backend
from launch.doctor.check_session import Check, Session
from launch.doctor.operators import OPERATORS, relative_error
from launch.doctor.verdict import OK, WRONG, Line, cause

NAMES = ("adamw", "sgd", "lamb", "muon", "novograd")
_TOLERANCE = 1e-4
_RATE = 0.1


def checks() -> list[Check]:
    """A check per optimizer; the default one is needed."""
    return [
        Check(OPERATORS, f"optimizer {name}", functools.partial(_check, name=name), needed=name == "adamw")
        for name in NAMES
    ]


def _check(session: Session, *, name: str) -> Iterator[Line]:
    backend = session.backend()
    line = functools.partial(Line, OPERATORS, f"optimizer {name}", needed=name == "adamw")
    remedy = f"--optim.name={'lamb' if name == 'adamw' else 'adamw'}"
    try:
        problem = _judge(name, backend)
    except RuntimeError as error:
        problem = f"fails: {cause(error)}"
    yield line(WRONG if problem else OK, problem or "right; a bad step changes nothing", remedy if problem else "")


def _judge(name: str, backend: Backend) -> str:
    cfg = OptimConfig(name=name, weight_decay=0.1)
    tx = optim.from_config(cfg, _RATE, fused=backend.fused_optimizer)
    plain = optim.from_config(cfg, _RATE, fused=False)
    params, grads = _draw("params"), [_draw(f"grads {step}") for step in range(2)]
    expected, reference = tree.cast(params, torch.float64), plain.init(tree.cast(params, torch.float64))
    good, bad = (torch.tensor(value).to(backend.device) for value in (True, False))
    found = tree.to(params, backend.device)
    state = tree.to(tx.init(params), backend.device)
    for each in grads:
        step = tree.cast(each, torch.float64)
        expected, reference = optim.apply_step(
            plain, step, reference, expected, finite=torch.tensor(True), donate=False
        )
        found, state = optim.apply_step(tx, tree.to(each, backend.device), state, found, finite=good, donate=True)
    errors = tree.leaves(tree.map(lambda a, b: relative_error(a.cpu().double(), b), found, expected))
    if not max(errors) <= _TOLERANCE:
        return f"parameters are off by {max(errors):.1e}"
    broken = tree.map(lambda leaf: torch.full_like(leaf, torch.inf).to(backend.device), grads[0])
    before = tree.map(lambda leaf: leaf.cpu().clone(), (found, state))
    after = tree.to(optim.apply_step(tx, broken, state, found, finite=bad, donate=True), "cpu")
    kept = all(torch.equal(a, b) for a, b in zip(tree.leaves(before), tree.leaves(after), strict=True))
    return "" if kept else "a step that is not finite changes parameters or moments"


def _draw(use: str) -> tree.Tree:
    generator = rng.generator(rng.fold_in(0, "optimizer", use))
    weights = {"w_hh": torch.randn(16, 16, generator=generator), "b_hh": torch.randn(16, generator=generator)}
    return {"rnn_0": {"forward": weights}}
