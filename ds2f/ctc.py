"""The CTC loss of each utterance, in three implementations of one signature.

``native`` is torch's operator. ``warpctc`` is Baidu's library, if installed. ``scan`` is plain tensor operations, for
second derivatives and vmap. Source: Graves et al. 2006, "Connectionist Temporal Classification".

All three agree on the edge cases. A transcript needs one frame per label and one per blank between equal neighbours.
With fewer frames its loss is +inf and its gradient exactly zero, so the utterance neither makes the batch NaN (as
torch's operator does) nor counts as perfect (as with ``zero_infinity``). An empty transcript is emitted by
blanks at all frames. Scores past an utterance's length have no effect and a gradient of zero.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ds2f import warp_ctc
from ds2f.errors import InputError
from ds2f.types import Criterion, Logits

_IMPOSSIBLE = -1e30  # the logarithm of zero, finite so that no gradient becomes inf - inf


def min_frames(labels: Tensor, label_lengths: Tensor) -> Tensor:
    """The fewest frames that can emit each transcript: its length plus the number of equal neighbours.

    Args:
      labels: [B, L] int64, any value in the padding.
      label_lengths: [B] int64.

    Returns:
      [B] int64, frames, on the device of ``labels``.

    >>> min_frames(torch.tensor([[3, 3, 5]]), torch.tensor([3]))
    tensor([4])
    """
    repeats = (labels[:, 1:] == labels[:, :-1]) & _mask(label_lengths - 1, max(labels.shape[1] - 1, 0), labels.device)
    return label_lengths.to(labels.device, non_blocking=True) + repeats.sum(dim=1)


def feasible(logit_lengths: Tensor, labels: Tensor, label_lengths: Tensor) -> Tensor:
    """Whether each transcript fits into its utterance's frames of logits.

    Args:
      logit_lengths: [B] int64, frames of logits.
      labels: [B, L] int64, any value in the padding.
      label_lengths: [B] int64.

    Returns:
      [B] bool, on the device of ``labels``.
    """
    return min_frames(labels, label_lengths) <= logit_lengths.to(labels.device, non_blocking=True)


def native(logits: Logits, labels: Tensor, label_lengths: Tensor, *, blank: int = 0) -> Tensor:
    """The CTC loss by torch's operator.

    Ascend's operator accepts transcripts of one label up to one label per frame. Longer transcripts are therefore cut
    and empty ones get a label before the call; their losses are replaced after it. With lengths on the CPU, the host
    waits for the device only in torch's CUDA operator, which copies the lengths.

    Args:
      logits: values [B, T', V] float32 or float64, finite within the lengths; lengths [B] int64 on the CPU, frames.
      labels: [B, L] int64 without ``blank``, any value in the padding, on any device.
      label_lengths: [B] int64 on the CPU.
      blank: index of the blank.

    Returns:
      [B] losses in natural log, in the dtype of the logits; +inf with zero gradient where a transcript cannot fit.

    >>> logits = Logits(values=torch.zeros(2, 3, 5), lengths=torch.tensor([3, 1]))  # 5 equally probable labels
    >>> native(logits, labels=torch.tensor([[1, 2], [1, 2]]), label_lengths=torch.tensor([2, 2]))
    tensor([3.2189,    inf])
    """
    log_probs = log_probs_of(logits)
    if not len(log_probs):  # a rank without utterances: the operator refuses empty batches
        return log_probs.sum((1, 2))
    filled = _fill(labels.to(log_probs.device, non_blocking=True), label_lengths, (blank + 1) % log_probs.shape[2])
    frames = logits.lengths.clamp(min=1)
    losses = F.ctc_loss(
        log_probs.transpose(0, 1),
        filled,
        frames,
        label_lengths.clamp(min=1).minimum(frames),
        blank=blank,
        reduction="none",
        zero_infinity=True,  # for its gradient; _settle corrects the loss
    )
    return _settle(losses, log_probs, logits.lengths, labels, label_lengths, blank)


def warpctc(logits: Logits, labels: Tensor, label_lengths: Tensor, *, blank: int = 0) -> Tensor:
    """The CTC loss by warp-ctc (SeanNaren/warp-ctc, ``pytorch_binding``).

    The library computes in float32, reads labels and lengths on the host and waits for the device. First derivatives
    only. It holds probabilities, not their logarithms. An utterance whose transcript has a label of less probability
    than float32 can hold, at some frame, gets its loss from ``native``.

    Args:
      logits: as for ``native``; scores on a device other than a GPU are copied to the CPU and back.
      labels: as for ``native``; read on the host.
      label_lengths: as for ``native``.
      blank: the index of the blank.

    Returns:
      [B] losses, as ``native`` returns them.

    Raises:
      InputError: when the binding is not installed or was built without CUDA, or, on a GPU, for a transcript of more
        than 639 labels.
    """
    if not len(logits.values):  # as in native
        return logits.values.sum((1, 2))
    labels = labels.cpu()
    # A transcript that cannot fit is passed with one label: the GPU kernels would leave its cost unwritten.
    possible = feasible(logits.lengths, labels, label_lengths)
    sizes = torch.where(possible, label_lengths, 0).clamp(min=1)
    filled = _fill(labels, label_lengths, (blank + 1) % logits.values.shape[2])
    flat = filled[_mask(sizes, filled.shape[1], filled.device)]
    values = _without_padding(logits)
    log_probs = F.log_softmax(values, dim=2)
    held = _least(log_probs, _fill(labels, label_lengths, blank)) > math.log(torch.finfo(torch.float32).tiny)
    losses = warp_ctc.costs(
        torch.where(held[:, None, None], values, 0.0), flat, sizes, logits.lengths.clamp(min=1), blank=blank
    )
    settled = _settle(losses, log_probs, logits.lengths, labels, label_lengths, blank)
    return settled if held.all() else torch.where(held, settled, native(logits, labels, label_lengths, blank=blank))


def scan(logits: Logits, labels: Tensor, label_lengths: Tensor, *, blank: int = 0) -> Tensor:
    """The CTC loss by the forward recursion over time, in plain tensor operations.

    Slow, but differentiable any number of times and under all transforms of ``torch.func``, ``vmap`` included.

    The states are the labels with blanks before, between and after them, 2L + 1 in all. State s is reached from s,
    from s - 1, and from s - 2 if the two hold different labels. Source: Graves et al. 2006, equations 6 to 8, in log
    space.

    Args and returns: as for ``native``; lengths may be on any device.
    """
    log_probs = log_probs_of(logits)
    device, (_, num_frames, _) = log_probs.device, log_probs.shape
    filled = _fill(labels.to(device, non_blocking=True), label_lengths, blank)
    states = F.pad(torch.stack((torch.full_like(filled, blank), filled), dim=2).flatten(1), (0, 1), value=blank)
    emissions = log_probs.gather(2, states[:, None, :].expand(-1, num_frames, -1))  # [B, T', S]
    may_skip = (states != blank) & (states != F.pad(states[:, :-2], (2, 0), value=blank))
    valid = _mask(logits.lengths, num_frames, device)

    position = torch.arange(states.shape[1], device=device)
    # Before the first frame all probability is in the first blank: it reaches the first two states.
    alpha = torch.where(position == 0, log_probs.new_zeros(()), _IMPOSSIBLE).expand_as(states)
    for frame in range(num_frames):
        from_previous = F.pad(alpha[:, :-1], (1, 0), value=_IMPOSSIBLE)
        from_skip = torch.where(may_skip, F.pad(alpha[:, :-2], (2, 0), value=_IMPOSSIBLE), _IMPOSSIBLE)
        arrived = torch.stack((alpha, from_previous, from_skip)).logsumexp(dim=0) + emissions[:, frame]
        alpha = torch.where(valid[:, frame, None], arrived, alpha)

    last = 2 * label_lengths.to(device, non_blocking=True)[:, None]
    final = (position == last) | (position == last - 1)
    losses = -torch.where(final, alpha, _IMPOSSIBLE).logsumexp(dim=1)
    possible = feasible(logits.lengths, labels, label_lengths).to(device, non_blocking=True)
    return torch.where(possible, losses, torch.inf)


IMPLEMENTATIONS: dict[str, Criterion] = {"native": native, "warpctc": warpctc, "scan": scan}


def ctc_loss(logits: Logits, labels: Tensor, label_lengths: Tensor, *, blank: int = 0, impl: str = "native") -> Tensor:
    """The CTC loss of each utterance by ``impl``: ``"native"``, ``"warpctc"`` or ``"scan"``.

    Other arguments and the result are as for ``native``.

    Raises:
      InputError: for an unknown implementation, or if it is not installed.

    >>> logits = Logits(values=torch.zeros(1, 3, 5), lengths=torch.tensor([3]))
    >>> ctc_loss(logits, torch.tensor([[1, 2]]), torch.tensor([2]), impl="scan")
    tensor([3.2189])
    """
    if impl not in IMPLEMENTATIONS:
        require(impl, device=logits.values.device)
    return IMPLEMENTATIONS[impl](logits, labels, label_lengths, blank=blank)


def require(impl: str, *, device: torch.device) -> None:
    """Checks that an implementation is there, without computing a loss.

    Raises:
      InputError: as ``ctc_loss`` would raise for scores on ``device``.
    """
    if impl not in IMPLEMENTATIONS:
        raise InputError(f"model.ctc: {impl!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    if IMPLEMENTATIONS[impl] is warpctc:
        warp_ctc.require(device)


def smoothed(criterion: Criterion, *, share: float) -> Criterion:
    """Adds label smoothing to a criterion: a penalty on overconfident distributions.

    The loss of an utterance becomes ``(1 - share) * criterion + share * sum over its frames of KL(uniform || p)``. A
    loss of +inf stays +inf with zero gradient.

    Source: Kim et al. 2018, "Improved Training for Online End-to-End Speech Recognition Systems", Interspeech.
    """

    def losses(logits: Logits, labels: Tensor, label_lengths: Tensor, *, blank: int = 0) -> Tensor:
        plain = criterion(logits, labels, label_lengths, blank=blank)
        log_probs = log_probs_of(logits)
        divergence = -log_probs.mean(dim=2) - math.log(log_probs.shape[2])
        valid = _mask(logits.lengths, log_probs.shape[1], log_probs.device)
        penalty = torch.where(valid, divergence, 0.0).sum(dim=1)
        return torch.where(plain == torch.inf, plain, (1 - share) * plain + share * penalty)

    return losses


def _mask(lengths: Tensor, size: int, device: torch.device) -> Tensor:
    """[B, size] bool on ``device``: true at positions within the lengths."""
    return torch.arange(size, device=device) < lengths.to(device, non_blocking=True)[:, None]


def _without_padding(logits: Logits) -> Tensor:
    valid = _mask(logits.lengths, logits.values.shape[1], logits.values.device)
    return torch.where(valid[:, :, None], logits.values, 0.0)


def log_probs_of(logits: Logits) -> Tensor:
    """Natural logarithms of the labels' probabilities, [B, T', V]; uniform in the padding."""
    return F.log_softmax(_without_padding(logits), dim=2)


def _fill(labels: Tensor, label_lengths: Tensor, filler: int) -> Tensor:
    """Labels [B, L + 1] with ``filler`` as padding, so that each row has at least one valid index."""
    padded = F.pad(labels, (0, 1))
    return torch.where(_mask(label_lengths, padded.shape[1], padded.device), padded, filler)


def _least(log_probs: Tensor, filled: Tensor) -> Tensor:
    """[B]: the smallest logarithm of a probability that a transcript needs; labels [B, L] with blanks as padding."""
    labels = filled.to(log_probs.device, non_blocking=True)
    return log_probs.gather(2, labels[:, None, :].expand(-1, log_probs.shape[1], -1)).amin((1, 2))


def _settle(
    losses: Tensor, log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor, blank: int
) -> Tensor:
    """Replaces the losses of empty transcripts (blanks only) and of transcripts that cannot fit (+inf).

    The operator's losses of these transcripts get a cotangent of exactly zero, and its gradients there are finite.
    """
    valid = _mask(lengths, log_probs.shape[1], log_probs.device)
    silence = -torch.where(valid, log_probs[:, :, blank], 0.0).sum(dim=1)
    empty = (label_lengths == 0).to(losses.device, non_blocking=True)
    possible = feasible(lengths, labels, label_lengths).to(losses.device, non_blocking=True)
    return torch.where(possible, torch.where(empty, silence, losses), torch.inf)
