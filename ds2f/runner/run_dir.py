"""The folder of a run: who may use it, and the settings that it is written with."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import attrs

from ds2f import config
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.files import write_atomically


def claim_run_dir(
    run_dir: Path,
    cfg: Config,
    flags_text: Callable[[Config], str],
    *,
    say: Callable[[str], None] = lambda _: None,
    ranks: int = 1,
    job: str = "",
    restarted: bool = False,
    choose_kernel: Callable[[Config], str] = lambda cfg: cfg.model.kernel,
) -> Config:
    """Makes the run's folder and writes its settings: the first thing that a run does, on rank 0 alone.

    Args:
      run_dir: the folder; it may exist, but a run that it holds is only continued when
        ``checkpointing.load_auto_checkpoint`` is set, or when the same job wrote it.
      cfg: the settings.
      flags_text: makes a flagfile that repeats a run, written to ``flags.txt``.
      say: told which flags a continued run began with other values of.
      ranks: how many there are.
      job: a name that all starts of one job share; empty when there is none.
      restarted: whether this start follows another one of the same job.
      choose_kernel: finds what ``model.kernel=auto`` means; a continued run keeps its kernel, and with it its bits.

    Returns:
      The settings as written to ``config.json``: with the recurrent kernel, with the global batch, which a continued
      run keeps whatever the number of ranks, and with ``checkpointing.load_auto_checkpoint`` where the job has been
      here before.

    Raises:
      InputError: when the folder holds another run, cannot be written, or holds a run of another model or global batch.
    """
    stored, metrics, claim = run_dir / "config.json", run_dir / "metrics.jsonl", run_dir / "job.txt"
    same_job = restarted or bool(job and claim.exists() and claim.read_text(encoding="utf-8") == job)
    if same_job:
        cfg = attrs.evolve(cfg, checkpointing=attrs.evolve(cfg.checkpointing, load_auto_checkpoint=True))
    begun = metrics.exists() and metrics.stat().st_size > 0  # a run that failed before its first step is no run
    if begun and not cfg.checkpointing.load_auto_checkpoint:
        raise InputError(
            f"{run_dir} already holds a run. Go on with it: --checkpointing.load_auto_checkpoint. "
            "Start another: --run_dir=OTHER (or remove the folder)."
        )
    global_batch = cfg.data.global_batch_size or cfg.data.batch_size * ranks
    before = config.load(stored) if cfg.checkpointing.load_auto_checkpoint and stored.exists() else None
    if before is not None:
        if cfg.model.kernel == "auto":
            cfg = _with_kernel(cfg, before.model.kernel)
        if begun:
            _require_same_run(run_dir, before, cfg)
        if begun or same_job:
            global_batch = before.data.global_batch_size or global_batch
    cfg = attrs.evolve(cfg, data=attrs.evolve(cfg.data, global_batch_size=global_batch))
    cfg = _with_kernel(cfg, choose_kernel(cfg))
    if begun and before is not None:
        _tell_changes(run_dir, flags_text(before), flags_text(cfg), say)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(stored, json.dumps(config.to_dict(cfg), indent=2) + "\n")
        write_atomically(run_dir / "flags.txt", flags_text(cfg))
        if job:
            write_atomically(claim, job)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"--run_dir={run_dir} cannot be written: {error}. Give another folder.") from error
    return cfg


def _with_kernel(cfg: Config, kernel: str) -> Config:
    return attrs.evolve(cfg, model=attrs.evolve(cfg.model, kernel=kernel))


def _require_same_run(run_dir: Path, before: Config, cfg: Config) -> None:
    changed = [
        f"model.{name}"
        for name, value in attrs.asdict(cfg.model).items()
        if value != getattr(before.model, name)
        and name != "remat"  # which changes no number, and fits a run into less memory
    ]
    if changed:
        raise InputError(
            f"{run_dir} holds a run of another model ({', '.join(changed)} differ). "
            f"Use --flagfile={run_dir / 'flags.txt'}, or another --run_dir."
        )
    kept_settings = [
        *(("data", name) for name in ("train_on_val", "max_frames")),  # with either, an epoch has other steps
        *(("spect", name) for name in attrs.asdict(cfg.spect)),  # what the model and its best checkpoint have heard
        ("training", "seed"),
        ("checkpointing", "folder"),  # where the checkpoints are that it goes on from
    ]
    for section, name in kept_settings:
        was, asked = (getattr(getattr(each, section), name) for each in (before, cfg))
        if asked != was:
            raise InputError(
                f"{run_dir} holds a run with {section}.{name} = {was!r}, which cannot become {asked!r} in the middle. "
                f"Use --flagfile={run_dir / 'flags.txt'}, or another --run_dir."
            )
    kept = before.data.global_batch_size
    if cfg.data.global_batch_size not in (0, kept):
        raise InputError(
            f"{run_dir} holds a run whose global batch is {kept}; --data.global_batch_size="
            f"{cfg.data.global_batch_size} would change it in the middle. Leave the flag out, or use another --run_dir."
        )


def _tell_changes(run_dir: Path, before: str, now: str, say: Callable[[str], None]) -> None:
    """Names every flag that has another value, but the one that makes a run go on."""
    pairs = zip(before.splitlines(), now.splitlines(), strict=True)
    changed = [
        f"{new} (was {old.partition('=')[2] or 'empty'})"
        for old, new in pairs
        if new != old and "load_auto_checkpoint" not in new
    ]
    if changed:
        say(f"{run_dir} goes on with other flags than before: {', '.join(changed)}")
