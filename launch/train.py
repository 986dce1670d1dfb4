"""Trains a model: python -m launch.train --flagfile=configs/an4_1p.flags --data_path=data."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ds2f.config import Config, manifest_path, splits_of
from ds2f.errors import InputError
from launch import flags, guard

if TYPE_CHECKING:
    from ds2f.runner.device.backend import Backend
    from ds2f.runner.distributed.collectives import Group
    from ds2f.runner.distributed.worker import Job
    from ds2f.runner.lease import Lease
    from ds2f.runner.splits import Split

flags.define()


def main(_: list[str]) -> int:
    """Runs the training of the flags, in this process or in the ranks that it starts. Returns the exit status."""
    cfg = flags.config_from_flags()
    run_dir = Path(cfg.run_dir or f"runs/{flags.flagfile_name() or 'train'}")
    cfg = attrs.evolve(cfg, run_dir=str(run_dir))

    from ds2f.data import manifests
    from ds2f.runner.distributed import agent, worker

    starts_ranks = cfg.nproc_per_node > 1 or cfg.node_range != (1, 1)
    if worker.is_worker(starts_ranks=starts_ranks):
        return worker.work(lambda: _train_or_explain(cfg, run_dir))
    if cfg.node_range == (1, 1):  # with several machines, the ranks check: a mistake on one ends the job on all
        for split in splits_of(cfg):
            manifests.require(manifest_path(cfg, split), cfg=cfg.data)
    if starts_ranks:
        return agent.launch(cfg, [sys.executable, "-m", "launch.train", *sys.argv[1:]])
    return _train_or_explain(cfg, run_dir)


def _train_or_explain(cfg: Config, run_dir: Path) -> int:
    """Runs ``train``; a file system that refuses ends it with a message."""
    try:
        return train(cfg, run_dir)
    except OSError as error:
        problem = guard.storage_problem(error)
        if problem is None:
            raise
        raise InputError(problem) from error


def train(cfg: Config, run_dir: Path) -> int:
    """Runs one rank: configuration, data, device and ranks, run folder, program, state, loop. Returns the exit status.

    A mistake in the command ends the rank before anything slow starts and before anything is written.
    """
    from ds2f.runner import lease, splits
    from ds2f.runner.device.backend import open_backend
    from ds2f.runner.distributed import consistency, worker
    from ds2f.runner.distributed.collectives import open_group

    data = splits.read_all(cfg)

    job = worker.job()
    backend = open_backend(cfg.device, local_rank=job.local_rank, local_ranks=job.local_ranks)
    group = open_group(
        backend.collectives, device=backend.device, timeout=cfg.collective_timeout, rdzv_timeout=cfg.rdzv_timeout
    )
    consistency.require_same_settings(group, cfg, compute=backend.policy(cfg.apex).compute)
    consistency.require(group, splits.digests(data), remedy="Give all machines the same data.")

    with lease.hold(run_dir, job=job.id) if group.rank == 0 else nullcontext() as held:
        status = _train_in(run_dir, cfg, data, backend, group, job, held)
    group.close()
    if group.rank == 0 and status == 0:
        guard.tell(f"wrote {run_dir}/results.json")
    return status


def _train_in(
    run_dir: Path,
    cfg: Config,
    data: "Mapping[str, Split]",
    backend: "Backend",
    group: "Group",
    job: "Job",
    held: "Lease | None",
) -> int:
    """Trains in a folder whose lease rank 0 holds."""
    from ds2f.runner import data_record, program, splits
    from ds2f.runner.distributed.signals import Stopped
    from ds2f.runner.rank0_checkpoints import RankZeroCheckpoints
    from ds2f.runner.run_dir import begun, claim, settle_on_rank0
    from ds2f.runner.telemetry import open_telemetry
    from ds2f.runner.trainer import Trainer

    cfg = settle_on_rank0(run_dir, cfg, group, job=job.id, restarted=job.restarts > 0)
    messages, record = [], None
    if held is not None:
        record, messages = data_record.take(data, cfg), list(held.messages)
        if begun(run_dir):
            messages += data_record.require_unchanged(run_dir, record, cfg)
    loaders = splits.load_all(data, cfg, backend, group)  # forks, so before jax, kernel timing and heartbeats
    if held is not None:
        held.keep()
    steps = loaders["train"].steps
    cfg = program.resolve_kernel(cfg, backend, group, steps_per_epoch=steps)
    if record is not None:
        messages += claim(run_dir, cfg, flags.flagfile_text, job=job.id) + data_record.write(run_dir, record)

    with open_telemetry(run_dir, cfg, rank=group.rank) as telemetry:
        for message in messages:
            telemetry.log(message)
        step = program.build(cfg, backend, group, steps_per_epoch=steps)
        require_lease = held.require if held is not None else lambda: None
        checkpoints = RankZeroCheckpoints(run_dir, cfg, group, warn=telemetry.log, require_lease=require_lease)
        trainer = Trainer(
            step,
            data,
            loaders,
            run_dir=run_dir,
            checkpoints=checkpoints,
            telemetry=telemetry,
            data_digests=record.digests() if record is not None else {},
        )
        status = 0
        try:
            trainer.restore()
            trainer.run()
        except Stopped as stopped:
            if group.rank == 0:
                telemetry.log(str(stopped))
            status = stopped.status
        finally:
            checkpoints.close()  # the lease outlasts the writing of a checkpoint
    return status


if __name__ == "__main__":
    flags.run(main, output_matters=False)
