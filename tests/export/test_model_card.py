"""The page beside an exported model: read by readers of YAML and of Markdown, and its programs run."""

import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import yaml
from drawn_models import drawn
from markdown_it import MarkdownIt
from onnx import TensorProto, helper, numpy_helper

from ds2f.checkpoint import safetensors_file
from ds2f.checkpoint.exported import About, weights_digest
from ds2f.config import AugmentationConfig, Config, DataConfig, ModelConfig, OptimConfig, SpectConfig, TrainingConfig
from ds2f.export import model_card, torch_program
from ds2f.export.card_examples import Interface
from ds2f.export.card_training import SetSize
from ds2f.export.model_card import File, Measured

HOSTILE = (
    "a\"b'|<img src=x onerror=alert(1)>`` ``` **b** [l](http://e.com)\n---\nlicense: mit\x1b[2J\u202e\udce9\ufeff\\"
)
CFG = Config(
    model=ModelConfig(hidden_size=384, hidden_layers=3),
    data=DataConfig(dataset="tones", train_on_val=False),
    augmentation=AugmentationConfig(speeds=(0.9, 1.0)),
    optim=OptimConfig(nesterov=False),
)
RESULTS = {
    "seed": 7,
    "epochs": 6,
    "steps": 2400,
    "batch_size": 16,
    "device": "CPU (AVX2), 1 threads",
    "manifests": {"test": "tones_test_manifest.csv"},
    "test": {"wer": 4.7865, "cer": 2.9657, "word_errors": 37, "words": 773, "char_errors": 57, "chars": 1922},
}
FILES = [File("model.onnx", 12_345_678, "ab" * 32), File("calibration.json", 300, "cd" * 32)]


def about(results=RESULTS, *, cfg=CFG, run="tones_1p", which="best"):
    return About(cfg, "0123456789abcdef" * 2, run, which, results)


def page(given=None, **options):
    usual = {"interface": Interface("onnx", "model.onnx", opset=17), "files": FILES, "command": ["python", "-m", "x"]}
    return model_card.text(given or about(), **(usual | options))


def front_matter(text):
    before, matter, _ = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    assert before == ""
    return yaml.safe_load(matter)


def rendered(text):
    return MarkdownIt("commonmark").enable("table").parse(text.split("\n---\n", 1)[1])


def cells(text, heading):
    """The rows of the table that begins with a heading, as a reader shows them."""
    rows, row = [], []
    for token in rendered(text):
        if token.type == "tr_open":
            row = []
        elif token.type == "inline" and token.level >= 4:
            row.append("".join(child.content for child in token.children))
        elif token.type == "tr_close":
            rows.append(row)
    start = next(index for index, found in enumerate(rows) if found[0] == heading)
    width = len(rows[start])
    return [found for found in rows[start:] if len(found) == width]


def test_the_front_matter_is_that_of_hugging_face():
    found = front_matter(page(languages=["en", "no"], data_license="CC-BY-4.0"))
    assert found["license"] == "cc-by-4.0"
    assert found["language"] == ["en", "no"]
    assert (found["pipeline_tag"], found["library_name"]) == ("automatic-speech-recognition", "ds2f")
    assert set(found["tags"]) >= {"deepspeech2", "onnx"}
    assert found["metrics"] == ["wer", "cer"]
    (entry,) = found["model-index"]
    assert entry["name"] == "tones_1p"
    (result,) = entry["results"]
    assert result["task"] == {"type": "automatic-speech-recognition"}
    assert result["dataset"] == {"name": "tones", "type": "tones", "split": "test"}
    assert result["metrics"] == [{"type": "wer", "value": 4.7865}, {"type": "cer", "value": 2.9657}]


def test_a_licence_that_is_not_stated_or_no_identifier():
    assert front_matter(page())["license"] == "unknown"
    assert "Licence of the data: not stated" in page()
    found = front_matter(page(data_license="ask: the BBC"))
    assert (found["license"], found["license_name"]) == ("other", "ask: the BBC")


