"""Runs and their exports as the model of transcribe, evaluate and serve, and what contradicts an export."""

import json
import shutil

import httpx
import pytest
import soundfile
from serving_process import serving, write_run
from speaking_model import CFG, RATE, model, sound

from ds2f.checkpoint import safetensors_file
from ds2f.checkpoint.exported import About, weights_digest
from ds2f.export import onnx_file, onnx_model, onnx_streaming, torch_program
from ds2f.export.onnx_file import Form
from ds2f.export.onnx_model import OnnxOptions
from ds2f.inference import calibration
from ds2f.inference.calibration import Measured
from ds2f.inference.confidence import Calibration

ANY, FIXED = (
    Form(OnnxOptions()),
    [Form(OnnxOptions(batch=rows, frames=frames)) for rows, frames in ((1, 101), (4, 301))],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a unidirectional model, its exports, and recordings of 2 s and of 20 s."""
    folder = tmp_path_factory.mktemp("models")
    write_run(folder / "run")
    params, stats = model()
    about = About(CFG, weights_digest(params, stats), NAME, "best", {})

    def graph(path, form):
        build = onnx_streaming.build if form.streams else onnx_model.build
        path.parent.mkdir(exist_ok=True)
        onnx_file.write(path, build(CFG, params, stats, form.options, metadata=onnx_file.metadata(about, form)))

    graph(folder / "onnx/model.onnx", ANY)
    graph(folder / "onnx/stream.onnx", ANY._replace(streams=True))
    for form in FIXED:
        graph(folder / f"fixed/model_{form.options.batch}x{form.options.frames}.onnx", form)
    for name, shapes in {"program": [None], "programs": [(1, 101), (4, 301)]}.items():
        (folder / name).mkdir()
        for shape in shapes:
            path = folder / name / f"model{'_{}x{}'.format(*shape) if shape else ''}.pt2"
            torch_program.write(path, about, params, stats, shape=shape)
    (folder / "safetensors").mkdir()
    safetensors_file.write(folder / "safetensors/model.safetensors", about, params, stats)
    soundfile.write(folder / "short.wav", sound(2, 1), RATE)
    soundfile.write(folder / "long.wav", sound(20, 2), RATE)
    return folder


@pytest.fixture
def run(launch, folder):
    def of(command, run_dir, *arguments):
        return launch(command, f"--run_dir={run_dir}", *arguments, folder=folder)

    return of


def transcripts(ended):
    assert (ended.status, ended.err) == (0, "")
    return [json.loads(line) for line in ended.out.splitlines()]


NAME, SHOWN = "run\x1b[2J", r"run\x1b[2J"  # a file from outside may name itself as it likes
TORCH = ("--device=cpu", "--apex.opt_level=O0")
WORDS = ("--format=jsonl", "short.wav", "long.wav")


def test_every_form_of_a_model_has_the_same_words_at_the_same_times(run):
    expected = transcripts(run("transcribe", "run", *TORCH, *WORDS))
    assert len(expected[1]["text"]) > 10
    forms = [("run", "--engine=onnx"), ("onnx",), ("onnx/model.onnx", "--which=best"), ("safetensors",)]
    forms += [("program",), ("program/model.pt2", "--engine=torch"), ("safetensors/model.safetensors", "--engine=onnx")]
    for form in forms:
        found = transcripts(run("transcribe", *form, *WORDS))
        assert [each["text"] for each in found] == [each["text"] for each in expected], form
        for one, other in zip(found, expected, strict=True):
            places = [[(word["start"], word["end"]) for segment in each["segments"] for word in segment["words"]]
                      for each in (one, other)]  # fmt: skip
            assert places[0] == places[1], form


def test_a_stream_through_an_export_has_the_text_of_the_run(run):
    stream = ("--stream", "--nopaced", "short.wav")
    expected = run("transcribe", "run", *TORCH, *stream)
    assert expected.status == 0
    assert expected.out.strip()
    for form in (("run", "--engine=onnx"), ("onnx",)):
        assert run("transcribe", *form, *stream).out == expected.out
    refused = run("transcribe", "fixed", *stream)
    assert (refused.status, refused.out) == (1, "")
    assert "this export has no stream's graph" in refused.err


def test_long_recordings_are_cut_to_the_longest_shape(run, folder):
    pieces = ("--cutting=longest=3,shortest=0.75,overlap=0.75", *TORCH)
    expected = transcripts(run("transcribe", "run", *pieces, *WORDS))
    found = transcripts(run("transcribe", "fixed", *WORDS))
    assert [each["text"] for each in found] == [each["text"] for each in expected]
    assert found[1]["text"] != transcripts(run("transcribe", "run", *TORCH, *WORDS))[1]["text"]
    programs = transcripts(run("transcribe", "programs/model_4x301.pt2", *WORDS))
    assert [each["text"] for each in programs] == [each["text"] for each in expected]
    (folder / "parts.txt").write_text("long.wav 1 11\n")
    (within,) = transcripts(run("transcribe", "fixed", "--segments=parts.txt", "--format=jsonl", "long.wav"))
    assert within["segments"]


def test_an_evaluation_of_an_export_has_the_errors_of_the_run(run, folder):
    rows = []
    for name, text in (("short", "AB"), ("long", "BA" * 9)):
        (folder / f"{name}.txt").write_text(text)
        rows.append(f"{name}.wav,{name}.txt\n")
    (folder / "both.csv").write_text("".join(rows))
    found = {}
    lengths = ("--cutting=longest=3,shortest=0.75,overlap=0.75", *TORCH)
    for form, *more in (
        ("run", *lengths),
        ("fixed",),
        ("run", *TORCH),
        ("onnx",),
        ("run", "--engine=onnx"),
        ("program",),
    ):
        ended = run("evaluate", form, *more, "--manifest=both.csv", "--save_results=found.json", "--save_output=o.json")
        assert ended.status == 0, ended.err
        assert "\x1b" not in ended.out + ended.err
        found[form, *more] = json.loads((folder / "found.json").read_text()), (folder / "o.json").read_text()
    (cut, _), (fixed, _), (whole, texts), (onnx, same), (graph, _), (program, _) = found.values()
    assert (fixed["cut"], fixed["manifest"]) == (cut["cut"], cut["manifest"])
    assert fixed["cut"] == {"manifest": 1}
    assert onnx["manifest"] == whole["manifest"] == graph["manifest"] == program["manifest"]
    assert [each["transcript"] for each in json.loads(same)] == [each["transcript"] for each in json.loads(texts)]
    assert [each["engine"] for each in (whole, onnx, graph, program)] == ["torch", "onnx", "onnx", "pt2"]
    assert (onnx["name"], onnx["which"]) == (SHOWN, "best")


def test_a_calibration_beside_an_export_is_that_of_its_weights(run, folder):
    shutil.copytree(folder / "onnx", folder / "calibrated")
    params, stats = model()
    found = Measured(Calibration(2.0, -1.0, 0.05), words=10, right=5, onsets=3, before=0.0, after=0.1)
    path = calibration.write(folder / "calibrated", found, params, stats, which="best")
    plain, fitted = (transcripts(run("transcribe", form, *WORDS))[0] for form in ("onnx", "calibrated"))
    first, second = (each["segments"][0]["words"][0] for each in (plain, fitted))
    assert first["confidence"] != second["confidence"]
    path.write_text(path.read_text().replace(weights_digest(params, stats), "0" * 32))
    ended = run("transcribe", "calibrated/model.onnx", *WORDS)
    assert ended.status == 0
    assert "measured with another model" in ended.err
    assert "python -m launch.calibrate --run_dir=RUN" in ended.err
    assert "and export the run again" in ended.err


def test_a_server_answers_with_an_export(folder):
    with serving(folder, "--engine=auto", run="fixed") as server:
        with (folder / "long.wav").open("rb") as file:
            answer = httpx.post(f"{server.url}/v1/audio/transcriptions", files={"file": file}, timeout=60)
        names = [each["id"] for each in httpx.get(f"{server.url}/v1/models").json()["data"]]
        status = server.stop()
    assert answer.status_code == 200
    assert len(answer.json()["text"]) > 10
    assert names == [SHOWN]
    assert status == 0


@pytest.mark.parametrize(
    ("command", "flags", "expected"),
    [
        ("transcribe", "--run_dir=onnx --engine=torch", "onnx is a graph for onnxruntime; leave --engine out"),
        ("transcribe", "--run_dir=program --engine=onnx", "program is a program of torch; leave --engine out"),
        ("evaluate", "--run_dir=programs", "name one of them: --run_dir=programs/model_4x301.pt2"),
        ("evaluate", "--run_dir=program --apex.dtype=fp16", "--apex.dtype is of the weights of a run in torch"),
        ("serve", "--run_dir=onnx --which=last", "onnx holds the checkpoint best: leave it out, or give the run"),
        ("transcribe", "--run_dir=safetensors --which=3", "holds the checkpoint best"),
        ("evaluate", "--run_dir=onnx --device=cuda", "--device=cuda is of the weights of a run in torch"),
        ("evaluate", "--run_dir=run --engine=onnx --device=npu", "leave it out, or give the run and --engine=torch"),
        ("transcribe", "--run_dir=run --engine=onnx --apex.opt_level=O1", "launch.export has --dtype=float16"),
        ("transcribe", "--run_dir=fixed --cutting=longest=10", "the exported model takes 3.00 s at once"),
        ("transcribe", "--run_dir=short.wav", "short.wav is no export (.onnx, .pt2, .safetensors)"),
        ("transcribe", "--run_dir=recordings", "or the --output of an export"),
        ("evaluate", "--run_dir=several", "name one of them: --run_dir=several/model.onnx or --run_dir=several/"),
        (
            "transcribe",
            "onnx/model.onnx",
            "--run_dir is missing: give the folder of a trained run, such as --run_dir=onnx/",
        ),
        ("calibrate", "--run_dir=onnx", "needs them: give the run, or an export of --format=safetensors"),
        ("transcribe", "--run_dir=damaged.onnx", "damaged.onnx: not a file of ONNX"),
    ],
)
def test_what_contradicts_an_export_is_refused_with_a_remedy(launch, folder, command, flags, expected):
    (folder / "recordings").mkdir(exist_ok=True)
    (folder / "several").mkdir(exist_ok=True)
    shutil.copy(folder / "onnx/model.onnx", folder / "several")
    shutil.copy(folder / "safetensors/model.safetensors", folder / "several")
    (folder / "damaged.onnx").write_bytes((folder / "onnx/model.onnx").read_bytes()[:-100])
    given = ["short.wav"] if command == "transcribe" else []
    ended = launch(command, *flags.split(), *given, folder=folder)
    assert ended.status == 1
    assert expected in ended.err, ended.err
    assert ended.err.count("\n") == 1
