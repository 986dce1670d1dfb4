"""Trains a model: python -m launch.train --flagfile=configs/an4_1p.flags --data_path=data."""

import gc
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds2f.config import Config, splits_of
from ds2f.errors import InputError
from ds2f.runner.start_times import mark
from launch import flagfiles, flags, guard, next_steps

if TYPE_CHECKING:
    from ds2f.data.loading import Loader
    from ds2f.runner.device.backend import Backend
    from ds2f.runner.distributed.collectives import Group
    from ds2f.runner.distributed.worker import Job
    from ds2f.runner.run_lease import RunLease
    from ds2f.runner.splits import Split
    from ds2f.runner.telemetry import Telemetry

flags.define()


def main(_: list[str]) -> int:
    """Runs the training of the flags, in this process or in the ranks that it starts. Returns the exit status."""
    mark("interpreter, flags")
    gc.disable()  # until the loaders start: it takes a seventh of the time of the imports
    cfg = flags.config_from_flags(run_dir=f"runs/{flagfiles.last_name(sys.argv[1:]) or 'train'}")
    run_dir = Path(cfg.run_dir)

    from ds2f.data import manifests

    # With several machines, the ranks check: a mistake on one ends the job on all.
    if cfg.node_range == (1, 1) and "RANK" not in os.environ:
        manifests.require(cfg, splits_of(cfg))  # before torch is imported
    mark("look at the manifests")

    import torch  # noqa: F401  # by itself, so that its time is known

    mark("import of torch")

    from ds2f import checkpoint
    from ds2f.runner.device.backend import require_devices
    from ds2f.runner.distributed import agent, worker

    if worker.is_worker(starts_ranks=cfg.starts_ranks):
        return worker.work(lambda: _train_or_explain(cfg, run_dir))
    if cfg.starts_ranks:
        gc.enable()
        if cfg.node_range == (1, 1):
            require_devices(cfg.device, cfg.nproc_per_node)
        command = [sys.executable, "-m", "launch.train", *sys.argv[1:]]
        newest = partial(checkpoint.newest_iteration, run_dir, folder=cfg.checkpointing.folder)
        return agent.launch(cfg, command, newest=newest)
    return _train_or_explain(cfg, run_dir)


def _train_or_explain(cfg: Config, run_dir: Path) -> int:
    """Runs ``train``; a file system that refuses, or a want of memory, ends it with a message."""
    from ds2f.runner import memory_check

    try:
        return train(cfg, run_dir)
    except (MemoryError, RuntimeError, OSError) as error:
        problem = memory_check.explain(error)
        if problem is None and isinstance(error, OSError):
            problem = guard.storage_problem(error)
        if problem is None:
            raise
        raise InputError(problem) from error


def train(cfg: Config, run_dir: Path) -> int:
    """Runs one rank: configuration, data, device and ranks, run folder, program, state, loop. Returns the exit status.

    A mistake in the command ends the rank before anything slow starts and before anything is written.
    """
    from ds2f.runner import run_lease, splits
    from ds2f.runner.device import examination
    from ds2f.runner.device.backend import open_backend
    from ds2f.runner.distributed import consistency, worker
    from ds2f.runner.distributed.collectives import open_group

    mark("other imports")
    data = splits.read_all(cfg)
    mark("manifests, headers")

    job = worker.job()
    backend = open_backend(cfg.device, local_rank=job.local_rank, local_ranks=job.local_ranks)
    group = open_group(
        backend.collectives, device=backend.device, timeout=cfg.collective_timeout, rdzv_timeout=cfg.rdzv_timeout
    )
    consistency.require_same_settings(group, cfg, compute=backend.policy(cfg.apex).compute)
    consistency.require(group, splits.digests(data), remedy="Give all machines the same data.")

    mark("device, ranks")

    if group.rank == 0 and (remark := examination.remark(backend)):
        guard.tell(remark)
    with run_lease.hold(run_dir, cfg, job=job.id) if group.rank == 0 else nullcontext() as held:
        status = _train_in(run_dir, cfg, data, backend, group, job, held)
    group.close()
    return status


