"""The pages are true: code runs, commands and flags exist, links resolve, and tables are the program's own.

``python tests/test_pages.py`` writes the generated tables: flags and versions in launch/README.md, flagfiles in
configs/README.md. ``python -m launch.report > configs/results/README.md`` writes the page of results.
"""

import configparser
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pages
import pytest
import torch
from pages import README, ROOT, Block, Command
from torch.distributed import run as torchrun

from ds2f.config import BeamConfig, Config, EndpointConfig, ServingConfig, sections
from ds2f.config.settings import OneOf

OWN_SECTIONS = {
    "lm": BeamConfig,
    "endpoint": EndpointConfig,
    "serving": ServingConfig,
}  # of commands over a trained run
COMMANDS = ROOT / "launch/README.md"
FLAGFILES = ROOT / "configs/README.md"
RESULTS = ROOT / "configs/results/README.md"
PAGES = pages.pages()
README_BYTES = 8192

FOREIGN = {"flagfile", "help", "enable"}  # of absl and etcd (--enable-v2)
FOREIGN |= {"completion"}  # of launch itself
FOREIGN |= {"index", "require", "no", "hash"}  # of pip (--index-url, --require-hashes, --no-deps, --hash)
# Of CANN and of the system rebuilt here.
FOREIGN_FILES = {
    "set_env.sh",
    "atc.sh",
    "merge_manifests.py",
    "search_lm_params.py",
    "select_lm_params.py",
    "server.py",
}

# Programs whose commands do not run as they stand in a page: the reason, and the tests that run the program. Here the
# program parses their flags; tests/test_page_commands.py runs the blocks of the pages for users with a tiny corpus.
NOT_RUN = {
    "launch.prepare": ("downloads or speaks a corpus", "tests/launch/test_prepare.py"),
    "launch.manifest": ("needs AN4", "tests/launch/test_manifest_command.py"),
    "launch.train": ("trains for minutes or hours", "tests/test_page_commands.py"),
    "launch.evaluate": ("needs a trained run", "tests/test_page_commands.py"),
    "launch.transcribe": ("needs a trained run", "tests/test_page_commands.py"),
    "launch.serve": ("needs a trained run, and does not end", "tests/serving/test_openai_routes.py"),
    "launch.export": ("needs a trained run", "tests/launch/test_export.py"),
    "launch.convert": ("needs weights from elsewhere", "tests/launch/test_convert_command.py"),
    "launch.splice": ("needs a trained run", "tests/test_page_commands.py"),
    "launch.build_lm": ("needs a corpus and irstlm", "tests/test_page_commands.py"),
    "launch.tune_lm": ("needs a trained run", "tests/test_page_commands.py"),
    "launch.calibrate": ("needs a trained run", "tests/test_page_commands.py"),
    "launch.load_test": ("measures for minutes", "tests/launch/test_load_test.py"),
    "launch.augment": ("needs a recording", "tests/launch/test_augment_command.py"),
    "launch.longform": ("needs a trained run", "tests/launch/test_longform.py"),
    "launch.report": ("needs trained runs, with some flags", "tests/test_page_commands.py"),
    "launch.doctor": ("checks the machine for a minute", "tests/launch/test_doctor.py"),
    "launch.bench": ("measures for minutes", "tests/launch/test_bench.py"),
    "launch.bench.markdown": ("needs a file of launch.bench", "tests/launch/test_bench_markdown.py"),
    "launch.scaling": ("measures for minutes", "tests/launch/test_scaling.py"),
}
# Other commands that are not run, by their first words.
LISTED = {
    ("bash", "launch/quickstart.sh"): "minutes; tests/launch/test_quickstart.py runs its commands with -m long",
    ("bash", "launch/test.sh"): "runs these tests",
    ("bash", "launch/lock.sh"): "asks a package index",
    ("python", "-c"): "reads files of the example; it is compiled",
    ("python", "tests/test_pages.py"): "writes the tables that the tests below compare",
    ("python3", "-m", "venv"): "makes an environment",
    ("sed",): "filters a file",
    ("curl",): "asks a server; tests/serving/test_serving_page.py runs it",
    ("arecord",): "records from a microphone",
    ("chmod",): "changes the mode of a file that the reader has made",
    ("pip", "install"): "changes the environment; its extras are looked up",
    ("source",): "changes the shell; the file is looked up",
}

