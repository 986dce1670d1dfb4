"""Compares the graphs of ONNX (onnxruntime, on the CPU) with the models that atc.sh compiled for an NPU.

    python ascend/compare_om.py --manifest=test.csv

Both get the same features of every utterance of the manifest. Needs ds2f with onnxruntime (pip install 'ds2f[export]'),
and ais_bench or CANN's pyACL (acl). Shapes and names come from export.json in this script's folder.
"""

import argparse
import sys
from pathlib import Path

from ds2f.errors import InputError
from ds2f.export import fixed_shapes, om_run
from ds2f.export.agreement import Twins
from ds2f.files import json_text, write_atomically
from ds2f.text import shown

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Prints how far both agree; the exit status is 1 if fewer frames agree than --least."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--manifest", type=Path, required=True, help="a manifest of any form that ds2f reads")
    parser.add_argument("--output", type=Path, help="also write the numbers to this file, as JSON")
    parser.add_argument("--least", type=float, default=99.0, help="percent of frames with the same best label")
    parser.add_argument("--device", type=int, default=0, help="number of the NPU")
    parser.add_argument("--library", choices=("auto", "ais_bench", "acl"), default="auto", help="what runs the model")
    given = parser.parse_args()
    export = fixed_shapes.read(HERE)
    cfg, graphs = export.about.cfg, om_run.cpu_engine(export, HERE)
    with om_run.npu_engine(export, HERE, device=given.device, library=given.library) as models:
        twins = Twins(graphs, models)
        onnx = om_run.evaluate(om_run.recognizer(cfg, twins), given.manifest)
        om = om_run.evaluate(om_run.recognizer(cfg, models), given.manifest)
    found = twins.found
    same = 100 * found.same / max(found.frames, 1)
    print(f"{found.utterances:,} pieces, {found.frames:,} frames: the same best label in {same:.3f} %")
    print(f"cosine similarity {found.cosine:.6f}, of the least similar piece {found.lowest:.6f}")
    print(f"largest difference of a log-probability {found.largest:.4f}")
    if found.broken:
        print(f"{found.broken:,} frames of the NPU have values that are not finite: float16 overflows there")
    texts = sum(mine.text == theirs.text for mine, theirs in zip(onnx.heard, om.heard, strict=True))
    print(f"{texts:,} of {len(om.heard):,} transcripts are equal")
    print(*om_run.lines("onnx", onnx, graphs), *om_run.lines("om", om, models), sep="\n")
    if given.output:
        numbers = found._asdict() | {"cosine": found.cosine, "same_percent": same, "equal_transcripts": texts}
        rates = {
            name: {"wer": each.counts.wer, "cer": each.counts.cer, **each.counts._asdict()}
            for name, each in (("onnx", onnx), ("om", om))
        }
        write_atomically(given.output, json_text(numbers | rates, indent=2) + "\n")
    return 0 if same >= given.least else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"compare_om.py: {shown(str(error), lines=True)}")
