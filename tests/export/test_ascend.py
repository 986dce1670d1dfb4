"""The folder ``ascend`` as a user runs it, with stand-ins for atc, ais_bench and pyACL that compute by onnxruntime."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import attrs
import onnx
import pytest
import soundfile
import speaking_model
from speaking_model import BOTH_WAYS, RATE, sound

from ds2f.checkpoint.exported import About, weights_digest
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.export import ascend, fixed_shapes, om_run, onnx_file
from ds2f.export.ascend import AscendExport, Shape
from ds2f.export.onnx_model import OnnxOptions, build
from ds2f.inference import Recognizer
from ds2f.metrics import ErrorCounts, count_errors
from ds2f.runner.device.backend import open_backend

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHAPES = (Shape(2, 101), Shape(1, 101), Shape(1, 201))
ATC = """#!{python}
import json, os, shutil, sys
import onnx
flags = dict(each.lstrip("-").split("=", 1) for each in sys.argv[1:])
with open(os.environ["ATC_CALLS"], "a") as file:
    file.write(json.dumps(flags) + "\\n")
graph = onnx.load(flags["model"]).graph
declared = {{value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.input}}
given = dict(each.split(":") for each in flags["input_shape"].split(";"))
if {{name: list(map(int, sizes.split(","))) for name, sizes in given.items()}} != declared:
    sys.exit(f"ATC: {{given}} is not {{declared}}")
shutil.copy(flags["model"], flags["output"] + ".om")
"""


def exported(folder, *, dtype="float32", scale=1.0, names=None, shapes=SHAPES):
    """Writes an export with its folder ``ascend``; returns the latter."""
    params, stats = speaking_model.model(bidirectional=True)
    if scale != 1:
        params = params | {"output": params["output"] | {"weight": params["output"]["weight"] * scale}}
    names = names or {}
    about = About(BOTH_WAYS, weights_digest(params, stats), "talker", "best", {})
    (folder / "ascend").mkdir(parents=True)
    for shape in shapes:
        options = OnnxOptions(opset=13, dtype=dtype, batch=shape.batch, frames=shape.frames, names=names)
        form = onnx_file.Form(options)
        graph = build(BOTH_WAYS, params, stats, options, metadata=onnx_file.metadata(about, form))
        onnx_file.write(folder / shape.onnx, graph)
    chosen = [names.get(name, name) for name in ("features", "lengths", "log_probs", "output_lengths")]
    export = AscendExport(
        about=about, shapes=shapes, opset=13, dtype=dtype, inputs=tuple(chosen[:2]), outputs=tuple(chosen[2:])
    )
    for name, text in ascend.contents(export).items():
        (folder / "ascend" / name).write_text(text, encoding="utf-8")
    return folder / "ascend"


@pytest.fixture(scope="module")
def atc(tmp_path_factory):
    """A folder with a program ``atc`` that checks its shapes and copies the graph; it notes its flags in ``calls``."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "atc").write_text(ATC.format(python=sys.executable), encoding="utf-8")
    (folder / "atc").chmod(0o755)
    return folder


def compile_graphs(folder, atc, *flags):
    environment = os.environ | {"PATH": f"{atc}:{os.environ['PATH']}", "ATC_CALLS": str(folder / "calls")}
    command = ["bash", str(folder / "atc.sh"), *flags]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


def run(script, *arguments, libraries=("without_cann",), **environment):
    """Runs a script of the folder with the stand-ins of some libraries."""
    path = os.pathsep.join([str(ROOT), *(str(HERE / name) for name in libraries)])
    variables = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | environment
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)


