"""Checks of whole training steps: a small one against the CPU, its bits, a step to skip, and one of the real size."""

import time
from collections.abc import Iterator

import attrs
import torch

from ds2f import tree
from ds2f.config import Config
from ds2f.precision import short_name
from ds2f.runner import program
from ds2f.runner.device.backend import Backend, open_backend
from ds2f.types import Batch, StepMetrics, TrainState
from launch.doctor.check_session import Check, Session
from launch.doctor.verdict import OK, SLOW, WRONG, Line, cause
from launch.synthetic_batches import frames_like_an4, make_batch

TRAINING = "training step"
_BATCH, _ROUNDS = 10, 8
_TIMED = 2.0  # seconds of timed steps that are enough
_PATIENCE = 40.0  # seconds; a slower device takes a smaller batch, or fewer steps
_SLOW = 4.0  # utterances/s of 5 x 1024: the system rebuilt here on one NPU
_UTTERANCES, _EPOCHS = 948, 70  # of AN4's training


def checks() -> list[Check]:
    """The checks; the step of the real size is the last one, since it takes the longest."""
    return [
        Check(TRAINING, "small, fp32", lambda session: _small(session, "O0", 5e-3), remedy="--device=cpu"),
        Check(TRAINING, "small, auto", lambda session: _small(session, "O2", 5e-2), remedy="--apex.opt_level=O0"),
        Check(TRAINING, "same bits", _bits, needed=False),
        Check(TRAINING, "bad step", _bad_step, remedy="--apex.opt_level=O0"),
        Check(TRAINING, "real size", _real, seconds=120.0, remedy="--model.remat, or a smaller --data.batch_size"),
    ]


def _config(session: Session, *, small: bool = True) -> Config:
    """The configuration of the flags, small or as it is; the kernel is not timed."""
    model = session.cfg.model
    if small:
        model = attrs.evolve(model, hidden_size=32, hidden_layers=2)
    return attrs.evolve(session.cfg, model=attrs.evolve(model, kernel="fused"))


def _step(cfg: Config, backend: Backend, batch: Batch) -> tuple[TrainState, TrainState, StepMetrics]:
    """Takes one step; returns the state before and after, on the CPU, and the metrics."""
    made = program.build(cfg, backend)
    first = made.init()
    before = tree.map(torch.clone, first)
    after, metrics = made.step(backend.place_state(first), [batch], key=0)
    return before, tree.to(after, "cpu"), tree.to(metrics, "cpu")


def _small(session: Session, opt_level: str, tolerance: float) -> Iterator[Line]:
    backend, cpu = session.backend(), open_backend("cpu")
    cfg = _config(session)
    apex = attrs.evolve(cfg.apex, opt_level=opt_level, loss_scale="128")
    cfg = attrs.evolve(cfg, apex=apex)
    batch = make_batch(cfg, [120, 90, 60, 60])
    exact = attrs.evolve(
        cfg, apex=attrs.evolve(apex, opt_level="O0"), model=attrs.evolve(cfg.model, kernel="scan", ctc="scan")
    )
    _, _, expected = _step(exact, cpu, batch)
    _, _, found = _step(cfg, backend, batch)
    loss = abs(float(found.loss) / float(expected.loss) - 1)
    norm = abs(float(found.grad_norm) / float(expected.grad_norm) - 1)
    name = f"small, {short_name(backend.policy(apex).compute)}"
    remedy = "--apex.opt_level=O0" if opt_level != "O0" else "--model.kernel=scan --model.ctc=scan"
    if not max(loss, norm / 5) <= tolerance:
        found_text = f"loss is off by {loss:.1e}, gradient norm by {norm:.1e}"
        yield Line(TRAINING, name, WRONG, found_text, remedy)
    elif opt_level == "O0" or backend.policy(apex).compute != torch.float32:  # otherwise the same check once more
        yield Line(TRAINING, name, OK, f"loss {loss:.0e}, gradient norm {norm:.0e}")


