"""A training assembled as in ``launch.train``, for tests that inspect or change a trainer before it runs."""

from ds2f.runner import program, splits
from ds2f.runner.device.backend import open_backend
from ds2f.runner.distributed.collectives import ALONE
from ds2f.runner.first_state import first_state
from ds2f.runner.rank0_checkpoints import RankZeroCheckpoints
from ds2f.runner.run_dir import claim, settle
from ds2f.runner.telemetry import Telemetry
from ds2f.runner.trainer import Trainer


def claim_run(run_dir, cfg, *, flags_text=lambda _: "", log=lambda _: None, job="", **how):
    """Settles the settings, claims the folder and returns the settings."""
    cfg = settle(run_dir, cfg, job=job, **how)
    for message in claim(run_dir, cfg, flags_text, job=job):
        log(message)
    return cfg


def open_trainer(cfg, run_dir, telemetry=None, *, group=ALONE):
    """A trainer with its state restored, in a folder that is already claimed."""
    telemetry = telemetry or Telemetry(run_dir, cfg)
    data, backend = splits.read_all(cfg), open_backend(cfg.device)
    loaders = splits.load_all(data, cfg, backend, group)
    step = program.build(cfg, backend, group, steps_per_epoch=loaders["train"].steps)
    checkpoints = RankZeroCheckpoints(run_dir, cfg, group, warn=telemetry.log)
    first = first_state(step, checkpoints, run_dir=run_dir, data_digests={})
    trainer = Trainer(step, data, loaders, run_dir=run_dir, checkpoints=checkpoints, telemetry=telemetry)
    trainer.begin(first)
    return trainer


def run_training(cfg, run_dir):
    """Trains to the end, in a folder that may hold a part of the run; returns the results."""
    cfg = claim_run(run_dir, cfg)
    with Telemetry(run_dir, cfg) as telemetry:
        return open_trainer(cfg, run_dir, telemetry).run()
