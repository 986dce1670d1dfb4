"""Answers starts that Python itself would answer with a traceback. Pythons before 3.11 read this module, too."""

import importlib.util
import sys

_OLDEST = (3, 11)  # python_requires of setup.cfg


def require_python(version):  # type: ignore[no-untyped-def]
    """Ends the process if this Python is too old."""
    if tuple(version) < _OLDEST:
        oldest, own = (".".join(map(str, each[:2])) for each in (_OLDEST, version))
        sys.exit(f"launch: Python {oldest} or newer is needed, and this is {own}: python{oldest} -m venv .venv")


def require_packages(python):  # type: ignore[no-untyped-def]
    """Ends the process if the packages of setup.cfg are not installed for this Python."""
    missing = [name for name in ("absl", "attrs", "numpy", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"launch: {python} has no {', '.join(missing)}. Activate the environment of the installation, as in "
            "source .venv/bin/activate, or install: python -m pip install --editable ."
        )


def require_command(command_line):  # type: ignore[no-untyped-def]
    """Ends the process if ``python -m launch.NAME`` names no module.

    Args:
      command_line: the interpreter with its options and arguments, as in ``sys.orig_argv``.
    """
    name = command_line[command_line.index("-m") + 1] if "-m" in command_line else ""
    package, _, module = name.partition(".")
    if package != "launch" or not module or importlib.util.find_spec(f"launch.{module.partition('.')[0]}"):
        return
    from ds2f.nearest import nearest
    from launch.__main__ import COMMANDS, listing

    near = [f"launch.{each}" for each in nearest(module, COMMANDS)]
    hint = f". Did you mean python -m {' or '.join(near)}?" if near else f"\n{listing()}"
    sys.exit(f"launch: there is no command {name!a}{hint}")
