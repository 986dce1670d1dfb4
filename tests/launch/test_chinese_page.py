"""The Chinese page is true: its commands, flags, defaults, results, files and links are those of the program.

As a program, this file is the parser of those commands: it reads a JSON list of them and answers each with a JSON line.
"""
# ruff: noqa: RUF001  # the page's punctuation is full-width

import configparser
import contextlib
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import attrs
import pytest
from absl import app
from absl import flags as absl_flags

from ds2f.config import Config, resolve, sections
from ds2f.errors import InputError
from launch import flags

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "launch/README.zh.md"
RESULTS = ROOT / "configs/results"
COMMANDS = (
    *("train", "evaluate", "transcribe", "serve", "export", "splice", "prepare", "build_lm", "tune_lm", "calibrate"),
    "augment",
)
MODULES = tuple(f"launch.{name}" for name in COMMANDS)
PUBLISHED = {  # the page's rows: the names in published.json
    "原系统 1P GPU": "the same, 1 GPU",
    "原系统 8P GPU": "the same, 8 GPUs",
    "原系统 1P NPU": "the system rebuilt here, 1 NPU",
    "原系统 8P NPU": "the same, 8 NPUs",
}
FOREIGN = {"import torch", "Failed to load the backend extension: torch_npu"}  # torch's own message
PLACEHOLDERS = {"--name", "--noname"}
ABSL = {"--flagfile", "--help"}


def text() -> str:
    """The page without the commands of the system rebuilt here: they are the first column of table 4."""
    page = PAGE.read_text(encoding="utf-8")
    ours = re.sub(
        r"(?<=\n## 从原系统迁移\n).*?(?=\n## )",
        lambda section: re.sub(r"^\|[^|\n]*", "", section[0], flags=re.MULTILINE),
        page,
        flags=re.DOTALL,
    )
    assert len(ours) < len(page)
    return ours


def table(number: int) -> list[list[str]]:
    """The cells of the page's table of this number, its heading left out."""
    found = re.search(rf"\*\*表 {number}\*\*.*\n\n((?:\|.*\n)+)", PAGE.read_text(encoding="utf-8"))
    assert found
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    assert set("".join(rows[1])) == {"-"}
    return rows[2:]


def code() -> list[str]:
    """Lines of shell blocks, and code within sentences and tables."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text(), re.DOTALL | re.MULTILINE)
    assert {language for language, _ in fenced} == {"bash", "text"}
    lines = "".join(block for language, block in fenced if language == "bash").replace("\\\n", " ").splitlines()
    assert {line.split()[0] for line in lines} == {"python", "bash", "source", "pip", "python3"}
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text(), flags=re.DOTALL | re.MULTILINE))
    return [*lines, *inline]


def commands() -> Iterator[list[str]]:
    """Every launcher that the page runs: module and arguments. A training script is launch.train with its flagfile."""
    for line in code():
        match shlex.split(line, comments=True):
            case ["python", "-m", *order]:
                yield order
            case ["bash", script, *arguments] if Path(script).name.startswith("train_"):
                name = re.search(r"^start_training (\w+)", (ROOT / script).read_text(encoding="utf-8"), re.MULTILINE)
                assert name, script
                yield ["launch.train", f"--flagfile=configs/{name[1]}.flags", *arguments]


def groups() -> list[list[str]]:
    """Flags that stand without their command, as they stand together."""
    return [words for line in code() if (words := line.split())[0].startswith("--") and not set(words) & PLACEHOLDERS]


def parse(orders: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Has each command's flags parsed by the command itself, in a process of its own that goes no further.

    Returns:
      Of each ``refused``, why it was, empty if it was not; and ``flags``, whether boolean, by name.
    """
    program = [sys.executable, str(Path(__file__))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        program, input=json.dumps(orders), capture_output=True, text=True, env=environment, cwd=ROOT, check=True
    )
    answers = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(answers) == len(orders), answer.stderr
    return answers


def answer() -> None:
    app.run = lambda main, flags_parser: flags_parser(sys.argv)  # what launchers call; main is left out
    app.define_help_flags()
    for order in json.load(sys.stdin):
        if not os.fork():
            print(json.dumps(parsed(*order)), flush=True)
            os._exit(0)
        os.wait()


def parsed(module: str, *arguments: str) -> dict[str, Any]:
    sys.argv = [module, *arguments]
    refused, messages = "", io.StringIO()
    with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_module(module, run_name="__main__")
            if module == "launch.train":
                cfg = flags.config_from_flags(Config())  # finds what contradicts itself, but opens no file of labels
                resolve(attrs.evolve(cfg, data=attrs.evolve(cfg.data, labels_path="")))
        except (ImportError, InputError, SystemExit) as error:
            refused = "" if isinstance(error, SystemExit) and not error.code else messages.getvalue() or str(error)
    known = absl_flags.FLAGS
    return {"refused": refused, "flags": {name: isinstance(known[name].default, bool) for name in known}}


