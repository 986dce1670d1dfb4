"""Tests of the command launch.bench: its flags, its output, and its registry of parts."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from commands import Ended

from ds2f.config import Config, ModelConfig
from ds2f.errors import InputError
from launch.bench.options import cases
from launch.bench.registry import PARTS

ROOT = Path(__file__).parents[2]
TINY = ("--model.hidden_size=8", "--model.hidden_layers=1", "--batch_sizes=2", "--device=cpu", "--rounds=2")


@pytest.fixture
def run(launch, tmp_path: Path) -> Callable[..., Ended]:
    return lambda *arguments: launch("bench", *arguments, folder=tmp_path)


def test_measurements_are_printed_and_written(run, tmp_path: Path, tone_corpus: Path) -> None:
    target, trace = tmp_path / "bench.json", tmp_path / "trace.json"
    corpus = ("--data.dataset=tones", f"--data_path={tone_corpus}", "--nodata.cache_features", "--data.num_workers=0")
    parts = ("step", "stages", "features", "decode", "loader", "epoch")
    result = run(*TINY, f"--parts={','.join(parts)}", f"--json={target}", f"--trace={trace}", "--steps=2", *corpus)
    assert result.status == 0, result.err
    assert max(map(len, result.out.splitlines())) <= 100
    found = json.loads(target.read_text())
    machine = found["machine"]
    assert (machine["versions"]["torch"], machine["threads"]) == (torch.__version__, 1)
    assert machine["processor"] in result.out
    assert tuple(found["parts"]) == parts
    (step,) = found["parts"]["step"]
    assert (step["preset"], step["batch_size"], step["rounds"]) == ("1x8", 2, 2)
    for name, speed in step["contestants"].items():
        assert f"{name}: " in result.out
        assert f"{speed['utterances_per_second']:.3g}" in result.out
    assert found["parts"]["epoch"][0]["steps"] == 2
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::convolution", "aten::lstm"} <= names


def test_help_names_the_parts_and_needs_no_torch(run) -> None:
    program = "import sys, launch.bench.__main__; assert 'torch' not in sys.modules and 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    result = run("--help")
    assert result.status == 0
    assert ", ".join(PARTS) in " ".join(result.out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json=/nowhere/at/all/bench.json"], "give a file in a folder that exists"),
        (["--trace=/nowhere/at/all/trace.json"], "give a file in a folder that exists"),
        (["--parts=step,leap"], "--parts=step,leap"),
        (["--contestants=me"], "--contestants=me"),
        (["--presets=5by1024"], "'5by1024'"),
        (["--batch_sizes=0"], "'0'"),
        (["--batch_sizes="], "--batch_sizes"),
        (["--presets=3x512", "--model.hidden_size=8"], "take one"),
    ],
)
def test_a_mistake_is_reported_before_any_measurement(run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.status == 1
    assert result.err.startswith("bench: ")
    assert message in result.err
    assert "Traceback" not in result.err


def test_every_preset_is_measured_at_every_batch_size() -> None:
    cfg = Config(model=ModelConfig(hidden_layers=2, hidden_size=7, rnn_type="gru"))

    def shape(case: Config) -> tuple[int, int, int]:
        return case.model.hidden_layers, case.model.hidden_size, case.data.batch_size

    found = list(cases(cfg, ["5x1024", "3x512"], ["10", "32"]))
    assert [shape(case) for case in found] == [(5, 1024, 10), (5, 1024, 32), (3, 512, 10), (3, 512, 32)]
    assert {case.model.rnn_type for case in found} == {"gru"}
    assert [shape(case) for case in cases(cfg, [], ["4"])] == [(2, 7, 4)]
    with pytest.raises(InputError, match="0x8"):
        list(cases(cfg, ["0x8"], ["4"]))


@pytest.mark.parametrize("name", PARTS)
def test_every_part_has_a_module_with_measure_and_show(name: str) -> None:
    module = PARTS[name].open()
    assert callable(module.measure)
    assert callable(module.show)


def test_dropout_which_the_baselines_lack_is_refused() -> None:
    from ds2f.runner.device.backend import open_backend
    from launch.bench import comparison

    cfg = Config(model=ModelConfig(hidden_size=4, hidden_layers=1))
    with pytest.raises(InputError, match="dropout"):
        comparison.make("usual", attrs.evolve(cfg, model=attrs.evolve(cfg.model, dropout=0.1)), open_backend("cpu"))
