"""Which utterances share a batch, and in what order: a function of the lengths, the seed and the epoch alone."""

from collections.abc import Sequence

import torch

from ds2f import rng


def plan_epoch(lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int, jitter: float) -> list[list[int]]:
    """Puts every utterance into exactly one batch of similar lengths, other ones every epoch.

    Utterances are ordered by their length times a random factor and cut into batches, which are then shuffled. The one
    batch that is smaller, where the sizes do not divide, is cut at a random place, so that it is not always the
    longest utterances that are few together.

    Args:
      lengths: frames of each utterance in this epoch.
      batch_size: utterances in a global batch.
      seed: of the run.
      epoch: counted from 0.
      jitter: the factor is uniform in 1 +- this; 0 leaves equal lengths in their order.

    Returns:
      Batches of indices into ``lengths``, each ordered from short to long, but for the jitter.
    """
    generator = rng.generator(rng.fold_in(seed, "plan", epoch))
    factors = 1 + jitter * (2 * torch.rand(len(lengths), generator=generator, dtype=torch.float64) - 1)
    order = torch.argsort(torch.tensor(lengths, dtype=torch.float64) * factors, stable=True)
    sizes = [batch_size] * (len(lengths) // batch_size)
    if rest := len(lengths) % batch_size:
        sizes.insert(int(torch.randint(len(sizes) + 1, (), generator=generator)), rest)
    batches = [batch.tolist() for batch in torch.split(order, sizes)] if sizes else []
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


def plan_sorted(lengths: Sequence[int], *, batch_size: int) -> list[list[int]]:
    """Batches every utterance once, from short to long: for evaluation, and for a first epoch as SortaGrad's.

    Source of the latter: Amodei et al., "Deep Speech 2", 2015, section 3.2.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def shard(batch: Sequence[int], *, index: int, count: int) -> list[int]:
    """The share ``index`` of ``count`` of a global batch: every ``count``-th utterance, so that shares pad alike.

    A share is empty when the batch holds fewer utterances than there are shares.
    """
    return list(batch[index::count])