def test_small_rates_stay_numbers_and_missing_ones_are_left_out():
    results = {"test": {"wer": 1e-05, "cer": None}, "val": {"wer": "nan", "cer": True}}
    (entry,) = front_matter(page(about(results)))["model-index"][0]["results"]
    assert entry["metrics"] == [{"type": "wer", "value": 0.0}]
    assert "model-index" not in front_matter(page(about({})))


def test_results_have_the_intervals_that_are_stored_and_say_where_there_are_none():
    stored = RESULTS | {"intervals_95": {"test": {"wer": [3.1, 6.62], "cer": None}}}
    rows = cells(page(about(stored)), "set")
    assert rows[1] == ["test", "WER", "4.79 %", "3.10 to 6.62 %", "37 of 773"]
    assert rows[2] == ["test", "CER", "2.97 %", "not computed", "57 of 1,922"]
    assert "launch.evaluate" in page(about(stored)).partition("## Results")[2].partition("## Data")[0]
    both = RESULTS | {"intervals_95": {"test": {"wer": [3.1, 6.62], "cer": [2, 4]}}}
    assert "launch.evaluate" not in page(about(both)).partition("## Results")[2].partition("## Data")[0]
    assert "No error rates are stored" in page(about({}))


def test_the_decoder_of_the_results():
    assert "Decoding: greedy." in page()
    assert "Decoding: with the language model `lm.arpa`." in page(about(RESULTS | {"lm": {"path": "lm.arpa"}}))


def test_data_is_as_far_as_it_is_known():
    assert "An epoch had about 6,400 utterances" in page()
    text = page(data={"train": SetSize(948, 1.25)})
    assert "An epoch had about" not in text
    rows = [row for row in cells(text, "set") if row[0] in ("train", "test")]
    assert ["train", "not known", "948", "1.25", "not known"] in rows
    assert ["test", "tones_test_manifest.csv", "not known", "not known", "773"] in rows


def test_the_recipe_is_a_flagfile_of_what_differs():
    recipe = page().partition("## Recipe")[2].partition("```text\n")[2].partition("```")[0].splitlines()
    assert set(recipe) == {
        "--model.hidden_size=384",
        "--model.hidden_layers=3",
        "--data.dataset=tones",
        "--augmentation.speeds=0.9,1.0",
        "--nooptim.nesterov",
    }
    assert "# none" in page(about(cfg=Config()))


def test_limits_follow_the_model():
    cfg = Config(spect=SpectConfig(sample_rate=8000, normalize="bins"))
    text = page(about(cfg=cfg), interface=Interface("onnx", "model_1x621.onnx", batch=1, longest=621))
    assert "converted to 8,000 Hz; nothing above 4,000 Hz" in text
    assert "`model_1x621.onnx` takes 621 frames at most, 6.20 s" in text
    assert "colour of microphone" in text
    assert "any length" in page()
    samples = Interface("onnx", "model_2x48000.onnx", batch=2, longest=48000, from_samples=True)
    assert "takes 48,000 samples at most, 3.00 s" in page(interface=samples)


def test_size_speed_and_digests():
    measured = Measured(0.31, 0.05, 12.0, "AMD EPYC 7B13", 2, "onnx")
    text = page(measured=measured)
    assert "12.3 MB in all" in text
    assert "on `AMD EPYC 7B13` with 2 threads by `onnx`: loaded in 0.31 s; 12.0 s of sound" in text
    assert "in 0.60 s (real-time factor 0.050)" in text
    assert "(real-time factor 0.050; with 8 at a time 0.012)" in page(measured=measured._replace(batched=(8, 0.0123)))
    assert ["model.onnx", "12,345,678", "ab" * 32] in cells(text, "file")
    assert "The speed was not measured" in page()