def _train_in(
    run_dir: Path,
    cfg: Config,
    data: "Mapping[str, Split]",
    backend: "Backend",
    group: "Group",
    job: "Job",
    held: "RunLease | None",
) -> int:
    """Trains in a folder whose lease rank 0 holds. Nothing is written to the folder before all is found good."""
    from ds2f.runner import data_record, program, splits
    from ds2f.runner.distributed.signals import Stopped
    from ds2f.runner.first_state import first_state
    from ds2f.runner.rank0_checkpoints import RankZeroCheckpoints
    from ds2f.runner.run_dir import begun, claim, left_as_it_was, settle_on_rank0, texts
    from ds2f.runner.run_files import RunFiles
    from ds2f.runner.telemetry import EarlyMessages, open_telemetry
    from ds2f.runner.trainer import Trainer

    cfg = settle_on_rank0(run_dir, cfg, group, job=job.id, restarted=job.restarts > 0)
    data, cfg = splits.with_statistics(data, cfg, group)
    messages, record, files = [], None, RunFiles(run_dir)
    if held is not None:
        record, messages = data_record.take(data, cfg), list(held.messages)
        if begun(run_dir):
            messages += data_record.require_unchanged(run_dir, record, cfg)
    cfg, loading, remarks = _fitted(cfg, data, backend, group, job)
    digests = record.digests() if record is not None else {}
    loaders = _start_loaders(data, loading, backend, group)
    if held is not None:
        messages += remarks
        held.keep()
    cfg = program.resolve_kernel(cfg, backend, group, steps_per_epoch=(steps := loaders["train"].steps))

    warn = EarlyMessages()
    require_lease = held.require if held is not None else lambda: None
    checkpoints = RankZeroCheckpoints(run_dir, cfg, group, warn=warn, require_lease=require_lease)
    try:
        step = program.build(cfg, backend, group, steps_per_epoch=steps)
        first = first_state(step, checkpoints, run_dir=run_dir, data_digests=digests)
        mark("program, first state")
        with left_as_it_was(run_dir) if held is not None else nullcontext():
            checkpoints.prove(wait=not first.is_fresh)  # orbax is there if a checkpoint was read
            if record is not None:
                messages += claim(run_dir, cfg, flags.flagfile_text, job=job.id) + data_record.write(run_dir, record)
                files.know(texts(cfg, flags.flagfile_text, job=job.id))
                files.know({data_record.FILE: partial(data_record.text, record)})
            with open_telemetry(run_dir, cfg, rank=group.rank, files=files) as telemetry:
                for message in messages:
                    telemetry.log(message)
                warn.pass_on(telemetry.log)
                if held is not None and first.is_fresh:
                    _show_spectrogram(data.get("val", data["train"]), cfg, telemetry)
                mark("files of the run")
                trainer = Trainer(
                    step,
                    data,
                    loaders,
                    run_dir=run_dir,
                    checkpoints=checkpoints,
                    telemetry=telemetry,
                    data_digests=digests,
                )
                try:
                    trainer.begin(first)
                    trainer.run()
                except Stopped as stopped:
                    if group.rank == 0:
                        telemetry.log(str(stopped))
                        _write_report(run_dir, telemetry.log, quick=True)
                    return stopped.status
                if group.rank == 0:
                    guard.tell(f"wrote {run_dir}/results.json")
                    _write_report(run_dir, telemetry.log, splits=data)
                    guard.tell(next_steps.after_training(run_dir))
    finally:
        for loader in loaders.values():
            loader.close()  # its death would end another wait
        checkpoints.close()  # the lease outlasts the writing of a checkpoint
    return 0


def _fitted(
    cfg: Config, data: "Mapping[str, Split]", backend: "Backend", group: "Group", job: "Job"
) -> tuple[Config, Config, list[str]]:
    """The settings with a kernel that fits into memory, those of the loaders, and what was decided."""
    from ds2f.runner import memory_check, splits

    fitting = memory_check.with_lean_kernel(cfg, data, backend, group, job)
    memory_check.require(fitting, data, backend, group, job)
    loading = splits.with_useful_loaders(fitting, backend, local_ranks=job.local_ranks)
    remarks = []
    if fitting is not cfg:
        remarks.append(f"the recurrent kernel is {fitting.model.kernel}, for want of memory")
    if loading is not fitting:
        remarks.append(f"loader processes: {loading.data.num_workers} a rank, all that the processors here can use")
    return fitting, loading, remarks


def _start_loaders(data: "Mapping[str, Split]", cfg: Config, backend: "Backend", group: "Group") -> "dict[str, Loader]":
    """Starts the loader processes. On a CPU they are forked: before jax, kernel timing and heartbeats."""
    from ds2f.runner import splits

    mark("run folder, record of the data")
    gc.freeze()  # the loader processes share what there is: a collection would write to its pages
    gc.enable()
    loaders = splits.load_all(data, cfg, backend, group)
    mark("loader processes")
    return loaders


def _show_spectrogram(split: "Split", cfg: Config, telemetry: "Telemetry") -> None:
    """Shows what the model sees of the first utterance, where the run is shown."""
    if cfg.visualization.tensorboard or cfg.visualization.wandb or cfg.visualization.mlflow:

        def draw() -> bytes:
            from launch import spectrogram_picture

            return spectrogram_picture.of_utterance(split)

        telemetry.picture("spectrogram", draw)


def _write_report(run_dir: Path, log: Callable[[str], None], **how: Any) -> None:
    """Writes the page of the run; a page that cannot be written is a line of the log, and fails nothing."""
    try:
        from launch.report.run_page import run_report

        guard.tell(f"wrote {run_report.write(run_dir, **how)}")
    except Exception as error:  # noqa: BLE001  # a page of numbers must not cost a training its exit status
        cause = error if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        log(f"the page of the run is not written: {cause}")


if __name__ == "__main__":
    flags.run(main, output_matters=False)
