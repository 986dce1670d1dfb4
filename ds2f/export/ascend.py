"""The folder ``ascend`` beside graphs of fixed shapes: what compiles them for an NPU, runs them and compares them.

Everything here is text, made from options; nothing imports onnx or CANN. The scripts are files of this package,
``ds2f/export/scripts``, and are copied as they are: shapes and names come from ``export.json`` beside them.
"""

import re
import shlex
from importlib import resources

import attrs

from ds2f.checkpoint.exported import About, to_metadata
from ds2f.errors import InputError
from ds2f.export.quoting import code
from ds2f.files import json_text

FORMAT = 1  # of export.json
FILE = "export.json"
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_./-]{0,99}")  # without what separates names and numbers in --input_shape
_SCRIPTS = ("infer_om.py", "compare_om.py")


@attrs.frozen(order=True)
class Shape:
    """A fixed shape of the features: utterances of a batch, and frames.

    >>> Shape(8, 621).onnx, Shape(8, 621).om
    ('model_8x621.onnx', 'model_8x621.om')
    """

    batch: int
    frames: int

    @property
    def onnx(self) -> str:
        """The name of its graph."""
        return f"model_{self.batch}x{self.frames}.onnx"

    @property
    def om(self) -> str:
        """The name of its model for the NPU, in the folder ``ascend``."""
        return f"model_{self.batch}x{self.frames}.om"


@attrs.frozen(kw_only=True)
class AscendExport:
    """What the folder depends on."""

    about: About
    shapes: tuple[Shape, ...]
    opset: int
    dtype: str  # inside the graphs: float16, float32
    inputs: tuple[str, str] = ("features", "lengths")
    outputs: tuple[str, str] = ("log_probs", "output_lengths")
    streams: tuple[tuple[str, str], ...] = ()  # graphs of streams: file name, and ATC's --input_shape
    problems: tuple[str, ...] = ()  # of the graphs, as ``ascend_limits.problems`` lists them

    def __attrs_post_init__(self) -> None:
        if not self.shapes:
            raise InputError("--shapes names no shape; ATC compiles graphs of fixed shapes, as in --shapes=1x621")
        for name in (*self.inputs, *self.outputs):
            if not _NAME.fullmatch(name):
                raise InputError(
                    f"{name!r}: an input or output of a model for Ascend has letters, digits, _ . / and - in its name, "
                    "and begins with a letter or _"
                )


def contents(export: AscendExport) -> dict[str, str]:
    """The files of the folder, text by name.

    >>> from ds2f.config import Config
    >>> about = About(Config(), "0" * 32, "an4", "best", {})
    >>> sorted(contents(AscendExport(about=about, shapes=(Shape(1, 621),), opset=13, dtype="float16")))
    ['README.md', 'atc.sh', 'compare_om.py', 'export.json', 'infer_om.py']
    """
    folder = resources.files("ds2f.export") / "scripts"
    return {
        "README.md": _page(export),
        "atc.sh": atc_script(export),
        FILE: _description(export),
        **{name: (folder / name).read_text(encoding="utf-8") for name in _SCRIPTS},
    }


def atc_script(export: AscendExport) -> str:
    """A Bash script that compiles every graph; the version of the processor is its argument."""
    bins = export.about.cfg.spect.num_bins
    features, lengths = export.inputs
    commands = [
        f"compile {shlex.quote(shape.onnx.removesuffix('.onnx'))} "
        f'{shlex.quote(f"{features}:{shape.batch},{bins},{shape.frames};{lengths}:{shape.batch}")} "$@"'
        for shape in export.shapes
    ]
    commands += [
        f'compile {shlex.quote(file.removesuffix(".onnx"))} {shlex.quote(sizes)} "$@"' for file, sizes in export.streams
    ]
    return _ATC.format(commands="\n".join(commands))


