"""Transcribes recordings: python -m launch.transcribe --run_dir=runs/an4_1p FILE..."""

from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.text import shown
from launch import decoding, flags, guard

flags.define(only=("run_dir", "device", "apex", "data.max_recording_seconds"))
decoding.define()
decoding.define_which()


def main(arguments: list[str]) -> int:
    """Prints a line per recording: path, tab, text. A recording that cannot be read is reported and skipped.

    Tabs, line breaks and other characters that act on a terminal are escaped in both columns.
    """
    run_dir, files = decoding.run_dir(), arguments[1:]
    if not files:
        raise InputError("no recordings given: python -m launch.transcribe --run_dir=RUN FILE...")

    from ds2f.checkpoint import load_config, load_model
    from ds2f.inference.transcriber import Transcriber
    from ds2f.runner.device.backend import open_backend

    cfg = flags.config_from_flags(load_config(run_dir))
    decoder = decoding.decoder(cfg.model.labels)
    params, stats = load_model(run_dir, which=absl_flags.FLAGS.which, warn=guard.tell)[1:]
    transcriber = Transcriber(cfg, params, stats, backend=open_backend(cfg.device), decoder=decoder)
    failed = 0
    for file in files:
        try:
            print(f"{shown(file)}\t{shown(transcriber.transcribe(file).text)}", flush=True)
        except InputError as error:
            failed += 1
            guard.tell(f"transcribe: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    flags.run(main, positional=True)
