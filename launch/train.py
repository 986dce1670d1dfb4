"""Trains a model: python -m launch.train --flagfile=configs/an4_1p.flags --data_path=data."""

import sys
from pathlib import Path

import attrs

from ds2f.config import Config
from launch import flags

flags.define()


def main(_: list[str]) -> int:
    """Runs the training that the flags describe, in this process or in those that it starts."""
    cfg = flags.config_from_flags()
    run_dir = Path(cfg.run_dir or f"runs/{flags.flagfile_name() or 'train'}")
    cfg = attrs.evolve(cfg, run_dir=str(run_dir))

    from ds2f.runner.distributed import agent, worker

    starts_ranks = cfg.nproc_per_node > 1 or cfg.node_range != (1, 1)
    if worker.is_worker(starts_ranks=starts_ranks):
        return worker.work(lambda: train(cfg, run_dir))
    if starts_ranks:
        return agent.launch(cfg, [sys.executable, "-m", "launch.train", *sys.argv[1:]])
    return train(cfg, run_dir)


def train(cfg: Config, run_dir: Path) -> int:
    """Runs one rank of the training and prints its results."""
    from ds2f.runner.device import autotune
    from ds2f.runner.device.backend import open_backend
    from ds2f.runner.distributed import worker
    from ds2f.runner.distributed.collectives import open_group
    from ds2f.runner.distributed.signals import Stopped
    from ds2f.runner.run_dir import claim_run_dir
    from ds2f.runner.telemetry import BufferedTelemetry, Telemetry
    from ds2f.runner.trainer import Trainer

    job = worker.job()
    backend = open_backend(cfg.device, local_rank=job.local_rank, local_ranks=job.local_ranks)
    group = open_group(
        backend.collectives, device=backend.device, timeout=cfg.collective_timeout, rdzv_timeout=cfg.rdzv_timeout
    )

    def kernel(cfg: Config) -> str:
        dtype = backend.policy(cfg.apex).compute
        return autotune.choose(cfg.model, batch_size=cfg.data.batch_size, dtype=dtype, backend=backend)

    remarks: list[str] = []
    if group.rank == 0:
        cfg = claim_run_dir(
            run_dir,
            cfg,
            flags.flagfile_text,
            say=remarks.append,
            ranks=group.size,
            job=job.id,
            restarted=job.restarts > 0,
            choose_kernel=kernel,
        )
    root = group.gather(cfg)[0]  # rank 0 knows what the run's folder held, and has chosen for all
    cfg = attrs.evolve(
        cfg,
        model=attrs.evolve(cfg.model, kernel=root.model.kernel),
        data=attrs.evolve(cfg.data, global_batch_size=root.data.global_batch_size),
        checkpointing=root.checkpointing,
    )
    status = 0
    with Telemetry(run_dir, cfg) if group.rank == 0 else BufferedTelemetry() as telemetry:
        for remark in remarks:
            telemetry.say(remark)
        try:
            Trainer(cfg, run_dir, telemetry, group=group, backend=backend).run()
        except Stopped as stopped:
            if group.rank == 0:
                telemetry.say(str(stopped))
            status = stopped.status
    group.close()
    if group.rank == 0 and status == 0:
        print(f"wrote {run_dir}/results.json", file=sys.stderr)
    return status


if __name__ == "__main__":
    flags.run(main)
