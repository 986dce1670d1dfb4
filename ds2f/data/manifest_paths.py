"""Where the manifests of a run are: named by flags, beside a named one, or those of a corpus in ``data_path``."""

import re
from collections.abc import Iterator
from pathlib import Path

from ds2f.config import Config
from ds2f.errors import InputError

SPLITS = ("train", "val", "test")
DEFAULT_DATASET = "an4"
_WORDS = {  # of a split, in names of files and folders; the first are tried first
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "dev", "valid", "validation", "cv", "dt"),
    "test": ("test", "eval", "evaluation", "tst", "et"),
}


def manifest_path(cfg: Config, split: str) -> Path:
    """The manifest of a split.

    It is ``data.<split>_manifest``. If that is empty and another split's is named, it is the file or folder beside the
    named one whose name has the split's word in the place of the other's: ``mine/train.csv``, ``mine/dev.csv``; or, if
    ``data.dataset`` is named as well and its manifests lie there, that corpus's. If no manifest is named, it is
    ``<data_path>/<dataset>_<split>_manifest.csv`` or ``.jsonl``. So a corpus of one's own never mixes with another in
    ``data_path``.

    Args:
      cfg: the run.
      split: ``train``, ``val`` or ``test``.

    Raises:
      InputError: another split's manifest is named, and none of this split lies beside it.

    >>> str(manifest_path(Config(data_path="data"), "val"))
    'data/an4_val_manifest.csv'
    """
    named = {each: Path(path) for each in SPLITS if (path := getattr(cfg.data, f"{each}_manifest"))}
    if split in named:
        return named[split]
    if not named:
        return _of_corpus(Path(cfg.data_path), cfg.data.dataset or DEFAULT_DATASET, split)
    tried: list[Path] = []
    for other, path in named.items():
        for candidate in _beside(path, other, split, dataset=cfg.data.dataset):
            if candidate.exists():
                return candidate
            tried.append(candidate)
    other, path = next(iter(named.items()))
    without = " (or leave it out: --notraining.evaluate_test, launch.evaluate --split=val)" if split == "test" else ""
    names = f" (tried {', '.join(candidate.name for candidate in tried[:4])})" if tried else ""
    raise InputError(
        f"--data.{other}_manifest={path} is named, and no {split} manifest lies beside it{names}: name it with "
        f"--data.{split}_manifest{without}"
    )


def split_of_name(name: str) -> str:
    """The split that a folder, or a word in a table, names; empty if it names none.

    >>> split_of_name("dev"), split_of_name("Train"), split_of_name("words")
    ('val', 'train', '')
    """
    return next((split for split, words in _WORDS.items() if name.lower() in words), "")


def _of_corpus(folder: Path, dataset: str, split: str) -> Path:
    """The manifest of a corpus: CSV, or JSON lines where only these are there."""
    table, lines = (folder / f"{dataset}_{split}_manifest.{suffix}" for suffix in ("csv", "jsonl"))
    return lines if lines.exists() and not table.exists() else table


def _beside(path: Path, other: str, split: str, *, dataset: str) -> Iterator[Path]:
    """Paths like another split's manifest, with its word replaced in the last part that has it; then the corpus's."""
    parts = list(path.parts)
    word = re.compile(rf"(?<![^\W\d_])({'|'.join(_WORDS[other])})(?![^\W\d_])", re.IGNORECASE)
    for index in range(len(parts) - 1, max(len(parts) - 4, -1), -1):
        if found := list(word.finditer(parts[index])):
            start, end = found[-1].span()
            for name in _WORDS[split]:
                changed = parts[index][:start] + _cased(name, found[-1][0]) + parts[index][end:]
                yield Path(*parts[:index], changed, *parts[index + 1 :])
            break
    if dataset:
        yield _of_corpus(path.parent, dataset, split)


def _cased(name: str, like: str) -> str:
    """A split's word in the case of another's."""
    return name.upper() if like.isupper() else name.capitalize() if like[:1].isupper() else name
