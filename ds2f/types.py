"""Data shapes and protocols that the modules share. Nothing here computes."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Params = dict[str, Any]  # nested dicts and lists of float tensors, one entry per stage of the model
Stats = dict[str, Any]  # running statistics of batch norm, the same nesting
OptState = Any  # a pytree; only the optimizer that made it reads it


class Batch(NamedTuple):
    """A padded batch of utterances.

    ``lengths``, ``label_lengths`` and ``ids`` stay on the CPU, also when ``features`` are on a device: torch's CTC
    reads lengths there.

    >>> batch = Batch(
    ...     features=torch.zeros(2, 161, 100),
    ...     lengths=torch.tensor([100, 60]),
    ...     labels=torch.tensor([[9, 10, 2], [16, 12, 0]]),
    ...     label_lengths=torch.tensor([3, 2]),
    ...     ids=torch.tensor([0, 1]),
    ...     weight=torch.tensor(1 / 2),
    ... )
    """

    features: Tensor  # [B, F, T] float32
    lengths: Tensor  # [B] int64, frames
    labels: Tensor  # [B, L] int64, any value in the padding
    label_lengths: Tensor  # [B] int64
    ids: Tensor  # [B] int64: rows of the manifest
    weight: Tensor  # [] float32: 1 / the number of feasible utterances in the global batch


class Logits(NamedTuple):
    """Unnormalised scores of every label at every frame. Scores past an utterance's length have no meaning."""

    values: Tensor  # [B, T', V] float32 (float64 under a float64 policy)
    lengths: Tensor  # [B] int64 on the CPU, frames


Forward = Callable[[Batch], Logits]  # a model in evaluation: a batch on the CPU to its logits, on any device


class Moments(NamedTuple):
    """Count, mean and summed squared deviation of a normalised layer's input over the valid frames of one batch."""

    count: Tensor  # type: ignore[assignment]  # [] float32; the name hides tuple.count
    mean: Tensor  # [C] float32
    m2: Tensor  # [C] float32: sum of (x - mean)**2


class LossScale(NamedTuple):
    """State of loss scaling."""

    value: Tensor  # [] float32
    good_steps: Tensor  # [] int32: finite steps since the last change


class Averages(NamedTuple):
    """Moving averages of a model's parameters and statistics; made by ``optim.average``."""

    params: Params
    stats: Stats


class TrainState(NamedTuple):
    """The whole state of a run, except its progress in the data."""

    step: Tensor  # [] int64: applied optimizer updates
    params: Params
    stats: Stats
    opt_state: OptState
    loss_scale: LossScale
    average: Averages | tuple[()] = ()  # empty without optim.average_decay

    @property
    def model(self) -> tuple[Params, Stats]:
        """Parameters and statistics for evaluation and export: the averages if the run keeps any."""
        return (self.average.params, self.average.stats) if self.average else (self.params, self.stats)


class StepMetrics(NamedTuple):
    """Measurements of one step, on the device: the host waits only when it reads them."""

    loss: Tensor  # [] float32: mean over the feasible utterances of the global batch, natural log
    losses: Tensor  # [B] float32: per utterance of this rank, +inf where the transcript cannot fit
    grad_norm: Tensor  # [] float32: of the unscaled gradients, before clipping
    finite: Tensor  # [] bool: whether the step was applied
    loss_scale: Tensor  # [] float32: the scale of this step


class Criterion(Protocol):
    """A loss of logits and labels: ``ctc.native``, ``ctc.warpctc``, ``ctc.scan`` or your own."""

    def __call__(self, logits: Logits, labels: Tensor, label_lengths: Tensor, /, *, blank: int) -> Tensor:
        """Computes the loss of each utterance.

        Args:
          logits: values [B, T', V], lengths [B] on the CPU.
          labels: [B, L] int64, any value in the padding.
          label_lengths: [B] int64 on the CPU.
          blank: index of the blank.

        Returns:
          [B] losses, natural log; +inf with zero gradient for an utterance that must not count.
        """


class Loss(Protocol):
    """A loss of a model's parameters on one batch: the function that ``steps.train_step`` differentiates."""

    def __call__(self, params: Params, stats: Stats, batch: Batch, /, *, key: int | None) -> tuple[Tensor, Any]:
        """Computes the loss of each utterance, and the batch's moments.

        Args:
          params: the parameters.
          stats: running statistics of batch norm.
          batch: one micro-batch, on the device of ``params``.
          key: random key of this micro-batch; ``None`` if the step got none.

        Returns:
          [B] losses (+inf: does not count; NaN: fails the step), and the batch-norm moments of the batch, detached:
          a tree of ``Moments`` shaped like ``stats``.
        """


class Handle(Protocol):
    """An all-reduce in progress."""

    def wait(self) -> None:
        """Returns when later work on the device may read the result."""


class Collectives(Protocol):
    """All-reduce operations of a job. Every rank calls the same methods in the same order."""

    rank: int
    size: int

    def all_reduce_async(self, buffer: Tensor) -> Handle:
        """Starts to sum a contiguous buffer over the ranks, in place."""

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over the ranks as a new tensor. It is differentiable: its cotangents are summed over the ranks."""

    def all_finite(self, flag: Tensor) -> Tensor:
        """Whether the boolean scalar ``flag`` is true on every rank."""


class _Done:
    def wait(self) -> None:
        return None


class _Single:
    """The collectives of a job of one process: every all-reduce returns its argument."""

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
    """Returns its argument: the all-reduce of a single rank."""
    return x


class Stage(NamedTuple):
    """A named pure function. A model is a chain of stages, so that it can be differentiated stage by stage."""

    name: str  # path of the stage's parameters: keys joined by slashes, "rnn_0/forward"; empty for all parameters
    fn: Callable[[Params, Any], tuple[Any, Any]]  # (parameters at that path, x) -> (y, auxiliary output)
