"""Signs that a training goes wrong, told by what its log lines read; the same on all ranks, which read the same."""

import math
from statistics import median

from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.progress import TrainProgress

AT_THE_FLOOR = 5  # skipped steps in a row after which a loss scale that cannot fall further is no cure
MEMORY = 20  # log lines that the loss is compared with
ENOUGH = 10  # log lines before it is


class DivergedError(InputError):
    """The run cannot go on usefully; the message is a diagnosis."""


def require_progress(position: TrainProgress, loss_scale: float, cfg: Config) -> None:
    """Looks at the steps that were skipped in a row.

    Args:
      position: with the count.
      loss_scale: of the last step.
      cfg: ``training.max_skipped_steps`` and ``apex`` are read.

    Raises:
      DivergedError: when they are too many, or the loss scale can fall no further.
    """
    row, limit = position.skipped_in_a_row, cfg.training.max_skipped_steps
    at_the_floor = cfg.apex.dynamic and loss_scale <= cfg.apex.min_scale and row >= AT_THE_FLOOR
    if not limit or (row < limit and not at_the_floor):
        return
    scale = f"the loss scale is {loss_scale:g}" + (", its floor" if at_the_floor else "")
    raise DivergedError(
        f"stopped at step {position.iteration}: the last {row} steps had no finite gradient and were skipped; {scale}. "
        "Nothing of them is in the parameters, and the newest checkpoint is whole. If the log names the same "
        "utterances each time, look at those recordings. Otherwise the training has diverged: lower "
        "--optim.learning_rate or --optim.max_norm, or take --apex.opt_level=O0, and go on with "
        "--checkpointing.load_auto_checkpoint."
    )


def spiked(position: TrainProgress, loss: float, factor: float) -> bool:
    """Notes the loss of a log line, and returns whether it exceeds ``factor`` times the median of those before."""
    if not math.isfinite(loss):  # every step since the last line was skipped
        return False
    recent = position.recent_losses
    high = factor > 0 and len(recent) >= ENOUGH and loss > factor * median(recent)
    position.recent_losses = [] if high else [*recent, loss][-MEMORY:]
    return high
