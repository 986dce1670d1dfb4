"""A slow network between ranks: collectives that delay every all-reduce by its bytes, and timed training steps."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import attrs
from torch import Tensor

from ds2f import rng, tree
from ds2f.config import Config
from ds2f.runner import program
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import Group
from ds2f.runner.spans import COMMUNICATION, FORWARD, Spans
from ds2f.types import Handle
from launch.synthetic_batches import draw_batch


class StageTime(NamedTuple):
    """The backward pass of a stage, and the size of its gradients."""

    name: str
    seconds: float
    bytes: int


class Transfer(NamedTuple):
    """An all-reduce, from its start to the end of the wait for its result."""

    start: float  # seconds
    end: float  # seconds
    bytes: int


@attrs.define
class SlowNetwork:
    """Collectives of a real group that delay each all-reduce in proportion to its bytes, one after the other."""

    group: Group
    seconds_per_byte: float = 0.0
    rank: int = attrs.field(init=False)
    size: int = attrs.field(init=False)
    _idle_at: float = attrs.field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self.rank, self.size = self.group.rank, self.group.size

    def all_reduce(self, values: Tensor) -> Tensor:
        """The all-reduce of the group, without delay."""
        return self.group.all_reduce(values)

    def all_finite(self, flag: Tensor) -> Tensor:
        """The verdict of the group, without delay."""
        return self.group.all_finite(flag)

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        """Starts an all-reduce; its handle waits for the group and for the delay."""
        size = buffer.numel() * buffer.element_size()
        self._idle_at = max(self._idle_at, time.perf_counter()) + size * self.seconds_per_byte
        return _Delayed(self.group.all_reduce_async(buffer), self._idle_at)


class _Delayed(NamedTuple):
    handle: Handle
    ready: float

    def wait(self) -> None:
        """Waits for the group and the rest of the delay."""
        self.handle.wait()
        time.sleep(max(0.0, self.ready - time.perf_counter()))


class TimedStep(NamedTuple):
    """A training step and its times."""

    seconds: float
    forward: float  # seconds
    parts: list[StageTime]  # from the top stage down
    transfers: list[Transfer]  # by start, in seconds since the start of the step
    events: list[dict[str, Any]]  # in Chrome's trace format

    @property
    def backward(self) -> float:
        """Seconds of the backward pass."""
        return sum(part.seconds for part in self.parts)


def make_step(cfg: Config, backend: Backend, group: Group) -> Callable[..., TimedStep]:
    """Makes ``take(overlap, seconds_per_byte) -> TimedStep``, a training step on a fixed batch of this rank."""
    own = attrs.evolve(cfg, training=attrs.evolve(cfg.training, seed=rng.fold_in(cfg.training.seed, group.rank)))
    batch = backend.place(draw_batch(own, batch_size=cfg.data.batch_size))
    batch = batch._replace(weight=batch.weight / group.size)
    training = program.build(cfg, backend, group)
    state = backend.place_state(training.init())
    spans = Spans(backend.synchronize)

    chain = training.loss.stages(state.stats, batch, key=0)
    names = [stage.name for stage in reversed(chain) if tree.subtree(state.params, stage.name) is not None]
    sizes = [4 * tree.size(tree.subtree(state.params, name)) for name in names]

    def take(overlap: bool, seconds_per_byte: float) -> TimedStep:
        nonlocal state
        network = SlowNetwork(group, seconds_per_byte)
        spans.clear()
        group.gather(None)  # all ranks begin together
        start = time.perf_counter()
        state, _ = training.step(state, [batch], key=0, collectives=network, overlap=overlap, spans=spans)
        backend.synchronize()
        seconds = time.perf_counter() - start
        transfers = [Transfer(each.start - start, each.end - start, each.bytes) for each in spans.on(COMMUNICATION)]
        # The all-reduce of a stage starts when its backward pass ends. The top stage includes the loss.
        forward = spans.first(f"{chain[-1].name}{FORWARD}").start - start
        ends = [transfer.start for transfer in transfers[: len(names)]]
        parts = [
            StageTime(name, end - begin, size)
            for name, begin, end, size in zip(names, [forward, *ends[:-1]], ends, sizes, strict=True)
        ]
        return TimedStep(seconds, forward, parts, transfers, spans.events(group.rank, origin=start))

    return take
