"""What training minimises, as a chain of pure stages: the model, a criterion, and what regularises both."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from ds2f import augment, ctc, rng, tree
from ds2f.config import AugmentationConfig, ModelConfig
from ds2f.ctc import Criterion
from ds2f.model import deepspeech2
from ds2f.precision import FULL, Policy
from ds2f.types import Batch, Logits, Params, Stage, Stats, identity


@attrs.frozen
class Objective:
    """What ``train_step`` differentiates: the model in training mode, then a criterion, as a chain of stages.

    It is called like any loss, ``objective(params, stats, batch, key=key) -> (losses [B], moments)``: losses per
    utterance in natural log, and the batch-norm moments of the batch (a tree of ``Moments`` shaped like ``stats``).

    Attributes:
      stages: ``(stats, batch, *, key) -> list[Stage]``, from ``batch.features`` to the losses.
    """

    stages: Callable[..., list[Stage]]

    def __call__(self, params: Params, stats: Stats, batch: Batch, *, key: int | None = None) -> tuple[Tensor, Any]:
        x, auxiliary = batch.features, {}
        for stage in self.stages(stats, batch, key=key):
            x, auxiliary[stage.name] = stage.fn(tree.subtree(params, stage.name, default={}), x)
        return x, moments_of(auxiliary)


def objective(
    cfg: ModelConfig,
    *,
    criterion: Criterion = ctc.native,
    policy: Policy = FULL,
    kernel: Any = None,
    reduce_moments: Callable[[Tensor], Tensor] = identity,
    augmentation: AugmentationConfig | None = None,
) -> Objective:
    """Makes the function that ``train_step`` differentiates.

    Args:
      cfg: the ``model`` section.
      criterion: ``(logits, labels, label_lengths, *, blank) -> [B]`` losses, +inf with zero gradient for an utterance
        that must not count: ``ctc.native``, ``ctc.warpctc``, ``ctc.scan`` or your own. It is smoothed if
        ``cfg.label_smoothing`` is positive, and also judges the middle layer if ``cfg.intermediate_ctc`` is (Lee and
        Watanabe 2021, "Intermediate Loss Regularization for CTC-based Speech Recognition"; the layer that reads it is
        its own here). With ``cfg.consistency``, an utterance's loss is the mean over two views of it, and that times
        their ``divergence`` is added (Yao et al. 2024, "CR-CTC: Consistency regularization on CTC", arXiv:2410.05101).
      policy: dtypes of the forward pass.
      kernel: a recurrent kernel; ``None`` takes the one that ``cfg.kernel`` names.
      reduce_moments: a differentiable sum over ranks, ``collectives.all_reduce``, for synchronised batch norm.
      augmentation: the SpecAugment masks of the two views, which the features should not have yet; ``None`` for none.
    """
    if cfg.label_smoothing:
        criterion = ctc.smoothed(criterion, share=cfg.label_smoothing)
    views = 2 if cfg.consistency else 1
    masks = augmentation or AugmentationConfig()

    def stages(stats: Stats, batch: Batch, *, key: int | None = None) -> list[Stage]:
        count, lengths = len(batch.lengths), batch.lengths.repeat(views)
        frames = deepspeech2.output_lengths(lengths, time_stride=cfg.time_stride)
        labels, label_lengths = batch.labels.repeat(views, 1), batch.label_lengths.repeat(views)

        def loss(values: Tensor) -> Tensor:
            judged = criterion(Logits(values, frames), labels, label_lengths, blank=cfg.blank)
            return judged.view(views, count).mean(dim=0)

        def losses(_: Params, values: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Any]]:
            output, middle = (values, None) if isinstance(values, Tensor) else values
            total, share = loss(output), cfg.intermediate_ctc
            if middle is not None:
                total = (1 - share) * total + share * loss(middle)  # +inf in both stays +inf
            if cfg.consistency:
                total = total + cfg.consistency * divergence(Logits(output, frames))
            return total, {}

        first, *others = deepspeech2.stages(
            cfg,
            stats,
            lengths,
            train=True,
            key=key,
            policy=policy,
            kernel=kernel,
            reduce_moments=reduce_moments,
            frames=batch.features.shape[-1],
            split_first=True,
            intermediate=True,
        )
        if cfg.consistency:
            first = _seeing_twice(first, batch, masks, key)
        return [first, *others, Stage("losses", losses)]

    return Objective(stages)


def divergence(logits: Logits) -> Tensor:
    """How much what is said of each utterance differs between its two views.

    Args:
      logits: values [2 B, T', V], one view of all utterances after the other; lengths [2 B].

    Returns:
      [B]: the mean of KL(a || b) and KL(b || a), natural log, summed over an utterance's frames. What stands before
      the bars is taken as it is: gradients flow into the other, which is drawn towards it.
    """
    log_probs = ctc.log_probs_of(logits)  # uniform in the padding of both, which adds nothing
    one, other = log_probs.detach().tensor_split(2)
    towards = torch.cat((other, one))
    each = (towards.exp() * (towards - log_probs)).sum(dim=(1, 2))
    return each.view(2, len(one)).mean(dim=0)


def _seeing_twice(first: Stage, batch: Batch, masks: AugmentationConfig, key: int | None) -> Stage:
    """The stage on two views of its features, each with masks of its own, which depend on the key and the utterance.

    They are made within the model's first stage instead of in one before it, whose output would be differentiated by.
    """
    if key is None:
        raise ValueError(
            "two views are drawn from a key and got none: pass key=rng.fold_in(seed, step), new every step"
        )
    ids = batch.ids.tolist()
    keys = [rng.fold_in(key, "view", view, utterance) for view in range(2) for utterance in ids]

    def fn(params: Params, features: Tensor) -> tuple[Tensor, dict[str, Any]]:
        twice = augment.spec_augment_batch(features.repeat(2, 1, 1), batch.lengths.repeat(2), keys, masks)
        return first.fn(params, twice)

    return first._replace(fn=fn)


def moments_of(auxiliary: dict[str, Any]) -> Any:
    """The moments tree out of what the stages of a chain leave; a single stage leaves the whole tree."""
    return auxiliary[""] if "" in auxiliary else {name: measured for name, measured in auxiliary.items() if measured}
