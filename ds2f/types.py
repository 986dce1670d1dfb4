"""What flows through the house: the shapes of data, the protocols, and nothing that computes."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Params = dict[str, Any]  # nested dicts and lists of float tensors, one entry per stage of the model
Stats = dict[str, Any]  # running statistics of batch norm, the same nesting
OptState = Any  # a pytree that only its own optimizer looks into


class Batch(NamedTuple):
    """A padded batch of utterances.

    ``lengths``, ``label_lengths`` and ``ids`` live on the CPU whatever the device: CTC wants them there.
    """

    features: Tensor  # [B, F, T] float32
    lengths: Tensor  # [B] int64, frames
    labels: Tensor  # [B, L] int64, padded with anything
    label_lengths: Tensor  # [B] int64
    ids: Tensor  # [B] int64: rows of the manifest
    weight: Tensor  # [] float32: 1 / the number of feasible utterances in the global batch


class Logits(NamedTuple):
    """Unnormalised scores of every label at every frame; what lies past an utterance's length means nothing."""

    values: Tensor  # [B, T', V] float32 (float64 under a float64 policy)
    lengths: Tensor  # [B] int64 on the CPU, frames


class Moments(NamedTuple):
    """Count, mean and summed squared deviation of a normalised layer's input over the valid frames of one batch."""

    count: Tensor  # type: ignore[assignment]  # [] float32; the name hides tuple.count
    mean: Tensor  # [C] float32
    m2: Tensor  # [C] float32: sum of (x - mean)**2


class LossScale(NamedTuple):
    """Loss scaling as a pytree."""

    value: Tensor  # [] float32
    good_steps: Tensor  # [] int32: finite steps since the last change


class Averages(NamedTuple):
    """The moving average of a model: ``optim.average`` makes it."""

    params: Params
    stats: Stats


class TrainState(NamedTuple):
    """All that a run is, except its position in the data (integers)."""

    step: Tensor  # [] int64: optimizer updates that were applied
    params: Params
    stats: Stats
    opt_state: OptState
    loss_scale: LossScale
    average: Averages | tuple[()] = ()  # empty where the run keeps none

    @property
    def model(self) -> tuple[Params, Stats]:
        """What is evaluated and handed out: the averages, or else the parameters and statistics themselves."""
        return (self.average.params, self.average.stats) if self.average else (self.params, self.stats)


class StepMetrics(NamedTuple):
    """What one step leaves for the log; everything stays on the device until somebody reads it."""

    loss: Tensor  # [] float32: mean over the feasible utterances of the global batch, natural log
    losses: Tensor  # [B] float32: per utterance, +inf where the transcript cannot fit
    grad_norm: Tensor  # [] float32: of the unscaled gradients, before clipping
    finite: Tensor  # [] bool: whether the step was applied
    loss_scale: Tensor  # [] float32: the scale that this step used


class Handle(Protocol):
    """A collective under way."""

    def wait(self) -> None:
        """Makes the result usable: returns when later work on the device may read the buffer."""


class Collectives(Protocol):
    """Sums over the ranks of a job. Every method is called by every rank, in the same order."""

    rank: int
    size: int

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        """Starts summing a contiguous buffer over the ranks, in place."""

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over the ranks, as a new tensor and differentiable: its cotangents are summed over the ranks too."""

    def all_finite(self, flag: Tensor) -> Tensor:
        """Whether the boolean scalar ``flag`` is true on every rank."""


class _Done:
    def wait(self) -> None:
        return None


class _Single:
    """One process: every sum has one summand."""

    rank = 0
    size = 1

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        return _Done()

    def all_reduce(self, values: Tensor) -> Tensor:
        return values

    def all_finite(self, flag: Tensor) -> Tensor:
        return flag


SINGLE: Collectives = _Single()


def identity(x: torch.Tensor) -> torch.Tensor:
    """Returns its argument: the sum over ranks when there is one."""
    return x


class Stage(NamedTuple):
    """One link of a chain of pure functions, which is how a model is differentiated piece by piece."""

    name: str  # where in params the stage's subtree lies: a key, or keys with slashes between; empty: all of params
    fn: Callable[[Params, Any], tuple[Any, Any]]  # (that subtree, x) -> (y, auxiliary output)