@pytest.fixture(scope="module")
def programs() -> dict[str, dict[str, bool]]:
    """The flags of each launcher, and whether they are boolean."""
    answers = parse([[module] for module in MODULES])
    assert not any(answer["refused"] for answer in answers)
    return {module: answer["flags"] for module, answer in zip(MODULES, answers, strict=True)}


def test_every_command_takes_its_flags() -> None:
    orders = list(commands())
    assert {module for module, *_ in orders} == {*MODULES, "launch.convert", "launch.doctor"}
    assert len(orders) >= 30
    refused = {shlex.join(order): answer["refused"] for order, answer in zip(orders, parse(orders), strict=True)}
    assert {command: why for command, why in refused.items() if why} == {}


def test_every_flag_is_defined_with_the_values_that_are_mentioned(programs: dict[str, dict[str, bool]]) -> None:
    orders = []
    for words in groups():
        names = [flag_name(word, programs) for word in words]
        module = next((module for module in MODULES if programs[module].keys() >= set(names)), None)
        assert module, f"no command has all of {words}"
        boolean = programs[module]
        given = [word for word, name in zip(words, names, strict=True) if "=" in word or boolean[name]]
        orders.append([module, *given])
    assert len(orders) >= 50
    refused = {shlex.join(order): answer["refused"] for order, answer in zip(orders, parse(orders), strict=True)}
    # A sentence may name a flag without the flag that it needs.
    assert {flags: why for flags, why in refused.items() if why and not why.startswith("flags without effect")} == {}


def flag_name(word: str, programs: dict[str, dict[str, bool]]) -> str:
    name = word.removeprefix("--").partition("=")[0]
    if any(boolean.get(name.removeprefix("no")) for boolean in programs.values()):
        return name.removeprefix("no")
    return name


def test_every_flag_of_any_sentence_is_defined(programs: dict[str, dict[str, bool]]) -> None:
    sentences = "\n".join(line for line in text().splitlines() if not line.startswith("pip "))
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][\w.]*\w", sentences)) - PLACEHOLDERS - ABSL
    defined = {f"--{name}" for boolean in programs.values() for name in boolean}
    negated = {f"--no{name}" for boolean in programs.values() for name, is_boolean in boolean.items() if is_boolean}
    assert mentioned - defined - negated == set()
    assert {"--data_path", "--archive", "--nomodel.bidirectional", "--collective_timeout"} <= mentioned


def test_defaults_and_choices_are_the_configurations() -> None:
    fields: dict[str, Any] = {field.name: field for field in attrs.fields(Config)}
    for section, cls in sections().items():
        fields |= {f"{section}.{field.name}": field for field in attrs.fields(cls)}
    rows = table(2)
    for flag, default, choices, *_ in rows:
        field = fields[flag.strip("`").removeprefix("--")]
        assert default == shown(field.default), flag
        admitted = getattr(field.metadata["check"], "choices", ())
        assert choices == "、".join(f"`{choice}`" for choice in admitted), flag
    named = {flag.strip("`-") for flag, *_ in rows}
    assert len(named) == len(rows) >= 20
    assert {"data.num_workers", "data.batch_size", "optim.learning_rate", "training.epochs"} <= named


def shown(default: Any) -> str:
    written = str(default).lower() if isinstance(default, bool) else str(default)
    return f"`{written}`" if written else ""


def test_results_are_the_stored_ones() -> None:
    stored = json.loads((RESULTS / "published.json").read_text(encoding="utf-8"))
    theirs = {system["name"]: system for system in stored["systems"]}
    rows = table(3)
    for name, device, *figures in rows:
        link = re.search(r"\]\(\.\./configs/results/an4/(\w+)/recipe\.json\)", name)
        if link:
            model, ours = recipe_figures(RESULTS / "an4" / link[1])
            assert f"ds2f，{model}，" in name, name
            assert (device, figures) == ("CPU", ours), name
        else:
            assert figures == published_figures(theirs[PUBLISHED[f"{name} {device}"]]), name
    assert len(rows) == 10
    assert f"共 130 条语音、{stored['words']} 个词" in text()


def published_figures(system: dict[str, Any]) -> list[str]:
    doubtful = "（存疑）" if "fps" in system.get("notes", {}) else ""
    rates = [f"{system[key]:.3f}" for key in ("wer", "cer")]
    return [*rates, str(system["word_errors"]), f"{system['fps']}{doubtful}"] + [
        str(system[key]) for key in ("epochs", "amp", "torch")
    ]


