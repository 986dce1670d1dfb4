"""A link that takes its time: collectives that delay every sum by its bytes, and training steps timed over them."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import attrs
from torch import Tensor

from ds2f import optim, rng, tree
from ds2f.config import Config
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import Group
from ds2f.steps import Objective, init_state, objective, train_step
from ds2f.types import Batch, Handle, Stage
from launch.synthetic_batches import draw_batch


class StageTime(NamedTuple):
    """A stage's share of the backward pass."""

    name: str
    seconds: float
    bytes: int


class Transfer(NamedTuple):
    """A sum over the ranks: when it was started and when it could be read, and its size."""

    start: float
    end: float
    bytes: int


@attrs.define
class SlowNetwork:
    """Collectives over a real group, each sum delayed in proportion to its bytes, one after the other."""

    group: Group
    seconds_per_byte: float = 0.0
    transfers: list[Transfer] = attrs.field(factory=list)
    rank: int = attrs.field(init=False)
    size: int = attrs.field(init=False)
    _free: float = attrs.field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self.rank, self.size = self.group.rank, self.group.size

    def all_reduce(self, values: Tensor) -> Tensor:
        """The group's."""
        return self.group.all_reduce(values)

    def all_finite(self, flag: Tensor) -> Tensor:
        """The group's."""
        return self.group.all_finite(flag)

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        """Starts the sum, which can be read when the group has it and the delay is over."""
        start, size = time.perf_counter(), buffer.numel() * buffer.element_size()
        self._free = max(self._free, start) + size * self.seconds_per_byte
        return _Delayed(self.group.all_reduce_async(buffer), self._free, partial(self._arrived, start, size))

    def _arrived(self, start: float, size: int) -> None:
        self.transfers.append(Transfer(start, time.perf_counter(), size))


class _Delayed(NamedTuple):
    handle: Handle
    ready: float
    arrived: Callable[[], None]

    def wait(self) -> None:
        """Waits for the group and for the rest of the delay."""
        self.handle.wait()
        time.sleep(max(0.0, self.ready - time.perf_counter()))
        self.arrived()


class TimedStep(NamedTuple):
    """One timed step."""

    seconds: float
    forward: float  # seconds
    parts: list[StageTime]  # from the top stage down
    transfers: list[Transfer]  # times since the step's start

    @property
    def backward(self) -> float:
        """Seconds."""
        return sum(part.seconds for part in self.parts)


def make_step(cfg: Config, backend: Backend, group: Group) -> Callable[..., TimedStep]:
    """Makes a function ``(overlap, seconds_per_byte) -> TimedStep`` that takes a training step on this rank's batch."""
    policy = backend.policy(cfg.apex)
    tx = optim.from_config(cfg.optim, cfg.optim.learning_rate, fused=backend.fused_optimizer)
    own = attrs.evolve(cfg, training=attrs.evolve(cfg.training, seed=rng.fold_in(cfg.training.seed, group.rank)))
    batch = backend.place(draw_batch(own, batch_size=cfg.data.batch_size, frames=0))
    batch = batch._replace(weight=batch.weight / group.size)
    state = backend.place_state(init_state(cfg, tx, key=cfg.training.seed))
    model = objective(cfg.model, policy=policy)
    marks: list[float] = []

    def stages(stats: Any, batch: Batch, *, key: int | None = None) -> list[Stage]:
        *chain, losses = model.stages(stats, batch, key=key)

        def marked(params: Any, x: Any) -> Any:
            backend.synchronize()
            marks.append(time.perf_counter())
            return losses.fn(params, x)

        return [*chain, losses._replace(fn=marked)]

    chain = model.stages(state.stats, batch, key=0)
    names = [stage.name for stage in reversed(chain) if tree.subtree(state.params, stage.name) is not None]
    sizes = [4 * tree.size(tree.subtree(state.params, name)) for name in names]

    def take(overlap: bool, seconds_per_byte: float) -> TimedStep:
        nonlocal state
        network = SlowNetwork(group, seconds_per_byte)
        group.gather(None)  # all begin together
        marks.clear()
        start = time.perf_counter()
        state, _ = train_step(
            state,
            batch,
            loss=Objective(stages),
            tx=tx,
            collectives=network,
            cfg=cfg,
            key=0,
            donate=True,
            overlap=overlap,
        )
        backend.synchronize()
        seconds = time.perf_counter() - start
        transfers = [Transfer(at - start, end - start, size) for at, end, size in network.transfers]
        ends = [transfer.start for transfer in sorted(transfers)[: len(names)]]
        begun = [marks[0] - start, *ends[:-1]]
        parts = [StageTime(*part) for part in zip(names, map(float.__sub__, ends, begun), sizes, strict=True)]
        return TimedStep(seconds, marks[0] - start, parts, transfers)

    return take


def trace_events(step: TimedStep, rank: int) -> list[dict[str, Any]]:
    """A step in Chrome's trace format: computing and summing as two rows per rank, microseconds."""

    def event(name: str, row: str, start: float, end: float) -> dict[str, Any]:
        return {"name": name, "ph": "X", "pid": rank, "tid": row, "ts": 1e6 * start, "dur": 1e6 * (end - start)}

    events, at = [event("forward", "compute", 0, step.forward)], step.forward
    for part in step.parts:
        events.append(event(f"backward {part.name}", "compute", at, at + part.seconds))
        at += part.seconds
    for part, transfer in zip(step.parts, sorted(step.transfers), strict=False):
        events.append(event(f"sum {part.name}", "sums", transfer.start, transfer.end))
    return events