PARSE = """
import importlib, json, sys
program, lines = sys.argv[1], json.loads(sys.stdin.read())
sys.argv[:] = [program]
module = importlib.import_module(program)
from absl import flags as absl_flags
from ds2f import config
from launch import flags
for line in lines:
    for name in absl_flags.FLAGS:
        absl_flags.FLAGS[name].unparse()
    try:
        rest = flags.parse([program, *line], positional=True)[1:]
        answer = {"rest": rest, "config": config.to_dict(flags.config_from_flags(config.Config()))}
    except Exception as error:
        answer = {"problem": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))
"""


def parsed(program: str, lines: list[list[str]]) -> list[dict[str, Any]]:
    """What a program's own flags make of command lines: ``rest`` and ``config`` of each, or a ``problem``."""
    package = (ROOT / program.replace(".", "/")).is_dir()
    command = [sys.executable, "-c", PARSE, f"{program}.__main__" if package else program]
    done = subprocess.run(command, input=json.dumps(lines), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()[-len(lines) :]]


def settings() -> Iterator[tuple[str, Any]]:
    """Flag and field of every setting that has one, in the order of ``Config``; then of decoding and streaming."""
    classes = sections()
    for field in attrs.fields(Config):
        if field.name not in classes:
            yield field.name, field
            continue
        for member in attrs.fields(classes[field.name]):
            if not member.metadata["derived"]:
                yield f"{field.name}.{member.name}", member
    for section, cls in OWN_SECTIONS.items():
        yield from ((f"{section}.{field.name}", field) for field in attrs.fields(cls))


