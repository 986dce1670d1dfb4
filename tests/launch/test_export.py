"""Exports of a run, from the command line to the texts of the exported model."""

import json
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import onnx
import pytest
import soundfile
import torch
from commands import variables
from speaking_model import BOTH_WAYS, CFG, RATE, model, sound

from ds2f import config
from ds2f.checkpoint import Checkpoints
from ds2f.types import LossScale, TrainState

TEXTS = ["AB C", "B", "CAB A"]


def write_run(folder: Path, *, bidirectional: bool) -> None:
    cfg = attrs.evolve(BOTH_WAYS if bidirectional else CFG, run_dir=str(folder))
    cfg = attrs.evolve(cfg, augmentation=attrs.evolve(cfg.augmentation, noise_dir=str(folder.parent / "music")))
    manifests = {"test": str(folder.parent / "an4_test_manifest.csv")}
    results = {"test": {"wer": 12.5, "word_errors": 1, "words": 8}, "manifests": manifests}
    params, stats = model(bidirectional=bidirectional)
    scale = LossScale(torch.ones(()), torch.zeros((), dtype=torch.int32))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict(cfg)))
    (folder / "results.json").write_text(json.dumps(results))
    written = Checkpoints(folder, cfg=cfg)
    written.save(1, TrainState(torch.zeros((), dtype=torch.int64), params, stats, {}, scale), {}, score=1.0)
    assert written.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with runs of both kinds, and a validation set."""
    folder = tmp_path_factory.mktemp("export")
    write_run(folder / "both", bidirectional=True)
    write_run(folder / "forward", bidirectional=False)
    rows = []
    for number, text in enumerate(TEXTS):
        soundfile.write(folder / f"{number}.wav", sound(2 + number, seed=number), RATE)
        (folder / f"{number}.txt").write_text(text)
        rows.append(f"{number}.wav,{number}.txt\n")
    (folder / "an4_val_manifest.csv").write_text("".join(rows))
    return folder


@pytest.fixture
def export(launch, folder, request):
    """Exports a run into a new folder; returns how it ended, and the folder."""

    def run(run, *arguments, data=True):
        output = f"exports/{request.node.name}"
        data_path = ["--data_path=."] if data else ["--data_path=nowhere"]
        ended = launch("export", f"--run_dir={run}", f"--output={output}", *data_path, *arguments, folder=folder)
        assert "Traceback" not in ended.err
        return ended, folder / output

    return run


def contents(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("run", "arguments", "files"),
    [
        ("both", (), {"model.onnx"}),
        ("forward", (), {"model.onnx", "stream.onnx"}),
        ("forward", ("--quantize=int8", "--max_wer_increase=100"), {"model.onnx", "stream.onnx"}),
        ("both", ("--with_features", "--opset=11"), {"model.onnx"}),
        ("forward", ("--with_features", "--shapes=2x4000"), {"model_2x4000.onnx"}),
        (
            "forward",
            ("--shapes=1x401,3x401", "--stream_shapes=2x32", "--dtype=float16", "--opset=13"),
            {"model_1x401.onnx", "model_3x401.onnx", "stream_2x32.onnx"}
            | {f"ascend/{name}" for name in ("README.md", "atc.sh", "compare_om.py", "export.json", "infer_om.py")},
        ),
        ("both", ("--format=safetensors",), {"model.safetensors"}),
        ("both", ("--format=torch",), {"model.pt2"}),
        ("both", ("--format=torch", "--shapes=2x401"), {"model_2x401.pt2"}),
    ],
)
def test_files_are_written_checked_and_described(export, run, arguments, files):
    ended, output = export(run, *arguments)
    assert ended.status == 0, ended.err
    assert contents(output) == files | {"README.md"}
    assert ended.err.count("differ from the run's by") == len(
        [name for name in files if not name.startswith("ascend/")]
    )
    assert ("3 of 3 transcripts" in ended.err) == (not {"--with_features", "--quantize=int8"} & set(arguments))
    page = (output / "README.md").read_text()
    assert page.startswith("---\nlicense: ")
    assert "12.50 %" in page
    for name in files:
        assert name in page


def test_a_graph_has_the_names_and_the_operators_that_were_asked_for(export):
    ended, output = export("both", "--names=features=spect,log_probs=scores", "--opset=16")
    assert ended.status == 0, ended.err
    graph = onnx.load(output / "model.onnx")
    assert [each.name for each in graph.graph.input] == ["spect", "lengths"]
    assert [each.name for each in graph.graph.output] == ["scores", "output_lengths"]
    assert graph.opset_import[0].version == 16


def test_an_export_of_an_export_has_the_name_and_the_results_of_the_run(export, folder):
    ended, first = export("both", "--format=safetensors")
    assert ended.status == 0, ended.err
    first.rename(folder / "moved")
    ended, second = export("moved", "--format=safetensors")
    assert ended.status == 0, ended.err
    assert (second / "model.safetensors").read_bytes() == (folder / "moved/model.safetensors").read_bytes()
    assert "12.50 %" in (second / "README.md").read_text()


def test_the_end_names_commands_that_take_the_model(export):
    ended, _ = export("forward", "--check_utterances=0")
    commands = [line.split() for line in ended.err.replace("\\\n", "").partition("Next:\n")[2].splitlines()]
    assert [words[2] for words in commands] == ["launch.transcribe"] * 2 + ["launch.evaluate"]
    assert commands[1][-2:] == ["--stream", "FILE"]
    assert commands[2][-1] == "--data_path=."


def test_atc_gets_the_sizes_of_all_inputs(export):
    ended, output = export("forward", "--shapes=2x401", "--stream_shapes=1x32", "--dtype=float16", "--names=features=x")
    assert ended.status == 0, ended.err
    lines = (output / "ascend/atc.sh").read_text().splitlines()
    assert "compile model_2x401 'x:2,21,401;lengths:2' \"$@\"" in lines
    (stream,) = (line for line in lines if line.startswith("compile stream_1x32 "))
    sizes = dict(part.split(":") for part in stream.split("'")[1].split(";"))
    assert list(sizes) == [each.name for each in onnx.load(output / "stream_1x32.onnx").graph.input]
    assert (sizes["x"], sizes["position"], sizes["hidden_0"]) == ("1,21,32", "1", "1,8")
    assert "They rule out nothing in these graphs" in (output / "ascend/README.md").read_text()


def test_no_folder_of_this_machine_leaves_it(export, folder):
    ended, output = export("both", "--data_license=CC-BY-4.0", "--languages=en")
    assert ended.status == 0, ended.err
    assert "CC-BY-4.0" in (output / "README.md").read_text()
    for path in output.iterdir():
        assert str(folder).encode() not in path.read_bytes()


def test_the_compared_texts_are_from_all_over_the_validation_set(export, folder):
    rows = [(2, "A B C"), (1, "A B"), (0, "A")]  # from long to short
    for number, text in rows:
        (folder / f"other{number}.txt").write_text(text)
    (folder / "other_val_manifest.csv").write_text("".join(f"{number}.wav,other{number}.txt\n" for number, _ in rows))
    ended, _ = export("both", "--check_utterances=2", "--data.val_manifest=other_val_manifest.csv")
    assert ended.status == 0, ended.err
    assert "2 of 2 transcripts" in ended.err
    assert "of 5 words" in ended.err, "the two shortest have 3"


def test_without_a_validation_set_texts_are_not_compared(export):
    ended, _ = export("both", data=False)
    assert ended.status == 0
    assert "no validation set here; name it by --data_path" in ended.err


def test_texts_are_not_compared_if_none_are_wanted(export):
    ended, output = export("both", "--check_utterances=0")
    assert ended.status == 0
    assert "texts were not compared (--check_utterances=0)" in ended.err
    assert "no validation set" not in (output / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--quantize=int8",), "is missing; give --data_path"),
        (("--quantize=int8", "--dtype=float16"), "leave out --dtype=float16"),
        (("--quantize=int8", "--opset=11"), "leave out --opset=11"),
        (("--format=safetensors", "--opset=13"), "--opset: of ONNX graphs"),
        (("--format=torch", "--quantize=int8"), "--quantize: of ONNX graphs"),
        (("--shapes=1",), "give sizes such as 1x621"),
        *(
            ((f"--shapes={wrong}",), "give sizes such as 1x621")
            for wrong in ("0x10", "1x0", "1x5x5", "-1x5", "1x99999999", "1\u0661x5")
        ),
        (("--stream_shapes=1x32",), "bidirectional and cannot stream"),
        (("--names=spect",), "give pairs such as features=spect"),
        (("--names=color=spect",), "no graph has an input or output 'color'"),
        (("--names=features=lengths",), "is the name of another"),
        (("--names=features=a;b",), "names have letters"),
        (("--results=nowhere.json",), "nowhere.json: No such file"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(export, arguments, message):
    ended, output = export("both", *arguments, data=False)
    assert ended.status == 1
    assert message in ended.err
    assert not output.exists()
    assert not list(output.parent.glob(".*"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", "{", "not JSON"),
        ("results.json", "[]", "no JSON object"),
        ("data.json", "{", "not JSON"),
        ("data.json", '{"content": 1}', "no record of data sets"),
        ("data.json", '{"content": {"splits": {"train": 1}}}', "no record of data sets"),
        ("data.json", '{"content": {"splits": {"train": []}, "large": {"train": ["a"]}}}', "no record of data sets"),
        ("calibration.json", "{", "not a calibration"),
        ("calibration.json", '{"calibrations": [{"slope": 1}]}', "not a calibration"),
    ],
)
def test_a_damaged_file_of_the_run_is_told_before_the_export(export, folder, name, content, message):
    run = folder / f"damaged-{abs(hash((name, content)))}"
    write_run(run, bidirectional=True)
    (run / name).write_text(content)
    ended, output = export(run.name, "--format=safetensors", data=False)
    assert ended.status == 1
    assert f"{run.name}/{name}: {message}" in ended.err
    assert not output.exists()


def test_the_calibration_of_the_run_is_taken_along(export, folder):
    run = folder / "calibrated"
    write_run(run, bidirectional=True)
    entry = {"slope": 2.0, "intercept": 0.5, "delay": 0.1, "weights": "of another checkpoint", "decoder": {}}
    (run / "calibration.json").write_text(json.dumps({"calibrations": [entry]}))
    ended, output = export(run.name, "--format=safetensors", data=False)
    assert ended.status == 0, ended.err
    assert (output / "calibration.json").read_bytes() == (run / "calibration.json").read_bytes()


def test_what_is_there_is_not_overwritten(export, folder):
    ended, output = export("both", "--format=safetensors")
    assert ended.status == 0
    before = (output / "model.safetensors").stat()
    ended, _ = export("both")
    assert ended.status == 1
    assert "is there already; give another folder" in ended.err
    assert (output / "model.safetensors").stat() == before


FAULTY = """
import sys
from ds2f.export import onnx_layers
onnx_layers.CEILING = 2.0  # of the clipped ReLU, which is 20
import runpy
sys.argv = ["launch/export.py", *sys.argv[1:]]
runpy.run_module("launch.export", run_name="__main__", alter_sys=True)
"""


def test_a_graph_that_differs_is_not_written(folder):
    arguments = ["--run_dir=both", "--output=exports/faulty", "--data_path=."]
    ended = subprocess.run(
        [sys.executable, "-c", FAULTY, *arguments], cwd=folder, env=variables(), capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "model.onnx: not written: its log-probabilities differ from the run's by" in ended.stderr
    assert not (folder / "exports/faulty").exists()
    assert not list((folder / "exports").glob(".faulty*"))


def test_the_exported_model_transcribes_as_the_run(launch, folder, export):
    wanted = launch("transcribe", "--run_dir=forward", "--device=cpu", "--apex.opt_level=O0", "2.wav", folder=folder)
    assert wanted.status == 0, wanted.err
    assert len(np.unique(list(wanted.out))) > 5
    for arguments in ((), ("--shapes=1x401,2x500",), ("--format=safetensors",)):
        ended, output = export("forward", *arguments)
        assert ended.status == 0, ended.err
        found = launch("transcribe", f"--run_dir={output}", "2.wav", folder=folder)
        assert (found.status, found.out) == (0, wanted.out), found.err
        output.rename(output.with_name(f"{output.name}-{len(arguments)}-{arguments[:1]}".replace("/", "")))