_ATC = r"""#!/usr/bin/env bash
# Compiles the ONNX graphs above this folder for an Ascend processor: NAME.onnx to NAME.om in this folder.
#
#   bash ascend/atc.sh SOC_VERSION [flags of atc]
#
# SOC_VERSION is the processor's name, as in Ascend310P3: "Ascend" and the name that npu-smi info shows.
set -euo pipefail
here="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"

if (($# < 1)) || [[ $1 == -* ]]; then
  echo "usage: bash atc.sh SOC_VERSION [flags of atc], as in: bash atc.sh Ascend310P3 (npu-smi info shows the name)" >&2
  exit 2
fi
if ! command -v atc >/dev/null; then
  echo "atc.sh: atc is not found; source CANN's set_env.sh first (/usr/local/Ascend/ascend-toolkit/set_env.sh)" >&2
  exit 1
fi
soc_version=$1
shift

compile() {{
  local name=$1 shapes=$2
  shift 2
  echo "atc.sh: $name, $shapes" >&2
  atc --framework=5 --model="$here/../$name.onnx" --output="$here/$name" --soc_version="$soc_version" \
    --input_format=ND --input_shape="$shapes" --log=error "$@"
}}

{commands}
"""


def _description(export: AscendExport) -> str:
    """``export.json``: what the scripts have to know."""
    described = {
        "format": FORMAT,
        "opset": export.opset,
        "dtype": export.dtype,
        "inputs": list(export.inputs),
        "outputs": list(export.outputs),
        "shapes": [[shape.batch, shape.frames] for shape in export.shapes],
        "metadata": to_metadata(export.about),
    }
    return json_text(described, indent=2) + "\n"


def _page(export: AscendExport) -> str:
    spect = export.about.cfg.spect
    seconds = {shape: (shape.frames - 1) * spect.stride_samples / spect.sample_rate for shape in export.shapes}
    rows = "".join(
        f"| `{shape.onnx}` | `{shape.om}` | {shape.batch} | {shape.frames:,} | {seconds[shape]:.2f} |\n"
        for shape in sorted(export.shapes)
    )
    found = "".join(f"- {code(line)}\n" for line in export.problems)
    return _README.format(
        run=code(export.about.run),
        dtype=export.dtype,
        opset=export.opset,
        lengths=export.inputs[1],
        rows=rows,
        longest=f"{max(seconds.values()):.2f}",
        streams=_STREAMS.format(files=", ".join(f"`{file}`" for file, _ in export.streams)) if export.streams else "",
        limits=f"They rule out parts of these graphs, so that ATC may refuse them:\n\n{found}"
        if found
        else "They rule out nothing in these graphs.\n",
    )


_STREAMS = """- `atc.sh` also compiles {files}: one block of streams, its state as inputs and outputs.
  No script here runs it. `ds2f/export/onnx_streaming.py` describes the inputs; `onnx_session.py` is a program that runs
  such graphs.
"""

_README = """# {run} for Ascend NPUs

The ONNX graphs above this folder have fixed shapes, {dtype} inside and opset {opset}. ATC, a program of CANN, compiles
them.

| graph | model for the NPU | utterances | frames | seconds at most |
|---|---|---|---|---|
{rows}
## Use

On a machine with CANN, an NPU and ds2f (in its source: `pip install -e .`, for the comparison
`pip install -e ".[export]"`), with this folder and the graphs beside it:

```bash
source /usr/local/Ascend/ascend-toolkit/set_env.sh
bash ascend/atc.sh Ascend310P3  # the processor's name, as npu-smi info shows it
python ascend/infer_om.py recording.wav another.flac
python ascend/infer_om.py --manifest=MANIFEST
python ascend/compare_om.py --manifest=MANIFEST
```

- `atc.sh SOC_VERSION [flags of atc]` compiles every graph.
- `infer_om.py` transcribes recordings, or evaluates a manifest. Features and greedy decoding are ds2f's. The model runs
  on the NPU through ais_bench (`InferSession`), or through pyACL (`acl`) where ais_bench is not installed. Recordings
  longer than {longest} s are cut in pauses. An utterance is padded to the shortest shape that it fits into.
- `compare_om.py` gives the same inputs to the graph (onnxruntime, on the CPU) and to the model on the NPU: cosine
  similarity, largest difference, frames with the same best label, and the error rates of both.
- `export.json` has shapes, names and the model's configuration.
{streams}
## What is not proven

No NPU and no CANN were at hand when these files were written. The scripts were run with stand-ins for ais_bench and
pyACL that compute with onnxruntime. So nobody has seen yet

- whether ATC takes these graphs, with which versions of CANN and for which processors;
- whether `{lengths}`, an integer input, and the integer output keep their types;
- how accurate float16 is on the NPU: `compare_om.py` tells;
- how fast the model is: `infer_om.py --manifest` tells.

Huawei's documents name limits of ATC. {limits}"""
