"""The training loss as a chain of pure stages: model, criterion, regularisation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from ds2f import augment, ctc, rng, tree
from ds2f.config import AugmentationConfig, ModelConfig
from ds2f.model import deepspeech2
from ds2f.model.recurrent import Kernel
from ds2f.precision import FULL, Policy
from ds2f.types import Batch, Criterion, Logits, Params, Stage, Stats, identity


@attrs.frozen
class Objective:
    """The loss that ``train_step`` differentiates: the model in training mode and a criterion, as a chain of stages.

    An objective is a ``types.Loss``: ``objective(params, stats, batch, key=key) -> (losses [B], moments)``. In
    pseudocode, for an objective of ``objective(cfg)``::

        views  = [batch.features], or two masked copies                  # consistency
        h      = conv(views), then rnn_0 ... rnn_{n-1}                   # model, training mode
        z      = output(h)                                               # logits
        z_mid  = intermediate(h of the middle layer)                     # intermediate_ctc = i > 0
        ctc(z) = (1 - s) * criterion(z) + s * sum KL(uniform || p)       # label_smoothing = s
        total  = (1 - i) * ctc(z) + i * ctc(z_mid)
        losses = mean of total over views + consistency * divergence(z)  # [B], natural log

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
    criterion: Criterion | None = None,
    policy: Policy = FULL,
    kernel: Kernel | None = None,
    reduce_moments: Callable[[Tensor], Tensor] = identity,
    augmentation: AugmentationConfig | None = None,
) -> Objective:
    """Makes the loss that ``train_step`` differentiates; ``Objective`` gives it as pseudocode.

    Args:
      cfg: the ``model`` section. ``label_smoothing``, ``intermediate_ctc`` and ``consistency`` regularise the loss.
      criterion: the loss of logits; ``None`` for the CTC implementation ``cfg.ctc``.
      policy: dtypes of the forward pass.
      kernel: a recurrent kernel; ``None`` for the kernel ``cfg.kernel``.
      reduce_moments: a differentiable all-reduce, ``collectives.all_reduce``, for synchronised batch norm.
      augmentation: SpecAugment masks of the two views of ``cfg.consistency``; the features must not be masked yet.
        ``None`` for no masks.

    Sources: intermediate CTC, Lee and Watanabe 2021, "Intermediate Loss Regularization for CTC-based Speech
    Recognition" (here the middle layer has its own linear layer onto the labels); consistency, Yao et al. 2024,
    "CR-CTC: Consistency regularization on CTC", arXiv:2410.05101; label smoothing, see ``ctc.smoothed``.

    >>> cfg = ModelConfig(hidden_size=8, hidden_layers=1)
    >>> params, stats = deepspeech2.init(cfg, key=0)
    >>> features = torch.randn(1, cfg.num_bins, 40, generator=rng.generator(1))
    >>> labels = torch.tensor([[9, 10, 2]])
    >>> batch = Batch(features, torch.tensor([40]), labels, torch.tensor([3]), torch.tensor([0]), torch.tensor(1.0))
    >>> losses, moments = objective(cfg)(params, stats, batch)
    >>> losses.shape, sorted(moments)
    (torch.Size([1]), ['conv', 'output'])
    """
    criterion = criterion or partial(ctc.ctc_loss, impl=cfg.ctc)
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
            first = _on_two_views(first, batch, masks, key)
        return [first, *others, Stage("losses", losses)]

    return Objective(stages)


def divergence(logits: Logits) -> Tensor:
    """The divergence between the label distributions of an utterance's two views.

    Args:
      logits: values [2 B, T', V], first the first view of all utterances, then the second; lengths [2 B].

    Returns:
      [B]: the mean of KL(a || b) and KL(b || a), natural log, summed over an utterance's frames. The first argument of
      each KL is a constant target; gradients flow into the second argument only.
    """
    log_probs = ctc.log_probs_of(logits)  # uniform in the padding of both views: adds zero
    first, second = log_probs.detach().tensor_split(2)
    targets = torch.cat((second, first))
    each = (targets.exp() * (targets - log_probs)).sum(dim=(1, 2))
    return each.view(2, len(first)).mean(dim=0)


def _on_two_views(first: Stage, batch: Batch, masks: AugmentationConfig, key: int | None) -> Stage:
    """The model's first stage on two masked views of its features. Masks depend on the key and the utterance.

    A separate stage for the masks would make the views an input that the first stage is differentiated by.
    """
    if key is None:
        raise ValueError(
            "the views of model.consistency are drawn from a key: pass key=rng.fold_in(seed, step), new every step"
        )
    ids = batch.ids.tolist()
    keys = [rng.fold_in(key, "view", view, utterance) for view in range(2) for utterance in ids]

    def fn(params: Params, features: Tensor) -> tuple[Tensor, dict[str, Any]]:
        twice = augment.spec_augment_batch(features.repeat(2, 1, 1), batch.lengths.repeat(2), keys, masks)
        return first.fn(params, twice)

    return first._replace(fn=fn)


def moments_of(auxiliary: dict[str, Any]) -> Any:
    """The moments tree from the auxiliary outputs of a chain; a chain of one stage returns the whole tree at once."""
    return auxiliary[""] if "" in auxiliary else {name: measured for name, measured in auxiliary.items() if measured}
