"""Detects a diverged training from skipped steps, loss scale and logged losses; every rank reaches the same verdict."""

import math
from statistics import median

from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.progress import TrainProgress

FLOOR_LIMIT = 5  # skipped steps in a row that end a run whose loss scale is at its minimum
HISTORY = 20  # log lines whose median loss is the reference
MIN_HISTORY = 10  # log lines before a loss is compared with the median


class DivergedError(InputError):
    """The training has diverged; the message is a diagnosis."""


def require_progress(progress: TrainProgress, loss_scale: float, cfg: Config) -> None:
    """Checks the number of steps skipped in a row.

    Args:
      progress: holds the number of steps skipped in a row.
      loss_scale: of the last step.
      cfg: ``training.max_skipped_steps`` and ``apex`` are read.

    Raises:
      DivergedError: when the number reaches its limit, or ``FLOOR_LIMIT`` with the loss scale at its minimum.
    """
    row, limit = progress.skipped_in_a_row, cfg.training.max_skipped_steps
    at_the_floor = cfg.apex.dynamic and loss_scale <= cfg.apex.min_scale and row >= FLOOR_LIMIT
    if not limit or (row < limit and not at_the_floor):
        return
    scale = f"the loss scale is {loss_scale:g}" + (", its floor" if at_the_floor else "")
    raise DivergedError(
        f"stopped at step {progress.iteration}: the last {row} steps had no finite gradient and were skipped; {scale}. "
        "They left no trace in the parameters, and the newest checkpoint is whole. If the log names the same "
        "utterances each time, look at those recordings. Otherwise the training has diverged: lower "
        "--optim.learning_rate or --optim.max_norm, or take --apex.opt_level=O0, and go on with "
        "--checkpointing.load_auto_checkpoint."
    )


def spiked(progress: TrainProgress, loss: float, factor: float) -> bool:
    """Whether the loss of a log line exceeds ``factor`` times the median of the recent losses; appends it to them.

    A spike clears the recent losses. A factor of 0 switches the check off.
    """
    if not math.isfinite(loss):  # all steps since the last log line were skipped
        return False
    recent = progress.recent_losses
    high = factor > 0 and len(recent) >= MIN_HISTORY and loss > factor * median(recent)
    progress.recent_losses = [] if high else [*recent, loss][-HISTORY:]
    return high