def _bits(session: Session) -> Iterator[Line]:
    backend = session.backend()
    cfg = _config(session)
    batch = make_batch(cfg, [120, 90, 60, 60])
    first, second = (_step(cfg, backend, batch)[1].params for _ in range(2))
    different = [
        name
        for name, leaf in tree.flatten_with_names(first).items()
        if not torch.equal(leaf, tree.flatten_with_names(second)[name])
    ]
    if not different:
        yield Line(TRAINING, "same bits", OK, "two steps from one state are equal")
        return
    parts = sorted({name.partition("/")[0] for name in different})
    remedy = "--model.ctc=scan if runs of one seed must be equal; HCCL_DETERMINISTIC=true on NPUs"
    yield Line(TRAINING, "same bits", WRONG, f"two steps differ in {', '.join(parts)}", remedy, needed=False)


def _bad_step(session: Session) -> Iterator[Line]:
    """A step whose gradients overflow must change nothing but the loss scale."""
    backend = session.backend()
    cfg = _config(session)
    cfg = attrs.evolve(cfg, apex=attrs.evolve(cfg.apex, loss_scale="dynamic", initial_scale=3e38, max_scale=3.2e38))
    before, after, metrics = _step(cfg, backend, make_batch(cfg, [120, 90, 60, 60]))
    kept = all(torch.equal(a, b) for a, b in zip(tree.leaves(before.params), tree.leaves(after.params), strict=True))
    lowered = float(after.loss_scale.value) < float(before.loss_scale.value)
    if bool(metrics.finite) or not kept or not lowered:
        yield Line(TRAINING, "bad step", WRONG, "a step whose gradients overflow is applied", "--apex.opt_level=O0")
    else:
        yield Line(TRAINING, "bad step", OK, "skipped, the loss scale falls")


def _real(session: Session) -> Iterator[Line]:
    """Steps of the model of the flags on batches as long as AN4's: speed and memory."""
    backend = session.backend()
    cfg = _config(session, small=False)
    made = program.build(cfg, backend)
    state, size, seconds, metrics = backend.place_state(made.init()), _BATCH, [], None
    try:
        for index in range(_ROUNDS):
            lengths = frames_like_an4([(row + 0.5) / size for row in range(size)])
            batch = backend.place(make_batch(cfg, lengths if index else lengths[:2], key=index))  # first a short one
            backend.synchronize()
            began = time.perf_counter()
            state, metrics = made.step(state, [batch], key=index)
            backend.synchronize()
            seconds.append(time.perf_counter() - began)
            if index == 0 and seconds[0] > _PATIENCE / 4:
                size = 2
                break
            if index == 0 and size * seconds[0] > _PATIENCE:
                size = 2
            if sum(seconds[2:]) > _TIMED or (index and sum(seconds) > _PATIENCE / 2):
                break
    except RuntimeError as error:
        remedy = "--model.remat, or a smaller --data.batch_size"
        yield Line(TRAINING, "real size", WRONG, f"fails: {cause(error)}", remedy)
        return
    name = f"{cfg.model.hidden_layers} x {cfg.model.hidden_size}, batch {size}"
    timed = seconds[2:] or seconds[1:] or seconds  # the second batch is the first one of its shape
    speed = len(timed) * size / sum(timed)
    if metrics is None or not bool(torch.isfinite(metrics.loss)):
        yield Line(TRAINING, name, WRONG, "the loss is not finite", "--apex.opt_level=O0")
        return
    hours, slow = _UTTERANCES * _EPOCHS / speed / 3600, speed < _SLOW
    memory = f"{backend.memory() / 1e9:.1f} GB, {short_name(made.policy.compute)}"
    remedy = "--flagfile=configs/an4_cpu_whole.flags: 3 x 384, half the frames" if slow else ""
    least = "at least " if len(seconds) == 1 else ""  # the first step has work that later ones lack
    yield Line(
        TRAINING,
        name,
        SLOW if slow else OK,
        f"{least}{speed:.3g} utt/s, {memory}; {hours:.3g} h for 70 epochs of AN4",
        remedy,
    )
