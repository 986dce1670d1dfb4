"""Random keys: plain integers that are derived, never advanced.

A key is a function of seed, epoch, utterance and use. A random number therefore does not depend on the process that
draws it, nor on the order of draws. ``jax.random.fold_in`` is the model.
"""

import hashlib

import torch

_BITS = 63  # of a torch.Generator's non-negative seeds


def fold_in(key: int, *data: int | str) -> int:
    """Derives a new key from ``key`` and any number of integers or names.

    Args:
      key: an integer key, for example the seed of the run.
      *data: the purpose of the new key: an epoch, an utterance's id, ``"dropout"``.

    Returns:
      An integer in [0, 2**63): the first bytes of a BLAKE2b digest over all arguments and their types.

    >>> fold_in(0, "epoch", 3) == fold_in(0, "epoch", 3) != fold_in(0, "epoch", 4)
    True
    """
    digest = hashlib.blake2b(repr((key, *data)).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little") >> (64 - _BITS)


def generator(key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Makes a generator on ``device``, seeded with ``key``. The global random state stays untouched.

    >>> torch.equal(torch.rand(2, generator=generator(7)), torch.rand(2, generator=generator(7)))
    True
    """
    return torch.Generator(device).manual_seed(key)