def flags_table() -> str:
    """The table of flags in Markdown."""
    return "| flag | default | effect |\n|---|---|---|\n" + "".join(
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
        text = f"{text} {', '.join(f'`{choice}`' for choice in check.choices if choice)}."
    return re.sub(r"([|<>])", r"\\\1", text)


def flagfiles_table() -> str:
    """A row per flagfile: the first sentence of its comment, and settings after all includes."""
    files = sorted((ROOT / "configs").glob("*.flags"))
    rows = []
    for path, answer in zip(files, parsed("launch.train", [[f"--flagfile={path}"] for path in files]), strict=True):
        cfg = answer["config"]
        comment = re.match(r"(?:# .*\n)+", path.read_text(encoding="utf-8"))
        assert comment, f"{path.name} starts with a comment that gives its purpose"
        purpose = re.sub(r"\n?# ", " ", comment[0]).strip().partition(". ")[0].rstrip(".")
        batch, ranks = cfg["data"]["batch_size"], cfg["nproc_per_node"]
        rows.append(
            f"| `{path.name}` | {purpose} | {cfg['model']['hidden_layers']} x {cfg['model']['hidden_size']} | "
            f"{batch * ranks}{f' ({ranks} x {batch})' if ranks > 1 else ''} | {cfg['training']['epochs']} |\n"
        )
    return "| flagfile | purpose | layers x units | batch | epochs |\n|---|---|---|---|---|\n" + "".join(rows)


def declared() -> dict[str, tuple[str, list[str]]]:
    """Version and extras of every package in setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    found: dict[str, tuple[str, list[str]]] = {}
    lists = {"": setup["options"]["install_requires"], **setup["options.extras_require"]}
    for extra, text in lists.items():
        for package, version in re.findall(r"^([\w-]+)(.*)$", text, re.MULTILINE):
            found.setdefault(package, (version, []))[1].extend([extra] if extra else [])
    return found


def versions_table() -> str:
    """Declared and tested versions. A tested version that stands in the page stays, since it is a record."""
    tested = dict(re.findall(r"^\| ([\w-]+)[^|]* \| [^|]* \| ([^|]*) \|$", pages.between(COMMANDS, "versions"), re.M))
    rows = []
    for package, (version, extras) in declared().items():
        suffix = f" (extra{'s' * (len(extras) > 1)} {', '.join(extras)})" if extras else ""
        rows.append(f"| {package}{suffix} | {version} | {tested.get(package) or installed(package)} |\n")
    return "| package | declared | tested |\n|---|---|---|\n" + "".join(rows)


def installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not run"


GENERATED = (
    (COMMANDS, "flags", flags_table),
    (COMMANDS, "versions", versions_table),
    (FLAGFILES, "flagfiles", flagfiles_table),
)


def update() -> None:
    """Writes the generated tables."""
    for page, marker, table in GENERATED:
        pages.replace(page, marker, table())


def launcher_flags() -> set[str]:
    """Flags that launchers define besides the settings, and the negations of the boolean ones."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "launch").rglob("*.py"))
    booleans = re.findall(r'flags\.DEFINE_boolean\(\s*"(\w+)"', source)
    return {*re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', source), *(f"no{name}" for name in booleans)}


def invocations() -> dict[str, list[tuple[Command, list[str]]]]:
    """Command lines of each launcher in the pages."""
    found = defaultdict(list)
    for command in pages.commands():
        program, flags = pages.launcher(command)
        if program:
            found[program].append((command, flags))
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Models of this size gain nothing from threads, which lose much where other processes have the processors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("block", pages.blocks("python"), ids=str)
def test_a_python_block_runs_as_it_stands(block: Block) -> None:
    assert len([line for line in block.text.splitlines() if line.strip()]) <= 15
    assert "assert" in block.text, "it shows something"
    exec(compile(block.text, str(block), "exec"), {"__name__": "page"})


@pytest.mark.parametrize("program", sorted(invocations()))
def test_the_flags_of_every_command_are_parsed_by_its_program(program: str) -> None:
    if program == "launch.bench.markdown":  # takes a file and no flags
        return
    lines = invocations()[program]
    for (command, _), answer in zip(lines, parsed(program, [flags for _, flags in lines]), strict=True):
        assert "problem" not in answer, f"{command}\n{answer}"
        positional = program in (
            "launch.transcribe",
            "launch.convert",
            "launch.load_test",
            "launch.augment",
            "launch.manifest",
            "launch.report",
        )
        assert positional or not answer["rest"], f"{command}\n{answer['rest']}"


def test_every_block_runs_or_stands_on_the_list() -> None:
    assert {block.language for block in pages.blocks()} <= {"python", "bash", "text"}, "a text block shows output"
    extras = {extra for _, extras in declared().values() for extra in extras}
    for command in pages.commands():
        program, _ = pages.launcher(command)
        if command.words[0] == "torchrun":
            torchrun.get_args_parser().parse_args(command.words[1:])
        if program:
            assert program in NOT_RUN, command
            continue
        assert any(command.words[: len(start)] == start for start in LISTED), command
        if command.words[0] == "pip":
            asked = re.findall(r"\[([\w,]+)\]", " ".join(command.words))
            assert set(",".join(asked).split(",")) - {""} <= extras, command
        elif command.words[:2] == ("python", "-c"):
            compile(command.words[2], command.where, "exec")
        elif command.words[0] == "source":
            assert command.words[1] == ".venv/bin/activate" or (ROOT / command.words[1]).exists(), command
        elif command.words[:2] == ("bash", "launch/test.sh"):
            named = [word for word in command.words[2:] if word.startswith("tests/")]
            assert all((ROOT / word).exists() for word in named), command
    assert all((ROOT / tests).exists() for _, tests in NOT_RUN.values())


@pytest.mark.parametrize(("page", "marker", "table"), GENERATED, ids=[marker for _, marker, _ in GENERATED])
def test_a_generated_table_is_the_programs_own(page: Path, marker: str, table: Any) -> None:
    assert pages.between(page, marker) == table(), "run: python tests/test_pages.py"


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_every_flag_that_is_mentioned_is_defined(page: Path) -> None:
    defined = {name for name, _ in settings()} | launcher_flags() | FOREIGN
    booleans = {name for name, field in settings() if isinstance(field.default, bool)}
    mentioned = set(re.findall(r"(?<![\w-])--([a-z][\w.]*\w)(?![\w.]*\*)", pages.read(page)))
    negated = {name for name in mentioned if name.startswith("no") and name.removeprefix("no") in booleans}
    assert mentioned - negated - defined - {"name", "noname"} == set()
    wildcards = set(re.findall(r"(?<![\w-])--(\w+)\.\*", pages.read(page)))
    assert wildcards <= {*sections(), *OWN_SECTIONS}


def test_the_search_finds_flags_files_commands_and_functions() -> None:
    text = "".join(map(pages.read, PAGES))
    mentioned = set(re.findall(r"(?<![\w-])--([a-z][\w.]*\w)", text))
    assert {"data_path", "archive", "which", "training.epochs"} <= mentioned
    assert {"launch/quickstart.sh", "configs/an4_cpu.flags"} <= named_files(text)
    assert {"launch.prepare", "launch.train", "launch.evaluate"} <= set(re.findall(r"python -m ([\w.]+)", text))
    assert ("ds2f.convert", "from_reference") in named_functions(text)


def named_files(text: str) -> set[str]:
    """Paths from the root; a part in capitals, as in ``an4/RECIPE/SEED.json``, stands for any name."""
    named = re.findall(r"(?<![\w./-])((?:ds2f|launch|configs|tests)/[\w./*-]*)", text)
    return {re.sub(r"(?<=/)(?!README)[A-Z_]+(?=[./])", "*", path.rstrip(".")) for path in named}


def named_functions(text: str) -> set[tuple[str, str]]:
    return set(re.findall(r"\b(ds2f(?:\.\w+)+)\.(\w+)\(?", text))


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_every_file_and_command_that_is_named_exists(page: Path) -> None:
    text = pages.read(page)
    assert {path for path in named_files(text) if not any(ROOT.glob(path))} == set()
    alone = set(re.findall(r"`([\w-]+\.(?:py|sh|flags))`", text)) - FOREIGN_FILES
    assert {file for file in alone if not any(list((ROOT / top).rglob(file)) for top in pages.FOLDERS)} == set()
    programs = {name: ROOT / name.replace(".", "/") for name in re.findall(r"python -m ([\w.]+)", text)}
    assert {
        name
        for name, path in programs.items()
        if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists()
    } == set()


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_every_function_that_is_named_by_its_module_exists(page: Path) -> None:
    for module, name in named_functions(pages.read(page)):
        path = ROOT / module.replace(".", "/") / name
        assert path.with_suffix(".py").exists() or path.is_dir() or hasattr(importlib.import_module(module), name), (
            module,
            name,
        )


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_every_link_resolves(page: Path) -> None:
    for target in pages.links(page):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in pages.anchors(file), target


@pytest.mark.parametrize("page", PAGES[1:], ids=pages.name)
def test_a_page_and_the_overview_are_linked(page: Path) -> None:
    def targets(source: Path) -> set[Path]:
        return {(source.parent / link.partition("#")[0]).resolve() for link in pages.links(source)}

    assert README in targets(page), "the page leads back to the overview"
    assert any(page in targets(other) for other in PAGES if other != page), "another page leads to this one"


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_every_row_of_a_table_has_the_cells_of_its_heading(page: Path) -> None:
    for cells in pages.tables(page):
        assert len(set(cells)) == 1, cells


def test_the_overview_is_short_and_leads_to_the_chinese_page() -> None:
    assert len(README.read_bytes()) <= README_BYTES
    assert "(launch/README.zh.md)" in pages.read(README).splitlines()[0]


def test_rates_are_whole_numbers_of_the_test_sets_words_and_characters() -> None:
    checked = 0
    for line in pages.between(RESULTS, "results").splitlines():
        for rate, total in zip([cell.strip() for cell in line.split("|")[2:4]], (773, 1922), strict=False):
            if re.fullmatch(r"\d+\.\d{3}", rate):  # a single run's; a mean over seeds has fewer digits
                checked += 1
                assert abs(100 * round(float(rate) * total / 100) / total - float(rate)) < 0.0006, line
    assert checked >= 10


def test_the_rates_of_the_overview_are_rates_of_the_page_of_results() -> None:
    rates = {line.split("|")[2].strip() for line in pages.between(RESULTS, "results").splitlines() if "|" in line}
    rows = [line.split("|")[2:4] for line in pages.between(README, "results").splitlines()[2:]]
    assert len(rows) == 5
    assert {cell.strip() for row in rows for cell in row} - {""} <= rates


if __name__ == "__main__":
    update()