class Ended(NamedTuple):
    """How a script has ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_here(monkeypatch, capsys):
    """As ``run``, but in this process, which has imported torch already."""

    def call(script, *arguments, libraries=("without_cann",)):
        with monkeypatch.context() as patched:
            for name in [name for name in sys.modules if name.split(".")[0] in ("ais_bench", "acl")]:
                patched.delitem(sys.modules, name)
            for name in libraries:
                patched.syspath_prepend(str(HERE / name))
            patched.setattr(sys, "argv", [str(script), *map(str, arguments)])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(script), run_name="__main__")
        for name in [name for name in sys.modules if name.split(".")[0] in ("ais_bench", "acl")]:
            del sys.modules[name]
        out, err = capsys.readouterr()
        code = ended.value.code
        return Ended(1, out, f"{err}{code}\n") if isinstance(code, str) else Ended(code, out, err)

    return call


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, atc):
    folder = exported(tmp_path_factory.mktemp("export") / "talker")
    assert compile_graphs(folder, atc, "Ascend310P3").returncode == 0
    return folder


def with_torch():
    """What torch makes of recordings, cut as the scripts cut them."""
    engine = om_run.recognizer(BOTH_WAYS, fixed_shapes.FixedShapes(BOTH_WAYS, dict.fromkeys(SHAPES), name="none"))
    cut = engine._cut
    params, stats = speaking_model.model(bidirectional=True)
    cfg = attrs.evolve(BOTH_WAYS, apex=attrs.evolve(BOTH_WAYS.apex, opt_level="O0"))
    return Recognizer(cfg, params, stats, backend=open_backend("cpu"), cut=cut)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Recordings of half a second to six, the text of each by torch, and a manifest with two wrong transcripts."""
    folder = tmp_path_factory.mktemp("corpus")
    texts, rows = {}, []
    for index, seconds in enumerate((0.5, 0.99, 0.7, 1.0, 1.6, 2.0, 6.0)):
        path = folder / f"{index}.wav"
        soundfile.write(path, sound(seconds, seed=index), RATE, subtype="FLOAT")
        texts[path] = with_torch().transcribe(str(path)).text
        said = "A " + texts[path] if index in (1, 4) else texts[path]
        (folder / f"{index}.txt").write_text(said + "\n", encoding="utf-8")
        rows.append(f"{index}.wav,{index}.txt\n")
    (folder / "test.csv").write_text("".join(rows), encoding="utf-8")
    assert len(set(texts.values())) == len(texts), "the model says something"
    return folder, texts


def test_atc_is_called_for_every_graph_with_the_flags_of_its_documents(compiled):
    calls = [json.loads(line) for line in (compiled / "calls").read_text().splitlines()]
    assert [Path(call["model"]).resolve() for call in calls] == [(compiled.parent / each.onnx) for each in SHAPES]
    assert [call["output"] + ".om" for call in calls] == [str(compiled / each.om) for each in SHAPES]
    assert calls[0]["input_shape"] == "features:2,21,101;lengths:2"
    for call in calls:
        assert (call["framework"], call["soc_version"], call["input_format"]) == ("5", "Ascend310P3", "ND")


def test_further_flags_reach_atc_and_its_failure_ends_the_script(tmp_path, atc):
    folder = exported(tmp_path / "a b'c", shapes=SHAPES[:2], names={"features": "x.1", "lengths": "n"})
    done = compile_graphs(folder, atc, "Ascend910B", "--precision_mode=must_keep_origin_dtype")
    assert done.returncode == 0, done.stderr
    first = json.loads((folder / "calls").read_text().splitlines()[0])
    assert first["precision_mode"] == "must_keep_origin_dtype"
    assert first["input_shape"] == "x.1:2,21,101;n:2"
    (folder / "calls").unlink()
    graph = onnx.load(folder.parent / SHAPES[0].onnx)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(graph, folder.parent / SHAPES[0].onnx)
    done = compile_graphs(folder, atc, "Ascend910B")
    assert done.returncode == 1
    assert len((folder / "calls").read_text().splitlines()) == 1