def recipe_figures(folder: Path) -> tuple[str, list[str]]:
    """Layers x units and the figures of a recipe, from its runs' counts of errors."""

    def runs(folder: Path) -> list[dict[str, Any]]:
        files = sorted(path for path in folder.glob("*.json") if path.stem.isdigit())
        return [json.loads(path.read_text(encoding="utf-8")) for path in files]

    about = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    tests = [run["test"] for run in runs(folder)]
    trained = runs(folder.parent / about.get("model", folder.name))
    assert len(tests) == len(trained) > 0
    assert all(run["device"].startswith("CPU") for run in trained)
    model = re.search(r"\d x \d+", about["name"])
    assert model
    word_rates = [100 * test["word_errors"] / test["words"] for test in tests]
    character_rates = [100 * test["char_errors"] / test["chars"] for test in tests]
    figures = [spread(word_rates, 2), spread(character_rates, 2), spread([test["word_errors"] for test in tests], 0)]
    figures.append(f"{fmean(run['utterances_per_second'] for run in trained):.1f}")
    for key in ("epochs", "amp", "torch"):
        (value,) = {str(run[key]).partition("+")[0] for run in trained}
        figures.append(value)
    return model[0], figures


def spread(values: Sequence[float], digits: int) -> str:
    """A run's figure; of several runs the mean, and the lowest and the highest."""
    if len(values) == 1:
        return f"{values[0]:.{digits + 1 if digits else 0}f}"
    mean = f"{fmean(values):.{digits or 1}f}"
    return f"{mean}（{min(values):.{digits}f}–{max(values):.{digits}f}）"


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"(?<![\w./-])((?:ds2f|launch|configs|tests)/[\w./*-]*)", text()))
    assert {name for name in named if not any(ROOT.glob(name))} == set()
    assert {"launch/env_npu.sh", "launch/train_full_8p.sh", "configs/an4_best.flags"} <= named
    for module, function in re.findall(r"`(ds2f(?:\.\w+)+)\.(\w+)`", text()):
        source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        assert re.search(rf"^def {function}\(", source, re.MULTILINE), f"{module}.{function}"
    modules = set(re.findall(r"`(launch\.\w+)`", text()))
    assert {name for name in modules if not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()} == set()


def test_every_link_leads_somewhere() -> None:
    page = PAGE.read_text(encoding="utf-8")
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) >= 15
    for link in links:
        target, _, anchor = link.partition("#")
        assert (PAGE.parent / target).exists(), link
        assert not anchor or target or anchor in headings, link


def test_versions_and_extras_are_those_of_the_setup() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    listed = setup["options"]["install_requires"] + extras["npu"]
    declared = dict(re.findall(r"^(torch|torch_npu)([<>=].*)$", listed, re.MULTILINE))
    declared["Python"] = setup["options"]["python_requires"]
    stated = {name.partition("（")[0]: version for name, version, _ in table(1)}
    assert {name: stated[name] for name in declared} == declared
    assert len(declared) == 3
    assert {"npu", "lm", "serve", "export"} == set(re.findall(r"\.\[(\w+)\]", text())) <= set(extras)


def test_variables_codes_and_messages_are_in_the_sources() -> None:
    files = [path for folder in ("ds2f", "launch") for path in (ROOT / folder).rglob("*.*")]
    sources = "".join(path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".sh"))
    inline = re.findall(r"`([^`\n]+)`", text())
    names = {name for piece in inline for name in re.findall(r"\b(?:[A-Z]{4,}(?:_[A-Z]+)+|E[IJ]\d{4})\b", piece)}
    assert {name for name in names if name not in sources} == set()
    assert {"TORCH_DEVICE_BACKEND_AUTOLOAD", "HCCL_EXEC_TIMEOUT", "EI0002"} <= names
    questions = re.findall(r"^\|([^|]*)\|", text().partition("\n## 常见问题\n")[2], re.MULTILINE)
    messages = {piece for cell in questions for piece in re.findall(r"`([^`]+ [^`]+)`", cell)} - FOREIGN
    assert {message for message in messages if message not in sources} == set()
    assert "sees 0 devices" in messages


def test_the_sets_have_as_many_utterances_as_the_corpus() -> None:
    from ds2f.data.corpora.an4 import AN4

    counts = dict(re.findall(r"an4_(\w+)_manifest\.csv\s+# \S+，(\d+) 条", text()))
    assert int(counts["train"]) + int(counts["val"]) == AN4.train
    assert int(counts["test"]) == AN4.test


if __name__ == "__main__":
    answer()
