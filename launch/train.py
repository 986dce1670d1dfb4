"""Trains a model: python -m launch.train --flagfile=configs/an4_1p.flags --data_path=data."""

import sys
from pathlib import Path

import attrs

from launch import flags

flags.define()


def main(_: list[str]) -> int:
    """Runs the training that the flags describe and prints its results."""
    cfg = flags.config_from_flags()
    run_dir = Path(cfg.run_dir or f"runs/{flags.flagfile_name() or 'train'}")
    cfg = attrs.evolve(cfg, run_dir=str(run_dir))

    from ds2f.runner.telemetry import Telemetry, claim_run_dir
    from ds2f.runner.trainer import Stopped, Trainer

    claim_run_dir(run_dir, cfg, flags.flagfile_text(cfg))
    with Telemetry(run_dir, cfg) as telemetry:
        try:
            Trainer(cfg, run_dir, telemetry).run()
        except Stopped as stopped:
            telemetry.say(str(stopped))
            return 130
    print(f"wrote {run_dir}/results.json", file=sys.stderr)
    return 0


if __name__ == "__main__":
    flags.run(main)
