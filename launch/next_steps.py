"""The end of a command that writes something: the commands that use it, ready to be typed."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

_WIDTH = 80  # columns of a usual terminal


def text(*commands: Sequence[str]) -> str:
    r"""A short block with a command on each line; a longer one goes on after a backslash.

    Args:
      commands: the name of a command and its arguments, each.

    >>> print(text(("evaluate", "--run_dir=runs/one"), ("transcribe", "--run_dir=runs/one", "FILE")))
    Next:
      python -m launch.evaluate --run_dir=runs/one
      python -m launch.transcribe --run_dir=runs/one FILE
    """
    return "\n".join(["Next:", *(line for each in commands for line in _lines(each))])


def after_training(run_dir: Path) -> str:
    """The commands that use a trained run."""
    run = f"--run_dir={run_dir}"
    return text(("evaluate", run), ("transcribe", run, "FILE"), ("report", f"--errors={run_dir}"))


def flagfile(corpus: str) -> str:
    """The project's flagfile for AN4 or a synthetic corpus, on this machine."""
    if corpus != "an4":
        return "synthetic_cmn" if corpus == "synthetic_cmn" else "quickstart"
    has_device = any(Path("/dev").glob("nvidia[0-9]*")) or any(Path("/dev").glob("davinci[0-9]*"))
    return "an4_1p" if has_device else "an4_cpu_whole"


def _lines(command: Sequence[str]) -> list[str]:
    words = [*_start(command[0]), *map(shlex.quote, command[1:])]
    lines = [f"  {words[0]}"]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 > _WIDTH:  # a space before, and after it the backslash
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return lines


def _start(name: str) -> list[str]:
    """How a command is started: as this one was, by ``ds2f`` or as a module."""
    installed = any(Path(word).name == "ds2f" for word in sys.orig_argv[:2])
    return [f"ds2f {name}"] if installed else [f"python -m launch.{name}"]
