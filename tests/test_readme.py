"""The README holds: its code runs, its tables are the program's own, and what it names exists.

``python tests/test_readme.py`` writes the table of flags anew.
"""

import configparser
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from ds2f.config import BeamConfig, Config, sections
from ds2f.config.settings import OneOf

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- flags -->\n", "<!-- /flags -->\n"
FOREIGN = {"flagfile", "help", "index", "enable"}  # of absl, pip (--index-url) and etcd (--enable-v2)


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def settings() -> Iterator[tuple[str, Any]]:
    """Flag and field of every setting that has one, in the order of ``Config``; then those of decoding."""
    classes = sections()
    for field in attrs.fields(Config):
        if field.name not in classes:
            yield field.name, field
            continue
        for member in attrs.fields(classes[field.name]):
            if not member.metadata["derived"]:
                yield f"{field.name}.{member.name}", member
    yield from ((f"lm.{field.name}", field) for field in attrs.fields(BeamConfig))


def flags_table() -> str:
    """The table of flags in Markdown."""
    return "| flag | default | what it does |\n|---|---|---|\n" + "".join(
        f"| `--{name}` | {shown(field.default)} | {described(field)} |\n" for name, field in settings()
    )


def shown(default: Any) -> str:
    if isinstance(default, bool):
        default = str(default).lower()
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"`{text}`" if text else ""


def described(field: Any) -> str:
    check, text = field.metadata["check"], field.metadata["help"]
    if isinstance(check, OneOf):
        text = f"{text} {', '.join(f'`{choice}`' for choice in check.choices)}."
    return re.sub(r"([|<>])", r"\\\1", text)


def update() -> None:
    """Puts the table of flags into the README."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    README.write_text(before + BEGIN + flags_table() + END + rest.partition(END)[2], encoding="utf-8")


def launcher_flags() -> set[str]:
    """Flags that launchers define besides the settings."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "launch").rglob("*.py"))
    return set(re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', source))


@pytest.mark.parametrize("code", blocks("python"), ids=range(1, 1 + len(blocks("python"))))
def test_a_code_block_runs_as_it_stands(code: str) -> None:
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    assert "assert" in code, "it shows something"
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_table_of_flags_is_the_programs_own() -> None:
    written = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert written == flags_table(), "run: python tests/test_readme.py"


def test_every_flag_that_is_mentioned_is_defined() -> None:
    defined = {name for name, _ in settings()} | launcher_flags() | FOREIGN
    booleans = {name for name, field in settings() if isinstance(field.default, bool)}
    mentioned = set(re.findall(r"(?<![\w-])--([a-z][\w.]*\w)", README.read_text(encoding="utf-8")))
    negated = {name for name in mentioned if name.startswith("no") and name.removeprefix("no") in booleans}
    assert mentioned - negated - defined - {"name", "noname"} == set()
    assert {"data_path", "archive", "which", "training.epochs"} <= mentioned, "the search finds flags"


def test_every_file_and_command_that_is_named_exists() -> None:
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w./-])((?:ds2f|launch|configs|tests)/[\w./*-]*)", text))
    missing = {name for name in named if not any(ROOT.glob(name))}
    assert missing == set()
    commands = set(re.findall(r"python -m ([\w.]+)", text))
    programs = {name: ROOT / name.replace(".", "/") for name in commands}
    assert {
        name
        for name, path in programs.items()
        if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists()
    } == set()
    assert {"launch/quickstart.sh", "configs/an4_cpu.flags"} <= named
    assert {"launch.prepare", "launch.train", "launch.evaluate"} <= commands


def test_every_function_that_is_named_by_its_module_exists() -> None:
    named = set(re.findall(r"\b(ds2f(?:\.\w+)+)\.(\w+)\(?", README.read_text(encoding="utf-8")))
    assert ("ds2f.convert", "from_reference") in named
    for module, name in named:
        assert (
            hasattr(importlib.import_module(module), name) or (ROOT / module.replace(".", "/") / f"{name}.py").exists()
        )


def test_the_declared_versions_are_those_of_the_setup() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    lines = "\n".join(lists).splitlines()
    declared = dict(re.findall(r"^([\w-]+)(.*)$", "\n".join(line for line in lines if not line.startswith("#")), re.M))
    text = README.read_text(encoding="utf-8").partition("## Versions")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| ([\w-]+)[^|]* \| ([<>=][^|]*) \|", text, re.MULTILINE)) == declared


def test_rates_are_whole_numbers_of_the_test_sets_words_and_characters() -> None:
    table = README.read_text(encoding="utf-8").partition("<!-- results -->")[2].partition("<!-- /results -->")[0]
    checked = 0
    for line in table.splitlines():
        for rate, total in zip([cell.strip() for cell in line.split("|")[2:4]], (773, 1922), strict=False):
            if re.fullmatch(r"\d+\.\d{3}", rate):  # a single run's; a mean over seeds has fewer digits
                checked += 1
                assert abs(100 * round(float(rate) * total / 100) / total - float(rate)) < 0.0006, line
    assert checked >= 10


if __name__ == "__main__":
    update()