def test_the_script_says_how_it_is_called_and_what_is_missing(tmp_path):
    script = exported(tmp_path / "export", shapes=SHAPES[:1]) / "atc.sh"
    for wrong in ([], ["--soc_version=Ascend310P3"]):
        done = subprocess.run(["bash", script, *wrong], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "usage: bash atc.sh SOC_VERSION" in done.stderr
    if shutil.which("atc"):
        pytest.skip("CANN is installed")
    done = subprocess.run(["bash", script, "Ascend310P3"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "source CANN's set_env.sh" in done.stderr


@pytest.mark.parametrize(
    ("libraries", "environment"),
    [
        (["without_cann"], {"AIS_BENCH_REVERSED": "1"}),
        (["without_cann_acl"], {}),
    ],
)
def test_recordings_have_the_text_that_torch_gives_them(compiled, corpus, libraries, environment):
    _, texts = corpus
    done = run(compiled / "infer_om.py", *texts, libraries=libraries, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert dict(line.split("\t") for line in done.stdout.splitlines()) == {str(k): v for k, v in texts.items()}


def test_a_recording_that_cannot_be_read_is_reported_and_the_others_go_on(compiled, corpus, tmp_path, run_here):
    (tmp_path / "bad\x1b.wav").write_text("no sound")
    good = next(iter(corpus[1]))
    done = run_here(compiled / "infer_om.py", tmp_path / "bad\x1b.wav", tmp_path / "none.wav", good)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert "\x1b" not in done.stderr
    assert done.stdout == f"{good}\t{corpus[1][good]}\n"


def test_a_manifest_is_evaluated(compiled, corpus, tmp_path):
    folder, texts = corpus
    output = tmp_path / "heard.json"
    done = run(compiled / "infer_om.py", f"--manifest={folder / 'test.csv'}", f"--output={output}")
    assert (done.returncode, done.stderr) == (0, "")
    said = {path: path.with_suffix(".txt").read_text().strip() for path in texts}
    counts = sum((count_errors(said[path], texts[path]) for path in texts), ErrorCounts())
    assert 0 < counts.wer < 100
    assert f"om: WER {counts.wer:.3f} % (95 %: " in done.stdout
    assert f"{counts.word_errors} of {counts.words}), CER {counts.cer:.3f} %" in done.stdout
    assert "7 utterances, 12.8 s of sound" in done.stdout
    rows = json.loads(output.read_text())
    assert [(row["reference"], row["text"]) for row in rows] == [(said[path], texts[path]) for path in texts]


def test_equal_models_agree_in_everything(compiled, corpus, tmp_path):
    output = tmp_path / "agreement.json"
    done = run(compiled / "compare_om.py", f"--manifest={corpus[0] / 'test.csv'}", f"--output={output}")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(output.read_text())
    assert (found["same_percent"], found["largest"], found["broken"], found["equal_transcripts"]) == (100, 0, 0, 7)
    assert found["cosine"] == pytest.approx(1)
    assert found["onnx"] == found["om"]
    assert "the same best label in 100.000 %" in done.stdout
    assert "7 of 7 transcripts are equal" in done.stdout


def test_another_model_is_told(compiled, corpus, tmp_path, run_here):
    folder = tmp_path / "export"
    shutil.copytree(compiled.parent, folder)
    other = exported(tmp_path / "other", scale=-1.0)
    for shape in SHAPES:
        shutil.copy(other.parent / shape.onnx, folder / "ascend" / shape.om)
    done = run_here(
        folder / "ascend" / "compare_om.py", f"--manifest={corpus[0] / 'test.csv'}", libraries=["without_cann_acl"]
    )
    assert done.returncode == 1, done.stderr
    same = float(re.search(r"the same best label in ([\d.]+) %", done.stdout)[1])
    cosine = float(re.search(r"cosine similarity ([\d.]+)", done.stdout)[1])
    assert same < 50
    assert cosine < 0.9
    rates = re.findall(r"^(\w+): WER ([\d.]+) %", done.stdout, re.MULTILINE)
    assert [name for name, _ in rates] == ["onnx", "om"]
    assert float(rates[1][1]) > float(rates[0][1])


def test_half_precision_graphs_give_nearly_the_same(tmp_path, atc, corpus, run_here):
    folder = exported(tmp_path / "export", dtype="float16")
    assert compile_graphs(folder, atc, "Ascend310P3").returncode == 0
    single = exported(tmp_path / "single")
    for shape in SHAPES:
        shutil.copy(single.parent / shape.onnx, folder.parent / shape.onnx)
    done = run_here(folder / "compare_om.py", f"--manifest={corpus[0] / 'test.csv'}", "--least=95")
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(re.search(r"cosine similarity ([\d.]+)", done.stdout)[1]) > 0.999
    assert 0 < float(re.search(r"log-probability ([\d.]+)", done.stdout)[1]) < 1


def test_messages_where_something_is_missing(tmp_path, compiled, corpus, run_here):
    good = next(iter(corpus[1]))
    done = run_here(compiled / "infer_om.py", good, libraries=())
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs ais_bench, which cannot be imported" in done.stderr
    assert "needs acl, which cannot be imported" in done.stderr
    assert "source CANN's set_env.sh" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = run_here(compiled / "infer_om.py", good, "--device=3")
    assert "device 3 is not there" in done.stderr
    folder = exported(tmp_path / "export", shapes=SHAPES[:1])
    done = run_here(folder / "infer_om.py", good)
    assert f"compile the graphs: bash {folder / 'atc.sh'} SOC_VERSION" in done.stderr
    done = run_here(folder / "infer_om.py")
    assert done.returncode == 2
    assert "give recordings, or --manifest=FILE" in done.stderr


@pytest.mark.parametrize("function", ["init", "set_device", "load_from_file", "malloc", "memcpy", "execute"])
def test_errors_of_pyacl_are_told_and_everything_is_released(compiled, monkeypatch, function, capfd):
    monkeypatch.syspath_prepend(str(HERE / "without_cann_acl"))
    monkeypatch.delitem(sys.modules, "acl", raising=False)
    monkeypatch.setenv("ACL_FAILS", function)
    export = fixed_shapes.read(compiled)
    with (
        pytest.raises(InputError, match=rf"acl\.(rt\.|mdl\.)?{function}.* failed with error 507011 of CANN"),
        om_run.npu_engine(export, compiled, library="acl") as engine,
    ):
        om_run.recognizer(BOTH_WAYS, engine).transcribe(sound(1.0), rate=RATE)
    acl = sys.modules.pop("acl")
    assert acl._buffers == acl._datasets == acl._descriptions == {}
    assert "device 0" not in acl._reserved or function == "set_device"


def test_a_model_with_other_inputs_is_refused(tmp_path, atc, compiled, run_here):
    folder = exported(tmp_path / "export", names={"features": "spect"})
    for shape in SHAPES:
        shutil.copy(compiled / shape.om, folder / shape.om)
    done = run_here(folder / "infer_om.py", "x.wav")
    assert done.returncode == 1
    assert "its inputs are features, lengths, and spect, lengths are expected" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.update(format=2), "format 2, and this version of ds2f reads 1; update ds2f"),
        (lambda found: found.update(shapes=[[0, 5]]), "a shape is out of range"),
        (lambda found: found.update(shapes=[]), "names no shape"),
        (lambda found: found.pop("metadata"), "is damaged"),
        (lambda found: found.update(inputs=["a;b", "n"]), "letters, digits"),
        (lambda found: found["metadata"].pop("ds2f.config"), "ds2f.config is missing"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, change, message):
    folder = exported(tmp_path / "export", shapes=SHAPES[:1])
    found = json.loads((folder / "export.json").read_text())
    change(found)
    (folder / "export.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=re.escape(message)):
        fixed_shapes.read(folder)


def test_the_description_is_read_as_it_was_written(tmp_path):
    export = fixed_shapes.read(exported(tmp_path / "export", names={"log_probs": "scores"}))
    assert (export.shapes, export.opset, export.dtype) == (SHAPES, 13, "float32")
    assert (export.inputs, export.outputs) == (("features", "lengths"), ("scores", "output_lengths"))
    assert export.about.cfg.spect == BOTH_WAYS.spect
    with pytest.raises(InputError, match="no such file; it belongs to the folder ascend"):
        fixed_shapes.read(tmp_path)


def test_scripts_are_copied_as_they_are(tmp_path):
    folder = exported(tmp_path / "export", shapes=SHAPES[:1])
    for name in ("infer_om.py", "compare_om.py"):
        assert (folder / name).read_bytes() == (ROOT / "ds2f/export/scripts" / name).read_bytes()


@pytest.mark.parametrize("name", ["a b", "a;b", "a:b", "a,b", "", "1a", 'a"b', "$(x)"])
def test_names_that_would_break_the_flags_of_atc_are_refused(name):
    about = About(Config(), "0" * 32, "run", "best", {})
    with pytest.raises(InputError, match="letters, digits"):
        AscendExport(about=about, shapes=SHAPES, opset=13, dtype="float16", inputs=(name, "n"))


def test_the_page_names_shapes_limits_and_what_is_not_proven():
    about = About(Config(), "0" * 32, "<b>run`\n", "best", {})
    export = AscendExport(about=about, shapes=(Shape(8, 621),), opset=13, dtype="float16")
    page = ascend.contents(export)["README.md"]
    assert "| `model_8x621.onnx` | `model_8x621.om` | 8 | 621 | 6.20 |" in page
    assert "They rule out nothing in these graphs." in page
    assert page.startswith("# ``<b>run`\\x0a`` for Ascend NPUs")
    for unproven in ("whether ATC takes these graphs", "how accurate float16 is", "how fast the model is"):
        assert unproven in page
    page = ascend.contents(attrs.evolve(export, problems=("1 x RNN: not in the list",)))["README.md"]
    assert "- `1 x RNN: not in the list`" in page