def hostile_page():
    cfg = Config(
        model=ModelConfig(labels=("_", "`", "|", "<", " ")),
        data=DataConfig(dataset=HOSTILE.replace("\udce9", "").replace("\n", " ")),
        augmentation=AugmentationConfig(noise_dir="<b>``` x`|"),
        training=TrainingConfig(seed=3),
    )
    results = {
        "device": HOSTILE,
        "seed": [HOSTILE, {HOSTILE: 1e400}],
        "manifests": {HOSTILE: HOSTILE},
        "test": {"wer": 3.0, "words": HOSTILE, "word_errors": 10**400},
        "intervals_95": {"test": {"wer": [HOSTILE, 2]}},
        "lm": {"path": HOSTILE},
    }
    names = (HOSTILE, HOSTILE + "2")
    return page(
        about(results, cfg=cfg, run=HOSTILE, which=HOSTILE),
        interface=Interface("onnx", HOSTILE, inputs=names, outputs=names, dtype="float16", opset=13),
        files=[File(HOSTILE, 1, "0" * 64)],
        command=["python", "-m", "launch.export", HOSTILE],
        measured=Measured(1.0, 1.0, 1.0, HOSTILE, 1, HOSTILE),
        data={HOSTILE: SetSize(1, 1.0)},
        data_license=HOSTILE,
        languages=["en", HOSTILE],
    )


def test_hostile_values_do_not_change_the_front_matter():
    found = front_matter(hostile_page())
    assert found["license"] == "other"
    assert found["license_name"].startswith("a\"b'|<img")
    assert "\\x0a---" in found["license_name"]
    assert found["language"] == ["en"]
    assert found["model-index"][0]["name"].endswith("\\x1b[2J\\u202e\\xe9\\ufeff\\")


def test_hostile_values_are_text_in_the_page():
    text = hostile_page()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ufeff\ud800-\udfff]", text)
    tokens = rendered(text)
    inline = [child for token in tokens for child in token.children or ()]
    assert not {token.type for token in tokens} & {"html_block", "hr", "lheading_open"}
    assert not {token.type for token in inline} & {"html_inline", "link_open", "image", "strong_open", "em_open"}
    headings = [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]
    sections = ["Use", "Results", "Data", "Recipe", "Features and labels", "Limits", "Size and speed", "Files"]
    assert headings[1:] == sections, "no value begins a section"
    spans = [child.content for child in inline if child.type == "code_inline"]
    shown = HOSTILE.replace("\n", "\\x0a").replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    shown = shown.replace("\udce9", "\\xe9").replace("\ufeff", "\\ufeff")
    assert spans.count(shown) >= 8, "a reader shows the value itself"


def test_an_endless_value_is_cut():
    text = page(about(RESULTS | {"device": "x" * 10**6}))
    assert len(text) < 20_000
    assert "x" * 1000 + "…" in text


def programs(text, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def export(path, names, *, lengths_scale=2, shape=("b", 161, "t")):
    """A graph with the model's interface: random log-probabilities, one frame for two."""
    weight = np.random.default_rng(0).normal(size=(161, 29)).astype(np.float32)
    features, lengths, log_probs, output_lengths = names
    nodes = [
        helper.make_node("Transpose", [features], ["swapped"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["swapped", "w"], ["scores"]),
        helper.make_node("LogSoftmax", ["scores"], [log_probs], axis=2),
        helper.make_node("Div", [lengths, "two"], [output_lengths]),
    ]
    inputs = [
        helper.make_tensor_value_info(features, TensorProto.FLOAT, shape),
        helper.make_tensor_value_info(lengths, TensorProto.INT32, ["b"]),
    ]
    outputs = [
        helper.make_tensor_value_info(log_probs, TensorProto.FLOAT, None),
        helper.make_tensor_value_info(output_lengths, TensorProto.INT32, None),
    ]
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.int32(lengths_scale), "two")]
    graph = helper.make_graph(nodes, "model", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"ds2f.run": "tones_1p"})
    onnx.save(model, path)


