"""What the parts of the benchmark are told besides the configuration."""

import re
from collections.abc import Iterator, Sequence

import attrs

from ds2f.config import Config
from ds2f.errors import InputError

CONTESTANTS = ("ours", "usual", "best", "amp")


@attrs.frozen(kw_only=True)
class Options:
    """How much is measured. A case (a preset and a batch size) stands in the ``Config`` that goes beside it."""

    rounds: int = 3  # of which each has a batch of its own
    warmup: int = 1  # steps before, on the shortest batch
    contestants: tuple[str, ...] = ("ours", "usual", "best")
    steps: int = 0  # of an epoch, for the loader and the epoch; 0: all
    trace: str = ""  # where a profile of one of our steps goes


def cases(cfg: Config, presets: Sequence[str], batch_sizes: Sequence[str]) -> Iterator[Config]:
    """The configurations to measure: every preset at every batch size.

    Args:
      cfg: what they share.
      presets: layers x units, such as ``5x1024``; none for the model of ``cfg``.
      batch_sizes: utterances.

    Raises:
      InputError: when one of them cannot be read.
    """
    models = [cfg.model]
    if presets:
        sizes = [_numbers(r"(\d+)x(\d+)", preset, "--presets", "5x1024,3x512") for preset in presets]
        models = [attrs.evolve(cfg.model, hidden_layers=layers, hidden_size=units) for layers, units in sizes]
    for model in models:
        for text in batch_sizes:
            (size,) = _numbers(r"(\d+)", text, "--batch_sizes", "10,32,64")
            yield attrs.evolve(cfg, model=model, data=attrs.evolve(cfg.data, batch_size=size))


def require_known(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raises InputError when a list holds nothing, or something that is not ``known``."""
    unknown = sorted(set(given) - set(known))
    if unknown or not given:
        raise InputError(f"--{flag}={','.join(given)}: a list of {', '.join(known)}")


def _numbers(pattern: str, text: str, flag: str, example: str) -> list[int]:
    found = re.fullmatch(pattern, text.strip())
    numbers = [int(number) for number in found.groups()] if found else []
    if not numbers or min(numbers) < 1:
        raise InputError(f"{flag}: {text!r} is none; write a list such as {example}")
    return numbers
