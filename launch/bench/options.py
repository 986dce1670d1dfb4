"""Options of the benchmark besides the configuration."""

import re
from collections.abc import Iterator, Sequence

import attrs

from ds2f.config import Config
from ds2f.errors import InputError

CONTESTANTS = ("ours", "usual", "best", "amp")  # implementations of the training step


@attrs.frozen(kw_only=True)
class Options:
    """The extent of the measurement. Preset and batch size are settings of the ``Config`` beside it."""

    rounds: int = 3  # each with a batch of its own
    warmup: int = 1  # steps before the timed rounds, on the shortest batch
    contestants: tuple[str, ...] = ("ours", "usual", "best")
    steps: int = 0  # of an epoch, for the parts loader and epoch; 0: all
    rows: int = 1_000_000  # of the drawn corpus, for the part scale
    trace: str = ""  # file for a profile of one step of ds2f; empty: none


def cases(cfg: Config, presets: Sequence[str], batch_sizes: Sequence[str]) -> Iterator[Config]:
    """The configurations to measure: every preset at every batch size.

    Args:
      cfg: the common settings.
      presets: layers x units, such as ``5x1024``; empty for the model of ``cfg``.
      batch_sizes: utterances per batch.

    Raises:
      InputError: a preset or batch size cannot be parsed.
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
    """Raises InputError if a list is empty or has an element outside ``known``."""
    unknown = sorted(set(given) - set(known))
    if unknown or not given:
        raise InputError(f"--{flag}={','.join(given)}: a list of {', '.join(known)}")


def _numbers(pattern: str, text: str, flag: str, example: str) -> list[int]:
    found = re.fullmatch(pattern, text.strip())
    numbers = [int(number) for number in found.groups()] if found else []
    if not numbers or min(numbers) < 1:
        raise InputError(f"{flag}: cannot parse {text!r}; give a list such as {example}")
    return numbers
