"""The conventions of the project: imports, flagfiles, scripts, and the names, sizes and pages of modules."""

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import attrs
import pages
import pytest

from ds2f import config
from ds2f.config import Config
from launch import flagfiles

ROOT = Path(__file__).parents[1]
FLAGFILES = sorted((ROOT / "configs").glob("*.flags"))
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))

MODULES = sorted(path for folder in ("ds2f", "launch") for path in (ROOT / folder).rglob("*.py"))
RETIRED_WORDS = ("shelf", "keeper", "chorus", "rollcall", "seat")  # earlier names of modules and classes
MOST_LINES = 320

# Modules and packages of pure functions, and modules through which the state of the process enters.
PURE = {
    *("types", "tree", "rng", "convolutions"),
    *("model", "ctc", "optim", "precision", "features", "augment", "text", "scripts", "metrics", "decode", "grad"),
    *("objective", "steps"),
}
IMPURE = {"os", "time", "datetime", "random", "tempfile", "socket", "subprocess", "threading", "argparse", "pathlib"}

PRINT_CONFIG = """
import json, sys
from ds2f import config
from launch import flags
flags.define()
flags.run(lambda argv: print(json.dumps(config.to_dict(flags.config_from_flags()))))
"""


def files_of(name: str) -> list[Path]:
    """The files of a module or package of ds2f."""
    path = ROOT / "ds2f" / name
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, ``from a import b`` counted as ``a`` and ``a.b``."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def attributes(path: Path) -> set[str]:
    """Dotted expressions of a file, such as ``torch.distributed.barrier``."""
    return {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


def read_flagfile(path: Path, folder: Path = ROOT) -> Config:
    """The configuration of a flagfile, read in a folder that has its labels."""
    command = [sys.executable, "-c", PRINT_CONFIG, f"--flagfile={path}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return config.from_dict(json.loads(result.stdout))


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_every_flagfile_is_a_valid_configuration(path: Path, tmp_path: Path) -> None:
    text = "".join(each.text + "\n" for each in flagfiles.expanded([f"--flagfile={path}"]))
    named = re.findall(r"^--data\.labels_path=(.+)$", text, re.MULTILINE)
    for labels in named:  # launch.prepare writes them
        (tmp_path / labels).parent.mkdir(exist_ok=True)
        (tmp_path / labels).write_text('["_", " ", "A"]')
    assert read_flagfile(path, tmp_path if named else ROOT) != Config()
    assert path.read_text().startswith("# "), "its purpose"


def test_flagfiles_for_speed_have_the_published_settings() -> None:
    one, eight = (read_flagfile(ROOT / "configs" / f"an4_performance_{ranks}.flags") for ranks in ("1p", "8p"))
    assert (one.data.batch_size, one.nproc_per_node, one.optim.learning_rate) == (10, 1, 1.4e-4)
    assert (eight.data.batch_size, eight.nproc_per_node, eight.optim.learning_rate) == (10, 8, 8e-4)
    for cfg in (one, eight):
        assert (cfg.model.hidden_layers, cfg.model.hidden_size) == (5, 1024)
        assert (cfg.model.time_stride, cfg.model.frequency_stride) == (2, 4)
        assert (cfg.optim.name, cfg.optim.weight_decay, cfg.optim.max_norm) == ("adamw", 1e-5, 400)
        assert (cfg.optim.schedule, cfg.optim.learning_anneal) == ("exponential", 0.99)
        assert (cfg.training.epochs, cfg.apex.opt_level, cfg.training.evaluate_test) == (3, "O2", True)


def test_flagfiles_for_accuracy_have_the_published_model_and_epochs() -> None:
    one, eight = (read_flagfile(ROOT / "configs" / f"an4_{ranks}.flags") for ranks in ("1p", "8p"))
    assert (one.nproc_per_node, eight.nproc_per_node) == (1, 8)
    for cfg in (one, eight):
        assert (cfg.model.rnn_type, cfg.model.hidden_layers, cfg.model.hidden_size) == ("lstm", 5, 1024)
        assert (cfg.training.epochs, cfg.apex.opt_level, cfg.training.evaluate_test) == (70, "O2", True)
    assert attrs.evolve(one.model, sync_batch_norm=True) == eight.model, (
        "the same model, with batch norm over all devices"
    )
    assert one.augmentation == eight.augmentation


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_are_valid_and_strict(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    if path.stat().st_mode & 0o100 and path.suffix == ".sh":
        assert "set -euo pipefail" in path.read_text()


@pytest.mark.parametrize("given", [["--data_path=./da ta/"], ["--data_path", "./da ta/"]])
def test_a_training_script_runs_in_the_root_and_keeps_the_callers_paths(tmp_path: Path, given: list[str]) -> None:
    root = tmp_path / "project"
    (root / "launch").mkdir(parents=True)
    (root / "configs").mkdir()
    for script in SCRIPTS:
        (root / "launch" / script.name).write_text(script.read_text())
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    result = subprocess.run(
        [
            *("bash", root / "launch" / "train_full_8p.sh", *given, "--data.train_manifest=a.csv"),
            *("--data.labels_path", "b.json", "--training.epochs=2", "--device=cpu"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    folder, *arguments = result.stdout.splitlines()
    assert Path(folder).resolve() == root.resolve()
    assert arguments[:3] == ["-m", "launch.train", "--flagfile=configs/an4_8p.flags"]
    assert f"{tmp_path}/./da ta/" in "=".join(arguments)
    assert f"--data.train_manifest={tmp_path}/a.csv" in arguments
    assert f"{tmp_path}/b.json" in arguments
    assert arguments[-3:] == ["--training.epochs=2", "--device=cpu", f"--run_dir={root}/runs/an4_8p"]


def test_the_npu_environment_sources_cann_and_keeps_what_is_set(tmp_path: Path) -> None:
    if Path("/usr/local/Ascend").exists() or Path("/etc/Ascend").exists():
        pytest.skip("CANN is installed here and would be found first")
    (tmp_path / "Ascend" / "ascend-toolkit").mkdir(parents=True)
    set_env = tmp_path / "Ascend" / "ascend-toolkit" / "set_env.sh"
    set_env.write_text("export CANN_VARIABLE=hello$not_set_anywhere\nfalse\n")
    report = 'echo "$CANN_VARIABLE $TASK_QUEUE_ENABLE $HCCL_WHITELIST_DISABLE $-"'
    command = ["bash", "-c", f'set -euo pipefail; source "{ROOT}/launch/env_npu.sh"; {report}']
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TASK_QUEUE_ENABLE": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    variable, queue, whitelist, options = result.stdout.split()
    assert (variable, queue, whitelist) == ("hello", "1", "1")
    assert {"e", "u"} <= set(options), "the shell options of the caller are restored"

    set_env.unlink()
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "CANN is not found" in result.stderr


def test_pure_modules_import_no_module_with_process_state() -> None:
    leaks = {
        f"{path.relative_to(ROOT)}: {name}"
        for module in sorted(PURE)
        for path in files_of(module)
        for name in imported(path)
        if name.split(".")[0] in IMPURE
    }
    assert leaks == set()


def test_torch_distributed_is_named_only_in_the_runner() -> None:
    # Ruff admits banned libraries to whole files; torch.distributed is only for the runner.
    named = {
        str(path.relative_to(ROOT))
        for path in MODULES
        if any(name.startswith("torch.distributed") for name in imported(path) | attributes(path))
    }
    assert {path for path in named if not path.startswith("ds2f/runner/")} == set()


@pytest.mark.parametrize(
    ("statement", "path"),
    [
        ("import torch.distributed as dist", "ds2f/steps.py"),
        ("from torch import distributed", "ds2f/data/loading.py"),
        ("import torch_npu", "ds2f/model/recurrent.py"),
        ("from absl import flags", "ds2f/data/manifests.py"),
        ("import jax.numpy", "ds2f/optim/base.py"),
        ("import orbax.checkpoint", "ds2f/convert.py"),
        ("import optree", "ds2f/steps.py"),
        ("from torch.utils import _pytree", "ds2f/grad.py"),
        ("from torch import manual_seed", "ds2f/model/layers.py"),
    ],
)
def test_a_banned_import_is_found_by_the_linter(statement: str, path: str) -> None:
    assert "TID251" in lint(statement, path)


def test_the_linter_admits_each_library_to_its_own_package() -> None:
    assert "TID251" not in lint("import torch.distributed", "ds2f/runner/distributed/collectives.py")
    assert "TID251" not in lint("import orbax.checkpoint", "ds2f/checkpoint/orbax_io.py")
    assert "TID251" not in lint("from absl import flags", "launch/flags.py")


def lint(statement: str, path: str) -> str:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "--stdin-filename", path]
    return subprocess.run(
        [*command, "-"], cwd=ROOT, input=f"{statement}\n", capture_output=True, text=True, check=False
    ).stdout


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{path.relative_to(ROOT)}: {node.name}": node.end_lineno - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 80
    }
    assert long == {}


def test_no_module_is_too_long() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_every_module_has_a_docstring() -> None:
    missing = {
        str(path.relative_to(ROOT))
        for path in MODULES
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert missing == set()


def test_no_two_modules_or_packages_share_a_name() -> None:
    names = Counter(
        path.parent.name if path.name == "__init__.py" else path.stem for path in MODULES if path.name != "__main__.py"
    )
    names.subtract(("convert", "augment", "export"))  # the commands of the packages and modules of these names
    names.subtract(("ds2f",))  # launch/ds2f.py stands in for the package under python launch/NAME.py
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_retired_names_do_not_return() -> None:
    files = {
        path
        for folder in ("ds2f", "launch")
        for path in (ROOT / folder).rglob("*")
        if path.suffix not in (".pyc", ".png", ".so")
    }
    word = re.compile(rf"\b({'|'.join(RETIRED_WORDS)})\b", re.IGNORECASE)
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in {*filter(Path.is_file, files), *FLAGFILES, *pages.pages()}
        for match in word.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_every_folder_of_code_has_a_readme() -> None:
    folders = {path.parent for path in MODULES} - {ROOT / "ds2f" / "data" / "corpora"}  # ds2f/data/README.md covers it
    assert {str(folder.relative_to(ROOT)) for folder in folders if not (folder / "README.md").exists()} == set()


def test_json_is_written_without_numbers_that_are_none():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump"):
                exempt = "distributed" in path.parts or path.name == "ranks.py"  # messages between processes
                assert exempt or "allow_nan=False" in ast.unparse(node), f"{path}:{node.lineno}: use files.json_text"
