"""Random keys: plain integers that are derived, never advanced.

A key is a function of what it is for (seed, epoch, utterance, use), so that a random number does not depend on who
draws it, in which process or in which order. The same idea as ``jax.random.fold_in`` and ``jax.random.split``.
"""

import hashlib

import torch

_BITS = 63  # what a torch.Generator takes as a non-negative seed


def fold_in(key: int, *data: int | str) -> int:
    """Derives a new key from ``key`` and any number of integers or names.

    Args:
      key: an integer key, for example the seed of the run.
      *data: what the new key is for: an epoch, an utterance's id, ``"dropout"``.

    Returns:
      An integer in [0, 2**63): the first bytes of a BLAKE2b digest over all arguments and their types.
    """
    digest = hashlib.blake2b(repr((key, *data)).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little") >> (64 - _BITS)


def split(key: int, num: int = 2) -> tuple[int, ...]:
    """Derives ``num`` independent keys from ``key``."""
    return tuple(fold_in(key, "split", index) for index in range(num))


def generator(key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Makes a local generator on ``device`` that starts from ``key``; the global random state is not touched."""
    return torch.Generator(device).manual_seed(key)
