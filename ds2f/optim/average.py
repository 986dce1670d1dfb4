"""The exponential moving average of a model's weights, which errs less than the weights of any one step.

Polyak and Juditsky 1992. The running statistics of batch norm are averaged along, with the same decay: to first order
the activations of the averaged weights are the average of the activations of the weights, so that their means and
variances are those averages, taken over the same steps with the same shares (``checkpoint.load_model`` says why the
variances need no more). The statistics of the last step belong to other weights. That they are themselves an average
over some ten steps delays them by as much, here as in the model that is trained.
"""

import torch
from torch import Tensor

from ds2f import tree
from ds2f.types import Averages, Params, Stats


def init(params: Params, stats: Stats) -> Averages:
    """The averages before the first step: copies, since a step may reuse the buffers of the parameters."""
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

    The decay ``d`` is ``decay``, but at most (1 + step) / (10 + step), so that the first weights do not linger.

    Args:
      average: the averages so far, or ``()``, which stays what it is.
      params: the parameters after the step.
      stats: the running statistics after it; both finite.
      decay: the share that the averages keep of themselves, from 0 to 1.
      step: [] int64, the steps that were applied before this one.
      finite: boolean scalar; where it is false the averages keep their values. It is not read on the host.
      donate: writes into the buffers of ``average``, which must not be used afterwards. The same bits as without.

    Returns:
      The new averages.
    """
    if not average:
        return average
    leaves, rebuild = tree.flatten(average)
    share = (9 / (10 + step.to(torch.float32))).clamp(min=1 - decay) * finite
    shares = [share.to(leaf.dtype) for leaf in leaves]
    # With scalar tensors for weights this is one pass over the memory, and nothing waits for their values.
    if donate:
        torch._foreach_lerp_(leaves, tree.leaves((params, stats)), shares)
        return average
    return rebuild(list(torch._foreach_lerp(leaves, tree.leaves((params, stats)), shares)))
