"""How to use an exported model: the commands and the short programs on its page."""

import shlex
from collections.abc import Sequence
from typing import Literal, NamedTuple

from ds2f.config import Config
from ds2f.export.quoting import block, code, plain
from ds2f.files import json_text

Form = Literal["onnx", "safetensors", "torch"]


class Interface(NamedTuple):
    """Format, inputs and outputs of an exported model."""

    form: Form
    file: str  # of the model; of several, the first
    inputs: tuple[str, ...] = ("features", "lengths")  # names in ONNX; of a streaming graph with its states
    outputs: tuple[str, ...] = ("log_probs", "output_lengths")
    dtype: str = "float32"  # inside the model; inputs and outputs are float32
    opset: int | None = None
    batch: int | None = None  # None: any
    longest: int | None = None  # frames of features, or samples; None: any number
    from_samples: bool = False  # the model computes its features: it takes samples
    streaming: bool = False  # the model advances streams by blocks
    others: tuple[str, ...] = ()  # further graphs of other fixed sizes
    streams: tuple[str, ...] = ()  # graphs beside it that advance streams by blocks


def use(interface: Interface, cfg: Config) -> str:
    """The section "Use" of the page, in Markdown."""
    if interface.from_samples:
        page = "ds2f computes features itself: its commands refuse this graph, which is for other programs.\n"
    else:
        page = "In ds2f, this folder takes the place of the folder of a run:\n\n" + block(
            _commands(interface, cfg), "bash"
        )
    if interface.form == "onnx":
        page, program = page + _contract(interface, cfg), _onnx(interface, cfg)
    else:
        program = _safetensors(interface.file) if interface.form == "safetensors" else _torch(interface, cfg)
    return page + "\nIn a program without ds2f:\n\n" + block(program, "python")


def _commands(interface: Interface, cfg: Config) -> list[str]:
    """Lines for a shell. The name ds2f of a public index may be another project's, so its source is installed."""
    extra = "" if interface.form == "torch" else "[export]"
    commands = [f'pip install -e ".{extra}"  # in the source of ds2f']
    if not interface.streaming:
        commands += [
            "python -m launch.transcribe --run_dir=FOLDER recording.wav",
            "python -m launch.evaluate --run_dir=FOLDER --manifest=MANIFEST",
        ]
    if interface.streaming or interface.streams or (interface.form == "safetensors" and not cfg.model.bidirectional):
        commands.append("python -m launch.transcribe --run_dir=FOLDER --stream recording.wav")
    return commands


def shell_line(words: Sequence[str]) -> str:
    """A command in one line; words with spaces, quotes or escape codes are quoted."""
    return plain(shlex.join(plain(word) for word in words), longest=4000)


def _contract(interface: Interface, cfg: Config) -> str:
    """Inputs and outputs in words."""
    inside = f"opset {interface.opset}, {interface.dtype} inside" if interface.opset else f"{interface.dtype} inside"
    inputs, outputs = (", ".join(map(code, names)) for names in (interface.inputs, interface.outputs))
    if interface.streaming:
        return f"\nInputs: {inputs}. Outputs: {outputs} ({inside}); each state comes out and goes in again.\n"
    first = "[B, N] float32, samples of full scale 1" if interface.from_samples else "[B, bins, frames] float32"
    unit = "samples" if interface.from_samples else "frames"
    return (
        f"\nInputs: {inputs}, which are {first}, padded with zeros, and [B] int32, {unit} of each. Outputs: {outputs}, "
        f"which are [B, T', {len(cfg.model.labels)}] float32, natural logarithms of probabilities, and [B] int32, "
        f"frames of each; what follows them has no meaning ({inside}).\n" + _beside(interface)
    )


def _beside(interface: Interface) -> str:
    """The other graphs of the folder."""
    page = ""
    if interface.others:
        page += f"\nThe same for other sizes: {', '.join(map(code, interface.others))}.\n"
    if interface.streams:
        page += (
            f"\nFor streams: {', '.join(map(code, interface.streams))}. The features of a block, `lengths`, `position` "
            "and the state go in, `log_probs`, `begin` and the next state come out; `ds2f/export/onnx_streaming.py` "
            "tells their sizes, and what a first and a last block are.\n"
        )
    return page


def _onnx(interface: Interface, cfg: Config) -> list[str]:
    lines = [
        "import numpy as np",
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession({_literal(interface.file)}, providers=["CPUExecutionProvider"])',
        "for value in (*session.get_inputs(), *session.get_outputs()):",
        "    print(value.name, value.type, value.shape)",
        'print(session.get_modelmeta().custom_metadata_map.get("ds2f.run"))',
    ]
    if interface.streaming:
        return [line for line in lines if "numpy" not in line]
    batch, size = interface.batch or 1, interface.longest or (cfg.spect.sample_rate if interface.from_samples else 300)
    shape = (batch, size) if interface.from_samples else (batch, cfg.spect.num_bins, size)
    values, lengths = map(_literal, interface.inputs[:2])
    names = ", ".join(map(_literal, interface.outputs[:2]))
    return [
        *lines,
        f"values = np.zeros({shape}, np.float32)  # {'samples' if interface.from_samples else 'features'} of silence",
        f"lengths = np.full({batch}, {size}, np.int32)",
        f"feeds = {{{values}: values, {lengths}: lengths}}",
        f"log_probs, output_lengths = session.run([{names}], feeds)",
        "best = log_probs[0, : output_lengths[0]].argmax(axis=1)  # labels; join equal ones and drop blanks",
    ]


def _safetensors(file: str) -> list[str]:
    return [
        "from safetensors import safe_open",
        "",
        f'with safe_open({_literal(file)}, framework="np") as weights:',
        '    print(weights.metadata()["ds2f.run"])',
        "    for name in weights.keys():",
        "        print(name, weights.get_tensor(name).shape)",
    ]


def _torch(interface: Interface, cfg: Config) -> list[str]:
    batch, frames = interface.batch or 2, interface.longest or 240  # of any size: two utterances or more
    return [
        "import torch",
        "",
        'described = {"ds2f.run": ""}  # load fills it; it executes what a file names: load files that you trust',
        f"program = torch.export.load({_literal(interface.file)}, extra_files=described)",
        f"features = torch.zeros({batch}, {cfg.spect.num_bins}, {frames})  # [B, bins, frames], of silence",
        f"lengths = torch.full(({batch},), {frames})  # frames",
        "log_probs, output_lengths = program.module()(features, lengths)",
        'print(described["ds2f.run"], log_probs.shape, output_lengths)',
    ]


def _literal(text: str) -> str:
    """A text as a string of Python."""
    return json_text(plain(text), ascii_only=False)
