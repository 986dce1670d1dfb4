"""The settings of a run: what differs from the defaults first, and the commands that repeat it or go on."""

import shlex
from typing import NamedTuple

from ds2f.config import Config
from launch import flags
from launch.report.run_page.run_record import RunRecord

OWN_NAMES = {"run_dir"}  # differ between any two runs


class Setting(NamedTuple):
    """A flag of the run."""

    name: str
    value: str
    default: str | None  # None: this version has no such flag


def settings(run: RunRecord) -> tuple[list[Setting], list[Setting]]:
    """The flags that differ from the default, and the others."""
    defaults = dict(line.removeprefix("--").split("=", 1) for line in flags.flagfile_text(Config()).splitlines())
    found = [Setting(name, value, defaults.get(name)) for name, value in run.flags.items()]
    changed = [each for each in found if each.value != each.default]
    return changed, [each for each in found if each.value == each.default]


def commands(run: RunRecord) -> list[tuple[str, str]]:
    """Commands for a shell, each with its purpose."""
    folder = str(run.folder)
    train = ["python", "-m", "launch.train", f"--flagfile={folder}/flags.txt"]
    found = [("Repeat the run", [*train, f"--run_dir={folder}-again"])]
    if not run.results:
        found.append(("Go on with it", [*train, f"--run_dir={folder}", "--checkpointing.load_auto_checkpoint"]))
    found.append(("Evaluate the model", ["python", "-m", "launch.evaluate", f"--run_dir={folder}"]))
    return [(purpose, shlex.join(words)) for purpose, words in found]