@pytest.mark.parametrize("names", [("features", "lengths", "log_probs", "output_lengths"), ("x", "n'", "y\\", 'z"')])
def test_the_program_for_onnxruntime_runs_as_it_stands(tmp_path, names):
    export(tmp_path / "model.onnx", names)
    (program,) = programs(page(interface=Interface("onnx", "model.onnx", names[:2], names[2:], opset=13)))
    assert len(program.splitlines()) <= 12
    command = [sys.executable, "-c", program + "print(best.shape)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == list(names)
    assert lines[4:] == ["tones_1p", "(150,)"]


def test_the_program_has_the_shape_of_a_fixed_graph_and_none_of_a_stream():
    fixed = page(interface=Interface("onnx", "model_8x621.onnx", batch=8, longest=621))
    assert "np.zeros((8, 161, 621), np.float32)" in fixed
    samples = page(interface=Interface("onnx", "model.onnx", from_samples=True))
    assert "np.zeros((1, 16000), np.float32)" in samples
    of_a_size = Interface("onnx", "model_2x48000.onnx", batch=2, longest=48000, from_samples=True)
    assert "np.zeros((2, 48000), np.float32)" in page(interface=of_a_size)
    assert "full scale 1" in samples
    stream = page(interface=Interface("onnx", "stream.onnx", streaming=True))
    assert "--stream recording.wav" in stream
    compile(programs(stream)[0], "page", "exec")
    assert "session.run" not in stream


@pytest.mark.parametrize(
    ("form", "file", "shape"),
    [
        ("safetensors", "model.safetensors", None),
        ("torch", "model.pt2", None),
        ("torch", "model_1x60.pt2", (1, 60)),
    ],
)
def test_the_program_for_another_format_runs_as_it_stands(tmp_path, form, file, shape):
    cfg, params, stats = drawn(hidden_size=4, hidden_layers=1, bidirectional=False)
    described = About(cfg, weights_digest(params, stats), "tones_1p", "best", {})
    if form == "torch":
        torch_program.write(tmp_path / file, described, params, stats, shape=shape)
    else:
        safetensors_file.write(tmp_path / file, described, params, stats)
    batch, frames = shape or (None, None)
    text = page(described, interface=Interface(form, file, batch=batch, longest=frames))
    assert front_matter(text)["tags"][-1] == form
    (program,) = programs(text)
    assert len(program.splitlines()) <= 10
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "tones_1p" in done.stdout
    if form == "torch":
        assert f"torch.Size([{batch or 2}, {(frames or 240) // 2}, 29])" in done.stdout


def test_commands_are_those_that_take_the_export():
    def commands(interface, cfg=CFG):
        return programs(page(about(cfg=cfg), interface=interface).partition("## Results")[0], "bash")

    (both,) = commands(Interface("onnx", "model.onnx"))
    assert "launch.transcribe" in both
    assert "--stream" not in both
    assert "pip install -e" in both, "an index may hold another project of that name"
    (streams,) = commands(Interface("onnx", "model.onnx", streams=("stream.onnx",)))
    assert "--stream recording.wav" in streams
    forward = Config(model=ModelConfig(bidirectional=False))
    assert "--stream recording.wav" in commands(Interface("safetensors", "model.safetensors"), forward)[0]
    assert "--stream" not in commands(Interface("torch", "model.pt2"), forward)[0]
    assert commands(Interface("onnx", "model.onnx", from_samples=True)) == [], "commands refuse it"


def test_every_graph_of_the_folder_has_a_word():
    text = page(interface=Interface("onnx", "model_1x9.onnx", others=("model_8x9.onnx",), streams=("stream.onnx",)))
    assert "The same for other sizes: `model_8x9.onnx`." in text
    assert "For streams: `stream.onnx`." in text
    assert "For streams" not in page()


def test_rates_of_the_run_are_not_taken_for_those_of_a_rounded_model():
    found = "model.onnx: 22 of 24 transcripts"
    rounded = page(interface=Interface("onnx", "model.onnx", dtype="int8"), checks=[found])
    section = rounded.partition("## Results")[2].partition("## Data")[0]
    assert "This model computes with `int8`: `launch.evaluate` tells" in section
    assert found in section
    assert "This model computes with" not in page()


def test_the_command_is_one_line_that_a_shell_takes_apart_again():
    words = ["python", "-m", "launch.export", "--run_dir=runs/a b", "--output=it's"]
    (made,) = programs(page(command=words).partition("Made by")[2], "bash")
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {made}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == words
