"""Lists the commands, or runs one: python -m launch NAME --help."""

import ast
import runpy
import sys
from pathlib import Path

from ds2f.nearest import did_you_mean

COMMANDS = (
    *("prepare", "train", "evaluate", "transcribe", "serve", "report"),
    *("manifest", "build_lm", "tune_lm", "calibrate", "splice", "augment", "longform", "export", "convert"),
    *("doctor", "bench", "load_test", "scaling"),
)


def main() -> None:
    """Runs the command that is named first. Without a name, or with an unknown one, lists the commands."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"launch.{name}", run_name="__main__", alter_sys=True)
    elif name == "--version":
        from ds2f import __version__

        print(f"ds2f {__version__}")
    elif name in ("--help", "-h"):
        print(listing())
    elif name.partition("=")[0] == "--completion":
        _complete(name.partition("=")[2])
    else:
        hint = did_you_mean(name, COMMANDS)
        sys.exit(f"launch: there is no command {name!a}" + (hint or f"\n{listing()}"))


def _complete(shell: str) -> None:
    """Prints the script of a shell's completion."""
    from launch import completion

    if shell not in completion.SHELLS:
        sys.exit(f"launch: --completion={shell}: give bash or zsh, as in: source <(python -m launch --completion=bash)")
    print(completion.script(shell, COMMANDS), end="")


def listing() -> str:
    """The commands with what they do, a line each."""
    width = max(map(len, COMMANDS))
    lines = (f"  {name:{width}}  {_summary(name)}" for name in COMMANDS)
    return "\n".join(["The flags of a command: python -m launch.NAME --help, or ds2f NAME --help", *lines])


def _summary(name: str) -> str:
    """What a command does: the first line of its module's docstring, without the example."""
    folder = Path(__file__).parent
    path = folder / f"{name}.py"
    source = (path if path.exists() else folder / name / "__main__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].partition(": python")[0].rstrip(".")


if __name__ == "__main__":
    main()
