"""What a run tells on the page of its exported model: error rates with their intervals, data, recipe."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import attrs

from ds2f import config
from ds2f.checkpoint.exported import About
from ds2f.config import Config
from ds2f.export.quoting import block, cell, code, table

SPLITS = ("test", "val", "manifest")  # of results, the most telling first
_FACTS = ("seed", "epochs", "steps", "skipped_steps", "batch_size", "ranks", "device", "amp", "torch")
_LARGEST = 1e15  # of a number that a page shows
_UNKNOWN = "not known"


class SetSize(NamedTuple):
    """The size of a data set; None where it is not known."""

    utterances: int | None = None
    hours: float | None = None


def results(found: Mapping[str, Any]) -> str:
    """Error rates, with intervals if ``intervals_95`` has them; ``found``: the content of ``results.json``."""
    intervals = mapping(found.get("intervals_95"))
    rows, missing = [], False
    for split in SPLITS:
        counts = mapping(found.get(split))
        for rate, errors, total in (("wer", "word_errors", "words"), ("cer", "char_errors", "chars")):
            value = number(counts.get(rate))
            if value is None:
                continue
            interval = _interval(mapping(intervals.get(split)).get(rate))
            missing |= not interval
            counted = " of ".join(_amount(number(counts.get(name))) for name in (errors, total))
            rows.append((split, rate.upper(), f"{value:.2f} %", interval or "not computed", counted))
    if not rows:
        return "No error rates are stored with this model.\n"
    lm = mapping(found.get("lm")).get("path")
    decoding = f"with the language model {code(lm)}" if lm else "greedy"
    page = table(("set", "rate", "value", "95 % interval", "errors"), rows) + (
        f"\nA rate is all errors of a set by all its words, or characters without spaces. Decoding: {decoding}.\n"
    )
    if missing:
        page += (
            "\nAn interval needs the errors of every utterance, and the results of a training are sums. "
            "`python -m launch.evaluate --run_dir=FOLDER --manifest=MANIFEST` prints intervals (bootstrap over "
            "utterances).\n"
        )
    return page


def data(about: About, sizes: Mapping[str, SetSize]) -> str:
    """Corpus, manifests and sizes of the sets, as far as they are known."""
    manifests = mapping(about.results.get("manifests"))
    rows = []
    for split in dict.fromkeys(("train", "val", "test", *map(str, manifests), *sizes)):
        size, counts = sizes.get(split, SetSize()), mapping(about.results.get(split))
        cells = (_amount(size.utterances), _amount(size.hours, digits=2), _amount(number(counts.get("words"))))
        if split in manifests or any(each != _UNKNOWN for each in cells):
            rows.append((cell(split), cell(manifests[split]) if split in manifests else _UNKNOWN, *cells))
    page = f"Corpus: {code(about.cfg.data.dataset or 'an4')}.\n"
    if rows:
        page += "\n" + table(("set", "manifest", "utterances", "hours", "words"), rows)
    steps, batch, epochs = (number(about.results.get(name)) for name in ("steps", "batch_size", "epochs"))
    if "train" not in sizes and steps and batch and epochs:
        page += f"\nAn epoch had about {steps * batch / epochs:,.0f} utterances (steps x batch / epochs).\n"
    if about.cfg.data.train_on_val:
        page += "\nThe validation set was trained on, too: error rates on it say nothing.\n"
    return page


def recipe(about: About) -> str:
    """Facts of the training, and the settings that differ from the defaults."""
    facts = [(name.replace("_", " "), cell(about.results[name])) for name in _FACTS if name in about.results]
    page = table(("of the training", ""), facts) if facts else "Nothing is stored of the training itself.\n"
    changed = list(_changed_flags(about.cfg)) or ["# none"]
    return (
        f"{page}\nSettings that differ from the defaults of `launch.train`, as a flagfile. Folders and files of the "
        f"machine are left out.\n\n{block(changed, 'text')}"
    )


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is an object of JSON, else an empty one."""
    return value if isinstance(value, dict) else {}


def number(value: object) -> float | None:
    """The value if it is a finite number of a usual size, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < _LARGEST and math.isfinite(value) else None


def _changed_flags(cfg: Config) -> Iterator[str]:
    """The flags of settings that are not the defaults, a line each."""
    default = Config()
    for name, section in config.sections().items():
        for field in attrs.fields(section):
            mine, usual = (getattr(getattr(each, name), field.name) for each in (cfg, default))
            if mine == usual or field.metadata["derived"]:
                continue
            flag = f"{name}.{field.name}"
            if isinstance(mine, bool):
                yield f"--{'' if mine else 'no'}{flag}"
            else:
                yield f"--{flag}={','.join(map(str, mine)) if isinstance(mine, tuple) else mine}"


def _interval(value: object) -> str:
    low, high = map(number, value) if isinstance(value, list | tuple) and len(value) == 2 else (None, None)
    return "" if low is None or high is None else f"{low:.2f} to {high:.2f} %"


def _amount(value: float | None, *, digits: int = 0) -> str:
    return _UNKNOWN if value is None else f"{value:,.{digits}f}"
