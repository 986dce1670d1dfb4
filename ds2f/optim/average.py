"""Exponential moving average of a model's weights (Polyak and Juditsky 1992); it errs less than any single step's.

The running statistics of batch norm are averaged with the same decay. To first order, the activations of averaged
weights are the average of the activations; so their means and variances are averages over the same steps
(``checkpoint.load_model`` says why the variances need no more). The last step's statistics would belong to other
weights. Batch norm's own average over about ten steps delays the statistics equally here and in the trained model.
"""

import torch
from torch import Tensor

from ds2f import tree
from ds2f.types import Averages, Params, Stats


def init(params: Params, stats: Stats) -> Averages:
    """Starts the averages as copies of parameters and statistics, since a step may reuse the buffers of both."""
    return Averages(*tree.map(torch.clone, (params, stats)))


@torch.no_grad()
def update(
    average: Averages | tuple[()],
    params: Params,
    stats: Stats,
    *,
    decay: float,
    step: Tensor,
    finite: Tensor,
    donate: bool = False,
) -> Averages | tuple[()]:
    """Moves the averages towards the model after a step: ``average + (1 - d) * (model - average)``.

    The decay ``d`` is ``decay``, but at most (1 + step) / (10 + step), so that the first weights are soon forgotten.

    Args:
      average: the averages so far; ``()`` (averaging is off) is returned unchanged.
      params: the parameters after the step, finite.
      stats: the running statistics after the step, finite.
      decay: from 0 (the averages are the model) to 1 (the averages never move).
      step: [] int64, the number of steps applied before this step.
      finite: [] bool; if false, the averages keep their values. The host does not read it.
      donate: writes into the buffers of ``average``, which must not be used afterwards. The same bits as without.

    Returns:
      The new averages, of the same structure and dtypes.
    """
    if not average:
        return average
    leaves, rebuild = tree.flatten(average)
    weight = (9 / (10 + step.to(torch.float32))).clamp(min=1 - decay) * finite
    weights = [weight.to(leaf.dtype) for leaf in leaves]
    # Weights as scalar tensors: a single pass over the memory, and the host does not wait for their values.
    if donate:
        torch._foreach_lerp_(leaves, tree.leaves((params, stats)), weights)
        return average
    return rebuild(list(torch._foreach_lerp(leaves, tree.leaves((params, stats)), weights)))
