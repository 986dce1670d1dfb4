"""Transcribes recordings, or evaluates a manifest, with the models that atc.sh compiled for an NPU.

    python ascend/infer_om.py recording.wav another.flac
    python ascend/infer_om.py --manifest=test.csv --output=transcripts.json

Needs ds2f, and ais_bench or CANN's pyACL (acl). Shapes and names come from export.json in this script's folder.
"""

import argparse
import sys
from pathlib import Path

from ds2f.errors import InputError
from ds2f.export import fixed_shapes, om_run
from ds2f.files import json_text, write_atomically
from ds2f.text import shown

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Prints a line for each recording, or the error rates of a manifest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recordings", nargs="*", help="audio files")
    parser.add_argument("--manifest", type=Path, help="evaluate this manifest, of any form that ds2f reads")
    parser.add_argument("--output", type=Path, help="with --manifest: write reference and transcript of each utterance")
    parser.add_argument("--device", type=int, default=0, help="number of the NPU")
    parser.add_argument("--library", choices=("auto", "ais_bench", "acl"), default="auto", help="what runs the model")
    given = parser.parse_args()
    if bool(given.recordings) == bool(given.manifest):
        parser.error("give recordings, or --manifest=FILE")
    export = fixed_shapes.read(HERE)
    failed = 0
    with om_run.npu_engine(export, HERE, device=given.device, library=given.library) as engine:
        recognizer = om_run.recognizer(export.about.cfg, engine)
        if given.manifest:
            found = om_run.evaluate(recognizer, given.manifest)
            print(*om_run.lines("om", found, engine), sep="\n")
            if given.output:
                rows = [each._asdict() for each in found.heard]
                write_atomically(given.output, json_text(rows, indent=2, ascii_only=False) + "\n")
            return 0
        for name, transcript in om_run.transcribe(recognizer, given.recordings):
            if isinstance(transcript, InputError):
                failed += 1
                print(f"infer_om.py: {shown(str(transcript))}", file=sys.stderr)
            else:
                print(f"{shown(name)}\t{shown(transcript.text)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"infer_om.py: {shown(str(error), lines=True)}")
