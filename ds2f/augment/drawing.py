"""Random numbers of augmentation: each is a hash of the utterance's key and of the number's own name."""

from ds2f import rng


def uniform(key: int, use: str, low: float, high: float) -> float:
    """Draws a number from [low, high]; exactly ``low`` if both bounds are equal."""
    return low if low == high else low + (high - low) * (rng.fold_in(key, use) / 2**63)


def integer(key: int, *use: int | str, high: int) -> int:
    """Draws an integer from 0 to ``high`` inclusive; the bias of the modulo is below 2**-40 for any size here."""
    return rng.fold_in(key, *use) % (high + 1) if high else 0


def happens(key: int, use: str, probability: float) -> bool:
    """Draws whether a step happens: with probability 1 always, with probability 0 never."""
    return probability >= 1 or (probability > 0 and rng.fold_in(key, use) < probability * 2**63)
