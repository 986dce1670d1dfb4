"""The table of results on the test set of AN4.

``FOLDER/published.json`` holds published systems, ``notes`` on their figures, and the size of the test set.
``FOLDER/an4/RECIPE/`` holds a recipe of ds2f. ``SEED.json`` is the ``results.json`` of a run. ``recipe.json`` has the
fields ``name``, ``command`` (repeats a run) and ``source`` (machine, duration, conditions), and optional fields:

- ``decoding``: the decoder; default ``"greedy"``.
- ``synthetic_speech``: whether the training set contains synthetic speech; default ``false``.
- ``model``: another recipe, if this recipe only decodes its models differently. ``SEED.json`` then needs the entry
  ``test`` only; the file of the other recipe for the same seed gives the other fields.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ds2f.errors import InputError
from ds2f.runner.telemetry import duration
from launch.report.results_io import mean_and_range, read, same
from launch.tables import markdown_table

HEADINGS = ("name", "WER %", "CER %", "words wrong", "FPS", "epochs", "AMP", "Torch", "command, or where published")
_COUNTS = ("word_errors", "words", "char_errors", "chars")
_RUN = ("seed", "wall_seconds", "utterances_per_second", "epochs", "amp", "torch")


class Recipe(NamedTuple):
    """A recipe of ds2f with its finished runs."""

    about: dict[str, Any]  # recipe.json
    runs: list[dict[str, Any]]  # at least one, sorted by seed

    @property
    def is_synthetic(self) -> bool:
        """Whether the training set contains synthetic speech."""
        return bool(self.about.get("synthetic_speech", False))

    @property
    def wer(self) -> float:
        """Mean word error rate over the seeds, percent."""
        return fmean(_rates(self.runs, "word_errors", "words"))


def rows(folder: Path) -> Iterator[str]:
    """The lines of the table: the recipes of ds2f in the order of ``recipes``, then the published systems.

    Rates follow from the counts of errors. Several seeds are shown as mean, lowest and highest value.

    Args:
      folder: such as ``configs/results``.

    Raises:
      InputError: a file is missing, damaged, or of another test set.
    """
    published = _read_published(folder)
    systems = [_published_cells(system) for system in published["systems"]]
    yield from markdown_table(HEADINGS, [_recipe_cells(recipe) for recipe in recipes(folder)] + systems)
    if published["notes"]:
        yield ""
        yield " ".join(f"({mark}) {note}" for mark, note in published["notes"].items())


def recipes(folder: Path) -> list[Recipe]:
    """The recipes of ds2f: lowest word error rate first, recipes with synthetic speech last.

    Args:
      folder: such as ``configs/results``.

    Raises:
      InputError: a file is missing, damaged, or of another test set.
    """
    published = _read_published(folder)
    found = [_recipe(path.parent, published) for path in sorted(folder.glob("an4/*/recipe.json"))]
    return sorted(found, key=lambda recipe: (recipe.is_synthetic, recipe.wer))


def _read_published(folder: Path) -> dict[str, Any]:
    return read(folder / "published.json", "words", "chars", "notes", "systems")


def _recipe(folder: Path, test_set: dict[str, Any]) -> Recipe:
    about = read(folder / "recipe.json", "name", "command", "source")
    files = sorted(folder.glob("*.json"), key=lambda path: (len(path.stem), path.stem))
    runs = [_run(path, about, test_set) for path in files if path.name != "recipe.json"]
    if not runs:
        raise InputError(f"{folder}: no results; copy results.json of a run to SEED.json here")
    return Recipe(about, runs)


def _run(path: Path, about: dict[str, Any], test_set: dict[str, Any]) -> dict[str, Any]:
    counts = [f"test.{name}" for name in _COUNTS]
    found = read(path, *counts)
    if "model" in about:
        found = read(path.parents[1] / about["model"] / path.name, *_RUN) | found
    else:
        read(path, *_RUN)
    sizes = found["test"]["words"], found["test"]["chars"]
    if sizes != (test_set["words"], test_set["chars"]):
        raise InputError(f"{path}: {sizes[0]} words and {sizes[1]} characters; the test set of AN4 has other numbers")
    if str(found["seed"]) != path.stem:
        raise InputError(f"{path}: is of seed {found['seed']}; name the file for its seed")
    return found


def _recipe_cells(recipe: Recipe) -> list[str]:
    about, runs = recipe
    count = f"{len(runs)} runs, each " if len(runs) > 1 else "one run, "
    name = f"**{about['name']}**, {about.get('decoding', 'greedy')}"
    name += ", trained on synthetic speech too" if recipe.is_synthetic else ""
    seeds = same([run["seed"] for run in runs])
    return [
        f"{name}; {count}{duration(fmean(run['wall_seconds'] for run in runs))}",
        mean_and_range(_rates(runs, "word_errors", "words"), digits=2, of_one=3),
        mean_and_range(_rates(runs, "char_errors", "chars"), digits=2, of_one=3),
        mean_and_range([run["test"]["word_errors"] for run in runs], digits=1, of_one=0),
        f"{fmean(run['utterances_per_second'] for run in runs):.1f}",
        *(same([run[key] for run in runs]) for key in ("epochs", "amp")),
        same([run["torch"].split("+")[0] for run in runs]),
        f"`{about['command']}` (" + (f"`--training.seed`: {seeds})" if len(runs) > 1 else f"seed {seeds})"),
    ]


def _rates(runs: Sequence[dict[str, Any]], errors: str, size: str) -> list[float]:
    return [100 * run["test"][errors] / run["test"][size] for run in runs]


def _published_cells(system: dict[str, Any]) -> list[str]:
    def cell(key: str) -> str:
        mark = f" ({system['notes'][key]})" if key in system.get("notes", {}) else ""
        return f"{system[key]}{mark}" if key in system else ""

    return [cell(key) for key in ("name", "wer", "cer", "word_errors", "fps", "epochs", "amp", "torch", "source")]
